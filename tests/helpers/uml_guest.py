"""A second kernel for tests: Linux in user mode (Debian's user-mode-linux), driven by lines.

Its own ip_gre and ipip devices are peers nobody here wrote. The guest sees the host's files,
read-only, and one Ethernet link: a tap device in a namespace of the test. Booting takes seconds.

    guest = UmlGuest(lab, "ha", "t0")
    guest.run("ip addr add 10.3.0.5/24 dev eth0")
    guest.close()
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tests.helpers.namespaces import Namespaces

_MODULES = Path("/usr/lib/uml/modules")
_READY = "GUEST-READY"
_DONE = "GUEST-DONE"
_INIT = f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
stty -echo raw
modprobe -d ROOT -a ipip ip_gre || exit 1
for scope in all default; do echo 1 >/proc/sys/net/ipv6/conf/$scope/disable_ipv6; done
ip link set lo up
ip link set vec0 name eth0
ip link set eth0 up
echo {_READY}
while read -r line; do
    sh -c "$line" </dev/null 2>&1
    echo "{_DONE} $?"
done
"""


class UmlGuest:
    """A running guest; ``close`` ends all of its processes."""

    def __init__(self, lab: Namespaces, name: str, tap: str) -> None:
        """Make the tap device in namespace ``name``, up but without an address, and boot."""
        self._directory = tempfile.TemporaryDirectory(prefix="fmt-uml-")
        root = Path(self._directory.name)
        (root / "lib").mkdir()
        (root / "lib/modules").symlink_to(_MODULES)
        init = root / "init"
        init.write_text(_INIT.replace("ROOT", str(root)))
        init.chmod(0o755)
        lab.ip(name, "tuntap", "add", tap, "mode", "tap")
        lab.ip(name, "link", "set", tap, "up")
        self._process = subprocess.Popen(
            [
                *("ip", "netns", "exec", lab.full(name), "linux.uml", "mem=256M", "quiet", "ro"),
                *("root=/dev/root", "rootfstype=hostfs", "rootflags=/", f"init={init}"),
                *("con=null", "con0=fd:0,fd:1", f"uml_dir={root}/", "umid=guest"),
                f"vec0:transport=tap,ifname={tap},gro=1",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._output = b""
        try:
            self._read_until(_READY, 30)
        except BaseException:
            self.close()
            raise

    def run(self, command: str, *, check: bool = True, timeout_s: float = 20) -> str:
        """One line of shell in the guest: what it prints."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()
        text = self._read_until(_DONE, timeout_s)
        status = int(self._read_until("\n", timeout_s))
        if check and status:
            raise AssertionError(f"guest: {command}: {text}")
        return text

    def _read_until(self, mark: str, timeout_s: float) -> str:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while mark.encode() not in self._output:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self._process.stdout], [], [], max(left, 0))
            more = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not more:
                raise AssertionError(f"guest: no {mark!r} after {self._output.decode()!r}")
            self._output += more
        text, _, self._output = self._output.partition(mark.encode())
        return text.decode()

    def close(self) -> None:
        """End the guest, which is several processes."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._directory.cleanup()
