"""A daemon as deployed: configured by ``fastmip init``, with the unit's three capabilities."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.helpers.namespaces import Namespaces
from tests.helpers.waiting import wait_until

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}
FASTMIP = [
    sys.executable,
    "-c",
    "from fastmip.runtime.cli.main import main; main(prog_name='fastmip')",
]
CAPABILITIES = "-all,+net_admin,+net_raw,+net_bind_service"
"""Those of deploy/fastmip.service."""
CONFINED = [
    *("setpriv", f"--bounding-set={CAPABILITIES}", f"--inh-caps={CAPABILITIES}"),
    *(f"--ambient-caps={CAPABILITIES}", "--no-new-privs"),
]
START_S = 30


def init_pair(directory: Path, *options: str) -> str:
    """Write a pair of configurations with directories of their own; return the key."""
    words = [*FASTMIP, "init", str(directory), *options]
    subprocess.run(words, env=ENVIRONMENT, check=True, capture_output=True, timeout=60)
    for name in ("home-agent", "mobile-node"):
        config = directory / f"{name}.toml"
        text = config.read_text().replace("/var/lib/fastmip", str(directory / name / "state"))
        config.write_text(text.replace("/run/fastmip", str(directory / name)))
    return (directory / "10.1.0.5.key").read_text().strip()


def documented_fields(command: str) -> set[str]:
    """Fields of a command's rows by the table in docs/cli.md."""
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    [cell] = re.findall(rf"^\| [^|]*`{command}`[^|]* \| (`[^|]*) \| [^|]*\|$", text, re.M)
    return set(re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", cell)))


class Deployed:
    """One running daemon and its command line; a context manager that ends it."""

    def __init__(self, namespaces: Namespaces, where: str, config: Path, key: str) -> None:
        """Start it in a namespace; wait until its control socket is there."""
        self.config = config
        self.key = key
        self.log = config.with_suffix(".log")
        self._inside = ["ip", "netns", "exec", namespaces.full(where)]
        socket_path = config.with_suffix("") / "control.sock"
        self.environment = {**ENVIRONMENT, "FASTMIP_SOCKET": str(socket_path)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*self._inside, *CONFINED, *FASTMIP, "run", str(config)],
                stdout=log,
                stderr=log,
                env=self.environment,
            )
        try:
            wait_until(
                lambda: socket_path.is_socket() or self.process.poll() is not None,
                START_S,
                f"the control socket of {config.stem}",
            )
            assert self.process.poll() is None, self.log.read_text()
        except BaseException:
            self._kill()
            raise

    def __enter__(self) -> Self:
        """Return the running daemon."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it; a stop that is not clean, or a key in the log, fails the test."""
        try:
            self.process.terminate()
            code = self.process.wait(30)
        finally:
            self._kill()
        if error is None:
            assert code == 0, self.log.read_text()
            assert self.key not in self.log.read_text()

    def _kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command line inside the daemon's namespace; no output may show the key."""
        done = subprocess.run(
            [*self._inside, *FASTMIP, *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert self.key not in done.stdout + done.stderr
        return done

    def ask(self, *words: str, code: int = 0) -> str:
        """Run a command and expect an exit code; return all it printed."""
        done = self.run(*words)
        output = done.stdout + done.stderr
        assert done.returncode == code, f"{words}: {output}\n{self.log.read_text()}"
        return output

    def document(self, *words: str) -> dict[str, Any]:
        """Run a command with ``--json`` and return the document."""
        found: dict[str, Any] = json.loads(self.ask(*words, "--json"))
        assert found["schema"] == 1
        assert found["command"] == " ".join(words)
        return found
