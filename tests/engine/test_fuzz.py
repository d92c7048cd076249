"""The engine's headers under fuzzing with sanitizers, bounded; and proof that it can fail."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from fuzz.engine import COMMON, ROOT, commands, environment


@pytest.mark.fuzz
def test_engine_holds_its_invariant_for_a_while() -> None:
    printed = ""
    for command in commands(seconds=6, seed=20260101):
        run = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment()
        )
        assert run.returncode == 0, run.stderr[-4000:]
        printed += run.stdout
    found = re.search(r"(\d+) inputs, (\d+) verdicts seen", printed)
    assert found is not None, printed
    assert int(found[1]) > 10_000
    assert int(found[2]) > 30  # the mutations reach nearly every outcome


@pytest.mark.fuzz
def test_the_target_notices_a_read_past_the_frame(tmp_path: Path) -> None:
    headers = tmp_path / "engine"
    sources = [str(ROOT / "src/fastmip" / room) for room in ("engine", "bpf")]
    subprocess.run(["cp", "-r", *sources, str(tmp_path)], check=True)
    broken = (headers / "fast.h").read_text()
    careless = broken.replace("d->len < IPV4_MIN_HEADER_LEN", "d->len < 8")
    assert careless != broken
    (headers / "fast.h").write_text(careless)
    built = tmp_path / "engine_standalone"
    flags = [flag for flag in COMMON if "src/fastmip/engine" not in flag]
    flags += [str(headers), "-fsanitize=address,undefined", "-DFUZZ_STANDALONE"]
    compiler = ["gcc", *flags, str(ROOT / "fuzz/engine.c"), "-o", str(built)]
    subprocess.run(compiler, check=True, env=environment())
    run = subprocess.run(
        [str(built), "20"], capture_output=True, text=True, check=False, env=environment()
    )
    assert run.returncode != 0
    assert "heap-buffer-overflow" in run.stderr
