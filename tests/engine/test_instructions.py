"""What a packet costs in instructions, counted by callgrind, is what ``instructions.json`` says.

Times depend on the machine and on who else uses it; instructions do not. A change that makes
the engine dearer, or cheaper, is seen here and is to be meant: then write the file anew with
``python -m tests.engine.test_instructions``.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
KEPT = HERE / "instructions.json"
PACKETS = 200 * 64
TOLERANCE = 0.02
OTHER_COMPILER = 0.35
"""Another gcc writes other loops; what is caught then is a lost fast path."""

needs_valgrind = pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("valgrind"), reason="valgrind on x86-64"
)


def compiler() -> str:
    """The major version of gcc."""
    told = subprocess.run(["gcc", "-dumpversion"], check=True, capture_output=True, text=True)
    return told.stdout.split(".")[0].strip()


def counted(directory: Path) -> dict[str, float]:
    """Instructions per packet of every loop, source and sink taken off."""
    built = directory / "instructions"
    source = str(HERE / "instructions.c")
    engine = str(HERE.parents[1] / "src" / "fastmip" / "engine")
    subprocess.run(["gcc", "-O3", "-I", engine, source, "-o", built, "-lpthread"], check=True)
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=out", str(built)]
    done = subprocess.run(command, cwd=directory, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    totals = {}
    for dump in directory.glob("out.*"):
        text = dump.read_text()
        [name] = re.findall(r"^desc: Trigger: Client Request: (.*)$", text, re.M)
        [total] = re.findall(r"^totals: (\d+)$", text, re.M)
        totals[name] = int(total)
    return {
        name: round((total - totals.get(f"{name} empty", 0)) / PACKETS, 1)
        for name, total in sorted(totals.items())
        if not name.endswith(" empty")
    }


def changed(found: dict[str, float], kept: dict[str, float], tolerance: float) -> dict[str, str]:
    """Loops whose cost is another one, or that came or went."""
    return {
        name: f"{kept.get(name)} -> {found.get(name)}"
        for name in found.keys() | kept.keys()
        if abs(found.get(name, 0) - kept.get(name, 0)) > tolerance * kept.get(name, 0)
    }


@needs_valgrind
def test_a_packet_costs_the_instructions_it_did(tmp_path: Path) -> None:
    kept = json.loads(KEPT.read_text())
    tolerance = TOLERANCE if kept["gcc"] == compiler() else OTHER_COMPILER
    assert changed(counted(tmp_path), kept["instructions_per_packet"], tolerance) == {}


def test_the_comparison_can_fail() -> None:
    kept = {"encap": 222.0, "lookup": 37.7}
    assert changed({"encap": 226.0, "lookup": 37.7}, kept, TOLERANCE) == {}
    assert set(changed({"encap": 230.0, "lookup": 30.0}, kept, TOLERANCE)) == {"encap", "lookup"}
    assert set(changed({"encap": 222.0}, kept, TOLERANCE)) == {"lookup"}
    assert set(changed(kept | {"more": 1.0}, kept, TOLERANCE)) == {"more"}


def main() -> None:
    """Write the file anew."""
    with tempfile.TemporaryDirectory() as directory:
        document = {"gcc": compiler(), "instructions_per_packet": counted(Path(directory))}
    KEPT.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
