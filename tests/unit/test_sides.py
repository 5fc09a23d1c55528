"""Determination of the live side from the states of both databases."""

import itertools

import pytest

from app.database.side_state import ObservedSide, SideState, determine_live_side
from app.errors import ConfigurationError, FencedError, FrontdeskError, UnavailableError

OPEN, CLOSING, STANDBY = SideState.OPEN, SideState.CLOSING, SideState.STANDBY
FILLED, EMPTY, FOREIGN, UNREACHABLE = (
    SideState.FILLED,
    SideState.EMPTY,
    SideState.FOREIGN,
    SideState.UNREACHABLE,
)


@pytest.mark.parametrize(
    ("legacy", "primary", "expected"),
    [
        # before a transfer
        (FILLED, EMPTY, "legacy"),
        (EMPTY, EMPTY, "legacy"),
        (FILLED, FOREIGN, "legacy"),
        # the tables of another program cannot be transferred
        (FOREIGN, FILLED, "primary"),
        (FOREIGN, EMPTY, "primary"),
        # during a transfer
        (OPEN, STANDBY, "legacy"),
        (OPEN, EMPTY, "legacy"),
        (OPEN, UNREACHABLE, "legacy"),
        (CLOSING, STANDBY, "legacy"),
        (CLOSING, UNREACHABLE, "legacy"),
        (STANDBY, OPEN, "primary"),
        (UNREACHABLE, OPEN, "primary"),
        (STANDBY, CLOSING, "primary"),
        # the side beside a standby may have accepted writes, so it is live even if it is unreachable
        (UNREACHABLE, STANDBY, "legacy"),
        (STANDBY, UNREACHABLE, "primary"),
        # after a transfer, or while `finish` removes its schema
        (STANDBY, FILLED, "primary"),
        (FILLED, OPEN, "primary"),
        (EMPTY, FILLED, "primary"),
        (FILLED, STANDBY, "legacy"),
    ],
)
def test_the_live_side_follows_from_both_states(legacy: SideState, primary: SideState, expected: str) -> None:
    assert determine_live_side(ObservedSide(legacy, 1), ObservedSide(primary, 1)) == expected


@pytest.mark.parametrize(
    ("legacy", "primary", "error"),
    [
        (STANDBY, STANDBY, FencedError),
        (FILLED, FILLED, ConfigurationError),
        (UNREACHABLE, UNREACHABLE, UnavailableError),
        # before or after a transfer, the unreachable side may be live, and a wrong guess would lose writes
        (FILLED, UNREACHABLE, UnavailableError),
        (UNREACHABLE, FILLED, UnavailableError),
    ],
)
def test_an_unknown_live_side_is_an_error(
    legacy: SideState, primary: SideState, error: type[FrontdeskError]
) -> None:
    with pytest.raises(error):
        determine_live_side(ObservedSide(legacy), ObservedSide(primary))


def test_of_two_open_sides_the_higher_epoch_is_live() -> None:
    assert determine_live_side(ObservedSide(OPEN, 3), ObservedSide(OPEN, 2)) == "legacy"
    assert determine_live_side(ObservedSide(OPEN, 1), ObservedSide(OPEN, 2)) == "primary"


@pytest.mark.parametrize(("legacy", "primary"), list(itertools.product(SideState, SideState)))
def test_a_standby_is_never_live(legacy: SideState, primary: SideState) -> None:
    states = {"legacy": legacy, "primary": primary}
    try:
        name = determine_live_side(ObservedSide(legacy, 1), ObservedSide(primary, 1))
    except FrontdeskError:
        return
    assert states[name] is not STANDBY
    assert OPEN not in states.values() or states[name] is OPEN
