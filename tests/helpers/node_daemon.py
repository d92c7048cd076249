"""The mobile node's daemon in the namespace ``away`` of a home agent lab."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.helpers import handmade
from tests.helpers.home_agent_lab import HOME_ADDRESS, HOME_AGENT, RUN, SOURCE, HomeAgentLab


@contextmanager
def node_daemon(lab: HomeAgentLab, *settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run it with more lines of its table; ended at the end."""
    file, lines = lab.folder / "mobile.toml", "\n".join(settings)
    file.touch(0o600)
    file.write_text(
        f"""
        [daemon]
        state_dir = "{lab.folder}/mobile"
        control_socket = "{lab.folder}/mobile.sock"
        [mobile_node]
        home_address = "{HOME_ADDRESS}"
        home_network = "10.1.0.0/24"
        home_agent = "{HOME_AGENT}"
        interfaces = ["eth0"]
        {lines}
        [mobile_node.association]
        spi = {handmade.SPI}
        key = "{handmade.KEY.hex()}"
        """
    )
    command = ["ip", "netns", "exec", lab.net.full("away"), sys.executable, "-c", RUN, str(file)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    with (lab.folder / "mobile.log").open("wb") as log:
        daemon = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        yield daemon
    finally:
        daemon.terminate()
        daemon.wait(20)
