"""Whether this namespace's IP stack does anything to packets we send, but route them.

Firewall rules, connection tracking, IPsec policies and IPVS see packets on their way out of the
stack, and an AF_PACKET socket passes all of them by. Netlink and /proc tell that there are some;
what they would do is not asked. Of nftables any base chain counts, those for packets that come in
too, because "established" there means what connection tracking saw going out.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_NETLINK_NETFILTER, _NETLINK_XFRM = 12, 6
_NFT_GETCHAIN = 10 << 8 | 4
_NFTA_CHAIN_TABLE, _NFTA_CHAIN_NAME, _NFTA_CHAIN_HOOK = 1, 3, 4
_NF_INET, _NF_IPV4 = 1, 2
_XFRM_GETSPDINFO, _XFRM_GETDEFAULT = 0x25, 0x28
_XFRMA_SPD_INFO = 1
_XFRM_BLOCK = 1
_GROUPS = ((_NETLINK_NETFILTER, 7), (_NETLINK_XFRM, 4))
"""Where nftables and IPsec policies tell of changes."""
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_TIMEOUT_S = 0.5
_PROC = Path("/proc")
_MISSING = (errno.EPROTONOSUPPORT, errno.EINVAL, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)


def users() -> str:
    """The first thing found that may act on packets we send; empty when there is none.

    What cannot be found out counts as found.
    """
    try:
        return _legacy_tables() or _chains() or _policies()
    except OSError as error:
        return f"not to be found out: {error.strerror or error}"


def watch() -> list[socket.socket]:
    """Sockets that become readable when nftables or IPsec policies change."""
    return [opened for opened in map(_listen, *zip(*_GROUPS, strict=True)) if opened is not None]


def _listen(protocol: int, group: int) -> socket.socket | None:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        opened = socket.socket(socket.AF_NETLINK, kind, protocol)
    except OSError:
        return None
    try:
        opened.bind((0, 1 << (group - 1)))
    except OSError:
        opened.close()
        return None
    return opened


def _legacy_tables() -> str:
    net = _PROC / "self" / "net"  # what /proc/net is, also where only processes are shown
    if not net.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"{net} is missing")
    with contextlib.suppress(FileNotFoundError):
        try:
            tables = (net / "ip_tables_names").read_text().split()
        except PermissionError:  # root alone may read it
            tables = _table_modules()
        if tables:
            return f"iptables {tables[0]}"
    with contextlib.suppress(FileNotFoundError):
        if len((net / "ip_vs").read_text().splitlines()) > 3:  # a head of three lines
            return "IPVS services"
    return ""


def _table_modules() -> list[str]:
    """What uses the module of iptables, in any namespace. Raises OSError if it is none."""
    modules = _PROC / "modules"  # missing in kernels without modules
    for line in modules.read_text().splitlines() if modules.exists() else ():
        name, _, count, users, *_ = line.split()
        if name == "ip_tables":
            return users.strip(",-").split(",") if count != "0" else []
    raise PermissionError(errno.EACCES, "tables of iptables, which is no module here")


def _chains() -> str:
    for body in _ask(_NETLINK_NETFILTER, _NFT_GETCHAIN, _NLM_F_DUMP, bytes(4)):
        if body[0] not in (_NF_INET, _NF_IPV4):
            continue
        found = dict(attributes(body, 4))
        if _NFTA_CHAIN_HOOK in found:
            names = (found.get(kind, b"") for kind in (_NFTA_CHAIN_TABLE, _NFTA_CHAIN_NAME))
            return "nftables " + b" ".join(n.rstrip(b"\0") for n in names).decode(errors="replace")
    return ""


def _policies() -> str:
    for body in _ask(_NETLINK_XFRM, _XFRM_GETSPDINFO, 0, bytes(4)):
        # struct xfrmu_spdinfo: policies in, out, forward, then those of sockets
        info = dict(attributes(body, 4)).get(_XFRMA_SPD_INFO, b"")
        if len(info) < 8 or struct.unpack_from("=I", info, 4)[0]:
            return "IPsec policies"
    for body in _ask(_NETLINK_XFRM, _XFRM_GETDEFAULT, 0, bytes(4)):
        if body[2] == _XFRM_BLOCK:  # struct xfrm_userpolicy_default: in, forward, out
            return "IPsec blocks what has no policy"
    return ""


def _ask(protocol: int, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
    """The bodies of the answers; none where the kernel has no such thing. Raises OSError."""
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        if error.errno in _MISSING:
            return
        raise
    with opened:
        opened.settimeout(_TIMEOUT_S)
        head = _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | flags, 1, 0)
        opened.send(head + body)
        while True:
            data, offset = opened.recv(1 << 16), 0
            while offset + _HEADER.size <= len(data):
                length, answer, _, _, _ = _HEADER.unpack_from(data, offset)
                found = data[offset + _HEADER.size : offset + length]
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    code = -int(struct.unpack_from("=i", found)[0])
                    if code in _MISSING:
                        return
                    raise OSError(code, "the kernel refused to tell")
                yield found
                offset += (max(length, _HEADER.size) + 3) & ~3
            if not flags & _NLM_F_DUMP:
                return


def attributes(body: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """Kind and value of each netlink attribute, up to what is cut short."""
    while offset + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, offset)
        if length < 4 or offset + length > len(body):
            return
        yield kind & 0x3FFF, body[offset + 4 : offset + length]
        offset += (length + 3) & ~3
