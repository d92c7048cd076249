"""Mobility security associations: rules, lookup per direction, and keys that stay hidden."""

from __future__ import annotations

import copy
import pickle
import traceback

import pytest

from fastmip.auth.associations import (
    Algorithm,
    AssociationError,
    AssociationSet,
    Direction,
    ReplayStyle,
    SecurityAssociation,
)

KEY = b"\xdeVERY-SECRET-KEY\xad"
KEY_SPELLINGS = ("VERY-SECRET", KEY.hex(), "4352", "\\xde")


def association(spi: int, direction: Direction = Direction.BOTH) -> SecurityAssociation:
    return SecurityAssociation(spi, KEY, direction=direction)


def test_defaults_are_those_of_rfc5944_5_1_and_5_7_1() -> None:
    default = association(256)
    assert default.algorithm is Algorithm.HMAC_MD5
    assert default.replay is ReplayStyle.TIMESTAMPS
    assert default.window_s == 7
    assert default.direction is Direction.BOTH


@pytest.mark.parametrize("spi", [-1, 0, 1, 2, 255, 2**32])
def test_reserved_and_impossible_spis_are_refused_rfc5944_1_6(spi: int) -> None:
    with pytest.raises(AssociationError, match="SPI"):
        association(spi)


@pytest.mark.parametrize("spi", [256, 2**32 - 1])
def test_both_ends_of_the_range_of_spis_are_usable(spi: int) -> None:
    assert association(spi).spi == spi


@pytest.mark.parametrize("length", [0, 1, 15])
def test_a_key_below_128_bits_is_refused_rfc5944_5_1(length: int) -> None:
    with pytest.raises(AssociationError, match=f"key of {length} bytes"):
        SecurityAssociation(256, bytes(length))


@pytest.mark.parametrize("key", [bytes(16), bytes(range(256)), b"\xff" * 17])
def test_keys_of_any_value_work_rfc5944_5_1(key: bytes) -> None:
    for algorithm in Algorithm:
        made = SecurityAssociation(256, key, algorithm).authenticator(b"data")
        assert len(made) == algorithm.digest_len


@pytest.mark.parametrize("window_s", [0, -7])
def test_a_window_must_be_positive(window_s: int) -> None:
    with pytest.raises(AssociationError, match="window"):
        SecurityAssociation(256, KEY, window_s=window_s)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_no_text_form_shows_the_key(algorithm: Algorithm) -> None:
    secret = SecurityAssociation(256, KEY, algorithm)
    together = AssociationSet([secret])
    for text in (repr(secret), str(secret), f"{secret}", repr(together), str([together])):
        assert "256" in text
        assert not any(spelling in text for spelling in KEY_SPELLINGS)


def test_errors_about_a_key_do_not_show_it() -> None:
    with pytest.raises(AssociationError) as short:
        SecurityAssociation(256, KEY[:12])
    with pytest.raises(AssociationError) as reserved:
        SecurityAssociation(5, KEY)
    for caught in (short, reserved):
        text = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value)
        assert "VERY" not in text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_association_cannot_be_pickled(protocol: int) -> None:
    with pytest.raises(TypeError, match="holds a key"):
        pickle.dumps(association(256), protocol)
    with pytest.raises(TypeError):
        pickle.dumps(AssociationSet([association(256)]), protocol)


def test_an_association_cannot_be_copied_by_the_generic_way() -> None:
    for copier in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="holds a key"):
            copier(association(256))


def test_an_association_is_immutable_and_compares_by_value() -> None:
    one = association(256)
    with pytest.raises(AttributeError):
        one.spi = 257  # type: ignore[misc] # that it is refused is the test
    assert one == association(256)
    assert one != SecurityAssociation(256, KEY + b"x")
    assert one != SecurityAssociation(256, KEY, Algorithm.HMAC_SHA256)


def test_inbound_lookup_is_by_spi_and_direction() -> None:
    both, inbound, outbound = (
        association(300),
        association(301, Direction.INBOUND),
        association(302, Direction.OUTBOUND),
    )
    members = AssociationSet([both, inbound, outbound])
    assert members.inbound(300) is both
    assert members.inbound(301) is inbound
    assert members.inbound(302) is None
    assert members.inbound(303) is None
    assert list(members) == [both, inbound, outbound]
    assert len(members) == 3


def test_outbound_answers_with_the_association_of_the_question_if_it_may_sign() -> None:
    old, new = association(300), association(301)
    members = AssociationSet([old, new])
    assert members.outbound() is old
    assert members.outbound(301) is new
    assert members.outbound(999) is old


def test_outbound_with_one_association_for_each_direction() -> None:
    inbound, outbound = association(300, Direction.INBOUND), association(301, Direction.OUTBOUND)
    members = AssociationSet([inbound, outbound])
    assert members.outbound() is outbound
    assert members.outbound(300) is outbound
    assert AssociationSet([inbound]).outbound() is None


def test_one_spi_may_name_one_association_each_way_but_not_two_one_way() -> None:
    inbound = SecurityAssociation(300, KEY, direction=Direction.INBOUND)
    outbound = SecurityAssociation(300, KEY[::-1], direction=Direction.OUTBOUND)
    members = AssociationSet([inbound, outbound])
    assert members.inbound(300) is inbound
    assert members.outbound(300) is outbound
    for second in (inbound, association(300)):
        with pytest.raises(AssociationError, match="300 is listed twice"):
            AssociationSet([inbound, second])
    with pytest.raises(AssociationError, match="300 is listed twice"):
        AssociationSet([outbound, association(300)])


def test_sets_compare_by_value_so_that_a_reload_can_tell_a_change() -> None:
    assert AssociationSet([association(300)]) == AssociationSet([association(300)])
    assert hash(AssociationSet([association(300)])) == hash(AssociationSet([association(300)]))
    assert AssociationSet([association(300)]) != AssociationSet([association(301)])
    assert AssociationSet([]) != []
