"""The engine answers exactly as its slow twin does, for generated packets, in both loops."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.lab import (
    CARE_OF,
    CORRESPONDENT,
    HOME_AGENT,
    NODE,
    OTHER_CARE_OF,
    OTHER_NODE,
    a,
    assert_same,
    engine_for,
)
from tests.reference.encapsulations import GRE, IPIP, MINIMAL, UNKNOWN_PORT, Method, opened, wrapped
from tests.reference.ipv4 import Header, checksum, header, is_fragment, problem
from tests.reference.tunnels import HOME, NEVER, TUNNEL, Binding, Twin

IN_NETWORK, DEEPER = a("10.2.8.20"), a("10.2.8.200")
NETWORKS = st.dictionaries(
    st.sampled_from(
        [(a("10.2.8.0"), 24), (a("10.2.8.192"), 26), (a("10.2.8.200"), 32), (a("10.8.0.0"), 13)]
    ),
    st.sampled_from([NODE, OTHER_NODE]),
    max_size=3,
)
"""Mobile networks; the last holds the correspondent."""
ADDRESSES = st.sampled_from(
    [
        NODE,
        OTHER_NODE,
        CARE_OF,
        OTHER_CARE_OF,
        HOME_AGENT,
        CORRESPONDENT,
        IN_NETWORK,
        DEEPER,
        a("127.0.0.1"),
        a("224.0.0.5"),
        a("255.255.255.255"),
        0,
    ]
)
OPTIONS = st.sampled_from([b"", b"\x01\x01\x01\x00", b"\x94\x04\0\0", b"\x07\x07\x04" + bytes(5)])
TTLS = st.sampled_from([0, 1, 2, 64, 255])
PROTOCOLS = st.sampled_from([17, 6, 1, 4, 47, 55])
FRAGMENT_FIELDS = st.sampled_from([0, 0, 0, 0x4000, 0x2000, 0x2003, 0x0003, 0x6000])
# Not DONE_CHECKSUM: with it the engine trusts a checksum that the mangling makes wrong.
DONE = st.sampled_from([0, 1, 4, 8, 9, 13])
PAYLOADS = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([0, 8, 400, 1400, 1459, 1460, 1461, 1480, 3000]).map(lambda n: b"\x5a" * n),
    st.sampled_from([b"\x03\x04", b"\x08\0", b"\x0b\0"]).map(lambda head: head + bytes(30)),
)


@st.composite
def inner_packets(draw: st.DrawFn, depth: int = 0) -> bytes:
    """A packet with valid headers, sometimes carrying another."""
    protocol = draw(PROTOCOLS)
    payload = draw(PAYLOADS)
    if depth < 3 and protocol in {4, 47, 55} and draw(st.booleans()):
        inside = draw(inner_packets(depth=depth + 1))
        gre = draw(st.sampled_from([b"\0\0\x08\0", b"\xb0\0\x08\0" + bytes(12)]))
        minimal = bytes(4) + draw(ADDRESSES).to_bytes(4, "big")
        payload = {4: b"", 47: gre, 55: minimal}[protocol] + inside
    head = header(
        draw(ADDRESSES),
        draw(ADDRESSES),
        protocol,
        len(payload),
        ttl=draw(TTLS),
        tos=draw(st.integers(0, 255)),
        identification=draw(st.integers(0, 65535)),
        fragment=draw(FRAGMENT_FIELDS),
        options=draw(OPTIONS),
    )
    return head + payload


@st.composite
def mangled(draw: st.DrawFn, packets: st.SearchStrategy[bytes]) -> bytes:
    """Mostly as it is; sometimes cut, padded or with one octet changed."""
    packet = bytearray(draw(packets))
    fate = draw(st.integers(0, 9))
    if fate == 0:
        del packet[draw(st.integers(0, len(packet))) :]
    elif fate == 1:
        packet += bytes(draw(st.integers(1, 40)))
    elif fate == 2:
        at = draw(st.integers(0, min(len(packet), 48) - 1))
        packet[at] = draw(st.integers(0, 255))
    return bytes(packet)


PORTS = st.sampled_from([(4434, 434), (4434, 434), (1024, 434), (UNKNOWN_PORT, 434)])
METHODS = st.one_of(
    st.just(Method()),
    st.sampled_from([Method(GRE), Method(GRE, 7), Method(MINIMAL)]),
    st.builds(
        lambda method, ports: Method(*method, *ports),
        st.sampled_from([(IPIP, None), (GRE, None), (GRE, 7), (MINIMAL, None)]),
        PORTS,
    ),
)


def gre(flags: int, kind: int, inner: bytes, sequence: int) -> bytes:
    """RFC 2784 and 2890, with whatever the flags ask for."""
    optional = b""
    if flags & 0x2000:
        optional += (7).to_bytes(4, "big")
    if flags & 0x1000:
        optional += sequence.to_bytes(4, "big")
    head = flags.to_bytes(2, "big") + kind.to_bytes(2, "big")
    if not flags & 0x8000:
        return head + optional + inner
    found = checksum(head + bytes(4) + optional + inner)
    return head + found.to_bytes(2, "big") + bytes(2) + optional + inner


@st.composite
def gre_packets(draw: st.DrawFn) -> bytes:
    """GRE as other implementations send it: checksums, keys, sequence numbers, strange bits."""
    flags = draw(st.sampled_from([0, 0, 0x8000, 0x2000, 0x1000, 0x3000, 0xB000, 0x03F8, 0x0800, 1]))
    kind = draw(st.sampled_from([0x0800, 0x0800, 0x0800, 0x86DD]))
    sequence = draw(st.sampled_from([0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1]))
    carried = gre(flags, kind, draw(mangled(inner_packets())), sequence)
    source = draw(st.sampled_from([CARE_OF, CARE_OF, OTHER_CARE_OF, HOME_AGENT]))
    destination = draw(st.sampled_from([HOME_AGENT, HOME_AGENT, CARE_OF]))
    return header(source, destination, 47, len(carried)) + carried


@st.composite
def negotiated_packets(draw: st.DrawFn) -> bytes:
    """An inner packet wrapped as some binding would wrap it, at the other end."""
    method = draw(METHODS)
    far = Method(method.encapsulation, method.gre_key, method.local_port, method.remote_port)
    inner = draw(inner_packets())
    ends = draw(st.sampled_from([(CARE_OF, HOME_AGENT), (HOME_AGENT, CARE_OF), (NODE, HOME_AGENT)]))
    packet = bytearray(wrapped(inner, far, *ends, 64, draw(st.integers(0, 255))))
    if method.remote_port and draw(st.booleans()):  # a UDP checksum, not always right
        at = (packet[0] & 15) * 4
        pseudo = packet[12:20] + b"\0\x11" + packet[at + 4 : at + 6]
        wrong = draw(st.sampled_from([0, 0, 1]))
        found = checksum(bytes(pseudo + packet[at:])) ^ wrong
        packet[at + 6 : at + 8] = found.to_bytes(2, "big")
    return bytes(packet)


@st.composite
def tunnel_packets(draw: st.DrawFn) -> bytes:
    """An outer header, mostly IPIP, mostly unfragmented, around an inner packet."""
    inner = draw(mangled(inner_packets()))
    head = header(
        draw(st.sampled_from([CARE_OF, OTHER_CARE_OF, HOME_AGENT, CORRESPONDENT])),
        draw(st.sampled_from([HOME_AGENT, HOME_AGENT, CARE_OF, a("10.1.0.2")])),
        draw(st.sampled_from([4, 4, 4, 4, 4, 47, 55, 17])),
        len(inner),
        tos=draw(st.integers(0, 255)),
        ttl=draw(TTLS),
        fragment=draw(st.sampled_from([0, 0, 0, 0x4000, 0x2000, 0x0001])),
        options=draw(st.sampled_from([b"", b"", b"", b"\x01" * 4])),
    )
    return head + inner


@st.composite
def bindings(draw: st.DrawFn, local: int, remotes: list[int]) -> Binding:
    """Alive or expired, any flags, various path MTUs."""
    return Binding(
        remote=draw(st.sampled_from(remotes)),
        local=local,
        mtu=draw(st.sampled_from([1500, 1500, 576, 68, 1420, 9000])),
        reverse=draw(st.booleans()),
        expires_ns=draw(st.sampled_from([NEVER, NEVER, 100, 99])),
        ttl=draw(st.sampled_from([64, 255, 1])),
        is_compatible=draw(st.booleans()),
        method=draw(METHODS),
        nested=draw(st.booleans()),
    )


@st.composite
def home_agents(draw: st.DrawFn) -> Twin:
    """A home agent with up to two nodes of up to three bindings; its clock is at 100 ns."""
    remotes = [CARE_OF, OTHER_CARE_OF, CORRESPONDENT]
    chain = st.lists(bindings(HOME_AGENT, remotes), min_size=1, max_size=3)
    chains = draw(st.dictionaries(st.sampled_from([NODE, OTHER_NODE]), chain, max_size=2))
    if draw(st.booleans()):
        for chain_of_node in chains.values():
            chain_of_node[0].first_only = True
    networks = draw(NETWORKS)
    return Twin("home-agent", (HOME_AGENT,), chains, draw(DONE), now_ns=100, networks=networks)


@st.composite
def mobile_nodes(draw: st.DrawFn) -> Twin:
    """A mobile node with one or two tunnels to its home agent."""
    chain = draw(
        st.lists(
            st.sampled_from([CARE_OF, OTHER_CARE_OF]).flatmap(
                lambda care_of: bindings(care_of, [HOME_AGENT])
            ),
            min_size=1,
            max_size=2,
        )
    )
    networks = dict.fromkeys(draw(NETWORKS), NODE)
    chains = {NODE: chain}
    return Twin("mobile-node", (CARE_OF,), chains, draw(DONE), now_ns=100, networks=networks)


@st.composite
def foreign_agents(draw: st.DrawFn) -> Twin:
    """A foreign agent with a visitor or two; one of its own addresses is the visitor's router."""
    visitor = bindings(CARE_OF, [HOME_AGENT]).map(lambda binding: [binding])
    chains = draw(st.dictionaries(st.sampled_from([NODE, OTHER_NODE]), visitor, max_size=2))
    own = (CARE_OF, HOME_AGENT) if draw(st.booleans()) else (CARE_OF,)
    return Twin("foreign-agent", own, chains, draw(DONE), now_ns=100)


TWINS = st.one_of(home_agents(), mobile_nodes(), foreign_agents())
TUNNELLED = st.one_of(tunnel_packets(), negotiated_packets(), gre_packets())


def is_for_many(packet: bytes) -> bool:
    """Carries a packet to a multicast group or broadcast, whatever its encapsulation."""
    if problem(packet) or is_fragment(packet):
        return False
    carried = opened(packet)
    if isinstance(carried, str) or problem(carried.inner):
        return False
    return bool(Header(carried.inner).destination >> 24 >= 224)


@pytest.mark.parametrize("scalar", [False, True], ids=["simd", "scalar"])
@given(twin=TWINS, packets=st.lists(mangled(inner_packets()), min_size=1, max_size=8))
def test_home_side_equals_its_twin(twin: Twin, packets: list[bytes], scalar: bool) -> None:
    assert_same(twin, engine_for(twin, scalar=scalar), HOME, packets)


@pytest.mark.parametrize("scalar", [False, True], ids=["simd", "scalar"])
@given(twin=TWINS, packets=st.lists(mangled(TUNNELLED), min_size=1, max_size=8))
def test_tunnel_side_equals_its_twin(twin: Twin, packets: list[bytes], scalar: bool) -> None:
    # Multicast to a mobile node and ICMP errors about tunnels have tests of their own.
    packets = [p for p in packets if len(p) < 10 or p[9] != 1]
    if twin.role == "mobile-node":
        packets = [p for p in packets if not is_for_many(p)]
    assert_same(twin, engine_for(twin, scalar=scalar), TUNNEL, packets)
