"""Which of two databases is live, from what both say."""

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
        # before a move
        (FILLED, EMPTY, "legacy"),
        (EMPTY, EMPTY, "legacy"),
        (FILLED, FOREIGN, "legacy"),
        # tables that another program has made are not moved from
        (FOREIGN, FILLED, "primary"),
        (FOREIGN, EMPTY, "primary"),
        # in one
        (OPEN, STANDBY, "legacy"),
        (OPEN, EMPTY, "legacy"),
        (OPEN, UNREACHABLE, "legacy"),
        (CLOSING, STANDBY, "legacy"),
        (CLOSING, UNREACHABLE, "legacy"),
        (STANDBY, OPEN, "primary"),
        (UNREACHABLE, OPEN, "primary"),
        (STANDBY, CLOSING, "primary"),
        # writes may have gone to a side that is not a standby, even if it does not respond
        (UNREACHABLE, STANDBY, "legacy"),
        (STANDBY, UNREACHABLE, "primary"),
        # after one, or while its traces are removed
        (STANDBY, FILLED, "primary"),
        (FILLED, OPEN, "primary"),
        (EMPTY, FILLED, "primary"),
        (FILLED, STANDBY, "legacy"),
    ],
)
def test_the_live_side_is_known_from_what_both_say(
    legacy: SideState, primary: SideState, expected: str
) -> None:
    assert determine_live_side(ObservedSide(legacy, 1), ObservedSide(primary, 1)) == expected


@pytest.mark.parametrize(
    ("legacy", "primary", "error"),
    [
        (STANDBY, STANDBY, FencedError),
        (FILLED, FILLED, ConfigurationError),
        (UNREACHABLE, UNREACHABLE, UnavailableError),
        # before or after a transfer: it is unclear, and a guess would lose writes
        (FILLED, UNREACHABLE, UnavailableError),
        (UNREACHABLE, FILLED, UnavailableError),
    ],
)
def test_nothing_is_guessed(legacy: SideState, primary: SideState, error: type[FrontdeskError]) -> None:
    with pytest.raises(error):
        determine_live_side(ObservedSide(legacy), ObservedSide(primary))


def test_of_two_that_say_open_the_later_epoch_counts() -> None:
    assert determine_live_side(ObservedSide(OPEN, 3), ObservedSide(OPEN, 2)) == "legacy"
    assert determine_live_side(ObservedSide(OPEN, 1), ObservedSide(OPEN, 2)) == "primary"


@pytest.mark.parametrize(("legacy", "primary"), list(itertools.product(SideState, SideState)))
def test_a_standby_is_never_chosen(legacy: SideState, primary: SideState) -> None:
    states = {"legacy": legacy, "primary": primary}
    try:
        name = determine_live_side(ObservedSide(legacy, 1), ObservedSide(primary, 1))
    except FrontdeskError:
        return
    assert states[name] is not STANDBY
    assert OPEN not in states.values() or states[name] is OPEN
