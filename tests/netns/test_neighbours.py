"""Packets that wait for a neighbour of a link that was left do not hold a connection up."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from tests.helpers.waiting import wait_until

from fastmip.runtime.demo.lab import HOME, VISITED_A, Lab
from fastmip.runtime.neighbours import unanswered

pytestmark = pytest.mark.netns

_FORGET = "from fastmip.runtime.neighbours import forget_unanswered; forget_unanswered('eth0')"

# From linux/net/ipv4/arp.c, arp_format_neigh_entry.
_TABLE = """\
IP address       HW type     Flags       HW address            Mask     Device
10.1.0.1         0x1         0x2         6a:6b:9c:9d:87:43     *        eth0
10.1.0.99        0x1         0x0         00:00:00:00:00:00     *        eth0
10.1.0.98        0x1         0x0         00:00:00:00:00:00     *        wlan0
10.1.0.97        0x1         0x6         02:00:00:00:00:01     *        eth0
"""


def test_only_entries_of_the_link_without_an_answer_are_meant() -> None:
    assert unanswered("eth0", _TABLE) == ["10.1.0.99"]
    assert unanswered("eth1", _TABLE) == []


def test_waiting_packets_are_given_up_and_live_neighbours_stay(
    lab: Lab, source_path: dict[str, str]
) -> None:
    lab.plug("eth0", HOME)
    lab.lease("eth0", HOME)
    lab.run("mn", "ping", "-c1", "-W2", "10.1.0.1")
    path = lab.directory / "ping"
    with path.open("wb") as output:
        lab.popen("mn", ["ping", "-n", "-c1", "-W20", "10.1.0.99"], stdout=output)
    wait_until(lambda: "INCOMPLETE" in lab.run("mn", "ip", "neigh").stdout, 5, "the question")
    asked = time.monotonic()
    code = f"import sys; sys.path[:0] = {source_path['PYTHONPATH'].split(':')!r}; {_FORGET}"
    lab.run("mn", sys.executable, "-c", code)
    assert "10.1.0.99" not in lab.run("mn", "ip", "neigh").stdout
    assert lab.neighbour("mn", "10.1.0.1") == lab.mac("ha", "eth0")
    wait_until(lambda: b"Unreachable" in path.read_bytes(), 5, "the end of the waiting")
    assert time.monotonic() - asked < 2.9  # the kernel alone would ask for three seconds


def test_tcp_goes_on_at_once_after_a_segment_waited_for_a_neighbour(lab: Lab) -> None:
    """Compare what the mobile node needs with what would happen without."""
    taken = {forget: _time_to_recover(lab, forget=forget) for forget in (False, True)}
    assert taken[False] > 2.0  # otherwise this test proves nothing
    assert taken[True] < 1.5


_SERVE = """
import socket
s = socket.create_server(("10.9.0.7", 7000)); print("ready", flush=True)
c, _ = s.accept()
while data := c.recv(65536): print(len(data), flush=True)
"""
_SEND = """
import socket, sys
s = socket.create_connection(("10.9.0.7", 7000), source_address=("10.1.0.5", 0))
s.sendall(b"1"); print("first", flush=True)
for _ in sys.stdin: s.sendall(b"2"); print("second", flush=True)
"""


def _time_to_recover(lab: Lab, *, forget: bool) -> float:
    """Seconds from a route that leads somewhere again to the segment that waited elsewhere.

    The address moves natively: its route in the core follows, no tunnel is needed for this.
    """
    lab.ip(
        "mn", "address replace 10.1.0.5/32 dev eth0"
    )  # a last address takes its neighbours along
    lab.plug("eth0", HOME)
    lab.lease("eth0", HOME)
    lab.ip("ha", "route replace 10.1.0.5 via 10.1.0.205")
    got = lab.directory / f"got-{forget}"
    with got.open("wb") as output:
        server = lab.popen("cn", [sys.executable, "-c", _SERVE], stdout=output)
    wait_until(lambda: b"ready" in got.read_bytes(), 10, "the server")
    said = lab.directory / f"said-{forget}"
    with said.open("wb") as output:
        client = lab.popen(
            "mn", [sys.executable, "-c", _SEND], stdin=subprocess.PIPE, stdout=output
        )
    assert client.stdin is not None
    wait_until(lambda: got.read_bytes().split() == [b"ready", b"1"], 10, "the first byte")
    # the link changes, the route to the old router is still there and swallows a segment
    lab.unplug("eth0")
    lab.plug("eth0", VISITED_A)
    lab.ip("mn", "route replace 10.9.0.7 via 10.1.0.1 dev eth0")
    client.stdin.write(b"\n")
    client.stdin.flush()
    wait_until(lambda: b"second" in said.read_bytes(), 5, "the second write")
    wait_until(lambda: "INCOMPLETE" in lab.run("mn", "ip", "neigh").stdout, 5, "the question")
    # now the way is right
    lab.release("eth0")
    lab.lease("eth0", VISITED_A)
    lab.run("ar1", "sh", "-c", "echo 0 > /proc/sys/net/ipv4/conf/visit0/rp_filter")
    lab.ip("ar1", "route replace 10.1.0.5 via 10.3.1.5")
    lab.ip("inet", "route replace 10.1.0.5 via 10.8.1.1")
    lab.ip("mn", "route replace 10.9.0.7 via 10.3.1.254 dev eth0")
    began = time.monotonic()
    if forget:
        lab.run("mn", sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}; {_FORGET}")
    wait_until(lambda: got.read_bytes().split()[-2:] == [b"1", b"1"], 15, "the second byte")
    taken = time.monotonic() - began
    client.stdin.close()
    client.wait(timeout=5)
    server.wait(timeout=5)
    lab.ip("inet", "route delete 10.1.0.5")
    lab.ip("mn", "route delete 10.9.0.7 via 10.3.1.254")
    lab.unplug("eth0")
    lab.release("eth0")
    return taken
