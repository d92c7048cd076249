"""Registration-keyed ESP, both sides: whatever is lost, keys agree and nothing repeats."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.agents.keying_world import (
    CARE_OF,
    CARE_OF_2,
    HOME_ADDRESS,
    SECOND,
    World,
)

from fastmip.agents.esp_pairs import Esp
from fastmip.agents.home_keying import HomeKeying, KeyingPolicy, OfferDenied
from fastmip.agents.node_keying import NodeKeying, NodeKeyingPolicy, Verdict
from fastmip.auth.esp_schedule import KeyShare
from fastmip.wire.codes import ReplyCode
from fastmip.wire.esp_keying import (
    AgainAnswer,
    FullAnswer,
    FullOffer,
    Offer,
    RatchetAnswer,
    RatchetOffer,
    carry_answer,
    carry_offer,
    find_offer,
)
from fastmip.wire.extensions import Extension
from fastmip.wire.registration import RegistrationRequest

BOTH = (True, True)
PLACE = (HOME_ADDRESS, CARE_OF)


def offer_of(data: bytes) -> Offer:
    offer = find_offer(RegistrationRequest.decode(data).extensions)
    assert offer is not None
    return offer


def test_the_first_registration_holds_traffic_until_a_packet_opens() -> None:
    world = World()
    assert world.register() is Verdict.KEYED
    assert world.home_gateway.held == {PLACE}
    assert not world.home_gateway.send(PLACE)
    assert world.node_gateway.send(PLACE)
    world.carry_packets()
    assert not world.home_gateway.held
    assert world.exchange_packets() == BOTH
    assert world.node.next_deadline() is None  # confirmed: no more dummies


def test_a_refresh_ratchets_and_loses_nothing() -> None:
    world = World()
    world.register()
    world.carry_packets()
    for _ in range(5):
        request = world.request()
        assert isinstance(offer_of(request), RatchetOffer)
        assert world.exchange_packets() == BOTH
        world.hear_request(world.requests.pop())
        assert world.exchange_packets() == BOTH  # on the old pair
        assert world.hear_reply(world.replies.pop()) is Verdict.KEYED
        assert world.exchange_packets() == BOTH
        world.advance(3)
        assert len(world.node_gateway.pairs) == len(world.home_gateway.pairs) == 1
    assert len({pair.inbound.is_wiped for pair in world.agreed[:-1]}) == 1


def test_a_move_and_an_old_exchange_are_full_exchanges() -> None:
    world = World(node_policy=NodeKeyingPolicy(Esp.REQUIRED, max_age_s=100, max_ratchets=2))
    kinds = []
    for step in range(6):
        if step == 4:
            world.advance(100)
        kinds.append(type(offer_of(world.request())))
        world.hear_request(world.requests.pop())
        world.hear_reply(world.replies.pop())
        world.carry_packets()
    full, ratchet = FullOffer, RatchetOffer
    assert kinds == [full, ratchet, ratchet, full, full, ratchet]
    world.place = (HOME_ADDRESS, CARE_OF_2)
    assert isinstance(offer_of(world.request()), full)


@pytest.mark.parametrize("lost", ["request", "reply", "dummy", "dummy back"])
@pytest.mark.parametrize("refresh", [False, True], ids=["attach", "refresh"])
def test_any_single_loss_costs_one_retransmission_at_most(lost: str, refresh: bool) -> None:
    world = World()
    if refresh:
        world.register()
        world.carry_packets()
    world.request()
    if lost != "request":
        world.hear_request(world.requests.pop())
        if lost != "reply":
            world.hear_reply(world.replies.pop())
    if lost in ("dummy", "dummy back"):
        world.deliver(to_home=True, lose=lost == "dummy")
        if lost == "dummy back":
            world.deliver(to_home=False, lose=True)
        assert world.exchange_packets() == BOTH
        return
    if refresh:
        assert world.exchange_packets() == BOTH  # before the retransmission already
    world.advance(1)
    assert world.register() is Verdict.KEYED
    assert world.exchange_packets() == BOTH
    world.advance(3)
    assert world.exchange_packets() == BOTH


def test_lost_dummies_are_sent_again_until_a_packet_comes_back() -> None:
    world = World()
    world.register()
    pauses = []
    for _ in range(9):
        assert world.node_gateway.out
        while world.node_gateway.out:
            world.deliver(to_home=True, lose=True)
        due = world.node.next_deadline()
        assert due is not None
        pauses.append((due - world.boot_ns) / SECOND)
        world.advance(pauses[-1])
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 16, 16, 16]
    world.carry_packets()
    assert world.exchange_packets() == BOTH
    assert world.node.next_deadline() is None


def test_a_copy_of_the_request_gets_the_very_reply_and_no_second_pair() -> None:
    world = World()
    request = world.request()
    for _ in range(3):
        world.hear_request(request)
    assert len(set(world.replies)) == 1
    assert len(world.home_gateway.pairs) == 1
    world.hear_reply(world.replies[0])
    assert world.hear_reply(world.replies[1]) is None
    assert world.exchange_packets() == BOTH


def test_a_home_agent_without_memory_asks_for_a_full_exchange_and_holds_traffic() -> None:
    world = World()
    world.register()
    world.carry_packets()
    world.start_home()
    assert world.exchange_packets() == (False, False)
    assert world.register() is Verdict.AGAIN
    assert world.home_gateway.held == {PLACE}
    assert world.register() is Verdict.KEYED
    assert world.exchange_packets() == BOTH


def test_pairs_that_outlive_a_restart_carry_traffic_until_there_are_new_ones() -> None:
    world = World()
    for _ in range(3):
        world.register()
        world.carry_packets()
        world.advance(3)
    world.restart_home()
    gateway = world.home_gateway
    (number,) = gateway.pairs
    assert world.exchange_packets() == BOTH
    assert world.register() is Verdict.AGAIN
    assert not gateway.held
    assert world.exchange_packets() == BOTH
    assert world.register() is Verdict.KEYED
    assert world.exchange_packets() == BOTH
    world.advance(3)
    assert number not in gateway.pairs
    assert len(gateway.pairs) == 1
    assert world.exchange_packets() == BOTH


def test_unconfirmed_pairs_are_few() -> None:
    world = World()
    world.register()
    world.carry_packets()
    for _ in range(20):
        world.request()
        world.hear_request(world.requests.pop())
    assert len(world.home_gateway.pairs) == 5
    assert world.exchange_packets() == BOTH
    assert world.hear_reply(world.replies.pop()) is Verdict.KEYED
    assert world.exchange_packets() == BOTH
    world.advance(3)
    assert len(world.home_gateway.pairs) == 1


def test_a_late_packet_on_an_older_pair_does_not_bring_it_back() -> None:
    world = World()
    world.register()
    world.carry_packets()
    for _ in range(2):
        world.register()
    late, newest = world.node_gateway.out
    world.node_gateway.out = [newest, late]
    world.carry_packets()
    sending = world.home_gateway.pairs[world.home_gateway.sending[PLACE]]
    assert sending.inbound_spi == newest.spi
    assert world.exchange_packets() == BOTH


def test_roots_are_forgotten_as_soon_as_newer_ones_are_in_use() -> None:
    world = World()
    world.register()
    world.carry_packets()
    first = [
        world.node._generations[PLACE][0].root,
        world.home._keys[PLACE].generations[0].root,
    ]
    request = world.request()
    world.hear_request(request)
    assert not first[1].is_wiped  # the reply may be lost
    world.hear_reply(world.replies.pop())
    world.carry_packets()
    assert [root.is_wiped for root in first] == [True, True]
    offer = offer_of(request)
    assert isinstance(offer, RatchetOffer)
    considered = world.home.consider(PLACE, [carry_offer(offer, critical=True)])
    assert considered is not None
    assert considered.answer == AgainAnswer()  # from a root that is gone


def test_release_wipes_everything() -> None:
    world = World()
    world.register()
    world.carry_packets()
    world.request()
    world.home_gateway.carry_out(world.home.release(HOME_ADDRESS, [CARE_OF, CARE_OF_2]))
    world.node_gateway.carry_out(world.node.release(PLACE))
    assert not world.home_gateway.pairs
    assert not world.node_gateway.pairs
    assert world.home.next_deadline() is world.node.next_deadline() is None
    assert not world.home.rows()


def test_rows_and_reprs_hold_no_key() -> None:
    world = World()
    world.register()
    keys = {key.hex() for keys in world.home_gateway.keys.values() for key in keys}
    shown = f"{world.home.rows()} {world.home._keys} {world.node._generations} {world.agreed}"
    assert keys
    assert not any(key in shown or str(bytes.fromhex(key)) in shown for key in keys)


# downgrades --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("home", "node", "codes", "verdicts"),
    [
        (Esp.OFF, Esp.OFF, [0], [Verdict.CLEAR]),
        (Esp.OFF, Esp.REQUIRED, [140, 140], []),
        (Esp.OFF, Esp.PREFERRED, [0, 0], [Verdict.REJECTED, Verdict.CLEAR]),
        (Esp.PREFERRED, Esp.OFF, [0], [Verdict.CLEAR]),
        (Esp.PREFERRED, Esp.PREFERRED, [0], [Verdict.KEYED]),
        (Esp.PREFERRED, Esp.REQUIRED, [0], [Verdict.KEYED]),
        (Esp.REQUIRED, Esp.OFF, [129], []),
        (Esp.REQUIRED, Esp.PREFERRED, [0], [Verdict.KEYED]),
        (Esp.REQUIRED, Esp.REQUIRED, [0], [Verdict.KEYED]),
    ],
)
def test_who_wants_what(home: Esp, node: Esp, codes: list[int], verdicts: list[Verdict]) -> None:
    world = World(home=home, node=node)
    for _ in codes:
        world.register()
    assert world.codes == codes
    assert world.verdicts == verdicts


def test_no_clear_text_with_a_home_agent_that_gave_keys_before() -> None:
    world = World(home=Esp.PREFERRED, node=Esp.PREFERRED)
    world.register()
    world.home_policy = KeyingPolicy(Esp.OFF)
    world.start_home()
    assert [world.register() for _ in range(3)] == [Verdict.REJECTED] * 3


def test_a_move_asks_for_keys_again() -> None:
    world = World(home=Esp.OFF, node=Esp.PREFERRED)
    world.register()
    assert world.register() is Verdict.CLEAR
    world.node.moved()
    assert isinstance(offer_of(world.request()), FullOffer)


def a_node(**policy: object) -> NodeKeying:
    world = World()
    return NodeKeying(
        NodeKeyingPolicy(Esp.REQUIRED, **policy),  # type: ignore[arg-type]
        random=world.random.randbytes,
        new_spi=world.new_spi,
    )


def heard(node: NodeKeying, *answers: Extension) -> tuple[Verdict, str]:
    found = node.hear(answers, b"reply", (1, 2), World().now)
    assert found.verdict is Verdict.REJECTED or not found.reason
    return found.verdict, found.reason


def answers_of(offer: FullOffer) -> dict[str, tuple[FullAnswer | RatchetAnswer | AgainAnswer, ...]]:
    share, nonce = KeyShare().public, bytes(range(16))
    good = FullAnswer(400, nonce, share, 1)
    return {
        "without keys": (),
        "our own share": (FullAnswer(400, nonce, offer.share, 1),),
        "all-zero share": (FullAnswer(400, nonce, bytes(32), 1),),
        "share of order 1": (FullAnswer(400, nonce, bytes((1, *bytes(31))), 1),),
        "our own nonce": (FullAnswer(400, offer.nonce, share, 1),),
        "suite that was not offered": (FullAnswer(400, nonce, share, 4),),
        "suite nobody knows": (FullAnswer(400, nonce, share, 200),),
        "another kind": (RatchetAnswer(400, nonce, bytes(8)),),
        "again to a full offer": (AgainAnswer(),),
        "two answers": (good, good),
    }


CASES = list(answers_of(FullOffer(256, bytes(16), bytes(32), (1,))))


@pytest.mark.parametrize("case", CASES)
def test_answers_that_do_not_fit_are_rejected(case: str) -> None:
    node = a_node()
    extension = node.offer(PLACE, World().now)
    assert extension is not None
    offer = find_offer([extension])
    assert isinstance(offer, FullOffer)
    answers = [carry_answer(a, critical=True) for a in answers_of(offer)[case]]
    verdict, reason = heard(node, *answers)
    assert verdict is Verdict.REJECTED
    assert reason
    assert not node._generations


def test_keys_nobody_asked_for_are_rejected() -> None:
    answer = carry_answer(FullAnswer(400, bytes(16), KeyShare().public, 1), critical=False)
    assert heard(a_node(), answer)[0] is Verdict.REJECTED


def a_home(esp: Esp = Esp.REQUIRED, **parts: object) -> HomeKeying:
    world = World()
    given: dict[str, object] = {"random": world.random.randbytes, "new_spi": world.new_spi}
    return HomeKeying(KeyingPolicy(esp), **(given | parts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("offer", "code"),
    [
        (FullOffer(256, bytes(16), bytes(32), (1,)), ReplyCode.HA_POORLY_FORMED_REQUEST),
        (FullOffer(256, bytes(16), KeyShare().public, (9,)), ReplyCode.HA_PROHIBITED),
        (None, ReplyCode.HA_PROHIBITED),
    ],
)
def test_offers_that_are_denied(offer: FullOffer | None, code: ReplyCode) -> None:
    extensions = [] if offer is None else [carry_offer(offer, critical=True)]
    home = a_home()
    with pytest.raises(OfferDenied) as denied:
        home.consider(PLACE, extensions)
    assert denied.value.code == code
    assert not home.rows()


def test_reflected_shares_and_nonces_are_denied() -> None:
    share, nonce = KeyShare(bytes(range(32))), bytes(range(16))
    same_share = a_home(new_share=lambda: KeyShare(bytes(range(32))))
    same_nonce = a_home(random=lambda _n: nonce)
    for home in (same_share, same_nonce):
        offer = carry_offer(FullOffer(256, nonce, share.public, (1,)), critical=True)
        with pytest.raises(OfferDenied):
            home.consider(PLACE, [offer])


def test_an_offer_is_damaged_or_there_are_two() -> None:
    offer = carry_offer(RatchetOffer(256, bytes(16), bytes(8)), critical=True)
    with pytest.raises(OfferDenied, match="twice"):
        a_home().consider(PLACE, [offer, offer])


def test_preferred_without_a_common_suite_is_clear_text_the_node_rejects() -> None:
    offer = FullOffer(256, bytes(16), KeyShare().public, (9,))
    home = a_home(Esp.PREFERRED)
    assert home.consider(PLACE, [carry_offer(offer, critical=False)]) is None


@given(st.data(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_whatever_is_altered_on_the_way_gives_no_keys(data: st.DataObject, of_reply: bool) -> None:
    world = World()
    world.request()
    if of_reply:
        world.hear_request(world.requests.pop())
    messages = world.replies if of_reply else world.requests
    message = bytearray(messages.pop())
    message[data.draw(st.integers(0, len(message) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    if of_reply:
        world.hear_reply(bytes(message))
    else:
        world.hear_request(bytes(message))
        assert not world.home_gateway.pairs
    assert not world.node_gateway.pairs


def test_stripped_offers_and_answers_fail_the_authentication() -> None:
    world = World()
    request = world.request()
    cut = len(carry_offer(offer_of(request), critical=True).build())
    world.hear_request(request[:24] + request[24 + cut :])
    assert world.hear_reply(world.replies.pop()) is None
    assert world.codes == [ReplyCode.HA_MOBILE_NODE_AUTHENTICATION]
    world.request()
    world.hear_request(world.requests.pop())
    assert world.hear_reply(world.replies[0][:20] + world.replies.pop()[-22:]) is None
    assert world.pending


def test_a_broken_random_generator_on_one_side_repeats_no_key() -> None:
    """Identification and the other side's nonce still differ: every key is another one."""
    frozen = itertools.repeat(KeyShare(bytes(range(32))))
    world = World(new_share=KeyShare)
    world.node._random = bytes
    world.node._new_share = lambda: next(frozen)
    seen = set()
    for step in range(20):
        if step % 5 == 0:
            world.start_home()
            world.node_gateway.carry_out(world.node.release(PLACE))
        world.register()
        world.carry_packets()
        seen |= {key for pair in world.home_gateway.keys.values() for key in pair}
        world.advance(3)
    assert len(seen) == 40


# anything in any order -----------------------------------------------------------------------


class AnyOrder(RuleBasedStateMachine):
    """Requests, replies and packets lost, doubled and reordered; restarts, moves, releases."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(7)

    @rule()
    def ask(self) -> None:
        self.world.request()

    @precondition(lambda self: self.world.requests)
    @rule(data=st.data(), keep=st.booleans())
    def request_arrives(self, data: st.DataObject, keep: bool) -> None:
        index = data.draw(st.integers(0, len(self.world.requests) - 1))
        request = self.world.requests[index]
        if not keep:
            self.world.requests.pop(index)
        self.world.hear_request(request)

    @precondition(lambda self: self.world.replies)
    @rule(data=st.data(), keep=st.booleans())
    def reply_arrives(self, data: st.DataObject, keep: bool) -> None:
        index = data.draw(st.integers(0, len(self.world.replies) - 1))
        reply = self.world.replies[index]
        if not keep:
            self.world.replies.pop(index)
        self.world.hear_reply(reply)

    @rule(to_home=st.booleans(), lose=st.booleans())
    def packet_moves(self, to_home: bool, lose: bool) -> None:
        gateway = self.world.node_gateway if to_home else self.world.home_gateway
        if gateway.out:
            self.world.deliver(to_home=to_home, lose=lose)

    @rule(at_home=st.booleans())
    def packet_leaves(self, at_home: bool) -> None:
        gateway = self.world.home_gateway if at_home else self.world.node_gateway
        gateway.send(self.world.place)

    @rule(seconds=st.sampled_from([0.1, 1, 3, 4000]))
    def time_passes(self, seconds: float) -> None:
        self.world.advance(seconds)

    @rule()
    def move(self) -> None:
        care_of = CARE_OF if self.world.place[1] == CARE_OF_2 else CARE_OF_2
        self.world.node_gateway.carry_out(self.world.node.release(self.world.place))
        self.world.place = (HOME_ADDRESS, care_of)
        self.world.node.moved()
        self.world.pending = b""

    @rule()
    def home_agent_restarts(self) -> None:
        self.world.start_home()
        self.world.requests.clear()

    @rule()
    def home_agent_restarts_with_its_pairs(self) -> None:
        self.world.restart_home()
        self.world.requests.clear()

    @rule()
    def home_agent_releases(self) -> None:
        world = self.world
        world.home_gateway.carry_out(world.home.release(HOME_ADDRESS, [world.place[1]]))

    @invariant()
    def both_sides_have_the_same_keys(self) -> None:
        """By SPI: what one end sends with, the other opens with."""
        home, node = self.world.home_gateway, self.world.node_gateway
        for number, pair in node.pairs.items():
            for other, theirs in home.pairs.items():
                if (pair.inbound_spi, pair.outbound_spi) == (
                    theirs.outbound_spi,
                    theirs.inbound_spi,
                ):
                    assert node.keys[number] == home.keys[other][::-1]
                    assert pair.suite == theirs.suite

    def teardown(self) -> None:
        """Two registrations that get through mend everything."""
        world = self.world
        world.node_gateway.out.clear()
        world.home_gateway.out.clear()
        if world.register() is not Verdict.KEYED:
            assert world.register() is Verdict.KEYED
        assert world.exchange_packets() == BOTH
        world.advance(3)
        assert world.exchange_packets() == BOTH


AnyOrder.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
