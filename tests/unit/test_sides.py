"""Which of two databases is live, from what both say."""

import itertools

import pytest

from app.database.side_state import Side, State, live
from app.errors import ConfigurationError, FencedError, FrontdeskError, UnavailableError

OPEN, CLOSING, STANDBY = State.OPEN, State.CLOSING, State.STANDBY
FILLED, EMPTY, FOREIGN, UNREACHABLE = State.FILLED, State.EMPTY, State.FOREIGN, State.UNREACHABLE


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
        # who is no standby is where writes may have gone, even if it cannot be asked
        (UNREACHABLE, STANDBY, "legacy"),
        (STANDBY, UNREACHABLE, "primary"),
        # after one, or while its traces are removed
        (STANDBY, FILLED, "primary"),
        (FILLED, OPEN, "primary"),
        (EMPTY, FILLED, "primary"),
        (FILLED, STANDBY, "legacy"),
    ],
)
def test_the_live_side_is_known_from_what_both_say(legacy: State, primary: State, expected: str) -> None:
    assert live(Side(legacy, 1), Side(primary, 1)) == expected


@pytest.mark.parametrize(
    ("legacy", "primary", "error"),
    [
        (STANDBY, STANDBY, FencedError),
        (FILLED, FILLED, ConfigurationError),
        (UNREACHABLE, UNREACHABLE, UnavailableError),
        # before a move or after one: it cannot be told, and a guess would lose writes
        (FILLED, UNREACHABLE, UnavailableError),
        (UNREACHABLE, FILLED, UnavailableError),
    ],
)
def test_nothing_is_guessed(legacy: State, primary: State, error: type[FrontdeskError]) -> None:
    with pytest.raises(error):
        live(Side(legacy), Side(primary))


def test_of_two_that_say_open_the_later_epoch_counts() -> None:
    assert live(Side(OPEN, 3), Side(OPEN, 2)) == "legacy"
    assert live(Side(OPEN, 1), Side(OPEN, 2)) == "primary"


@pytest.mark.parametrize(("legacy", "primary"), list(itertools.product(State, State)))
def test_a_standby_is_never_chosen(legacy: State, primary: State) -> None:
    states = {"legacy": legacy, "primary": primary}
    try:
        name = live(Side(legacy, 1), Side(primary, 1))
    except FrontdeskError:
        return
    assert states[name] is not STANDBY
    assert OPEN not in states.values() or states[name] is OPEN
