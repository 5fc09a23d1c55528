"""Providers that are far apart: a move with writers at work, within the pause that is allowed by default."""

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from app.transfer.copying.copy import copy
from app.transfer.cutover.cutover import AbortedError, change_live_side
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.status import read_status
from app.transfer.relay.relay import drain, relay
from app.transfer.start import start
from tests.transfer.distant import RemoteSides, SingleOpenSideCheck
from tests.transfer.moving import rows
from tests.transfer.writers import KINDS
from tests.transfer.writing import running_writers

pytestmark = pytest.mark.xdist_group("network")  # one pair of servers for all

EACH_WAY = 0.02  # seconds
FEW = ("repeatable read", "psql with BEGIN")
THERE_AND_BACK: tuple[SideName, ...] = ("primary", "legacy")


def patiently(sides: Sides, to: SideName) -> None:
    """Within the pause that is allowed by default; a machine that is busy may need it once more."""
    for _ in range(2):
        with suppress(AbortedError):
            change_live_side(sides, to)
            return
    change_live_side(sides, to)


@pytest.mark.parametrize(
    ("kinds", "rest", "rounds"),
    [
        pytest.param(FEW, 0.05, 1, id=""),
        pytest.param(tuple(KINDS), 0.01, 3, id="writers of all kinds", marks=pytest.mark.full),
    ],
)
def test_nothing_is_lost_where_the_servers_are_far_away_and_the_pause_is_the_usual_one(
    distant: RemoteSides, tmp_path: Path, kinds: tuple[str, ...], rest: float, rounds: int
) -> None:
    with (
        running_writers(distant.services, tmp_path, delay=rest, kinds=kinds) as them,
        SingleOpenSideCheck(distant.direct) as one_open,
    ):
        start(distant.direct)
        copy(distant.direct)
        for line in distant.of_commands:
            line.slow(EACH_WAY)
        stop = threading.Event()
        relaying = threading.Thread(target=relay, args=(distant.commands, stop))
        relaying.start()
        try:
            for to in THERE_AND_BACK * rounds:
                them.wait_for_changes(3)
                patiently(distant.commands, to)
            them.wait_for_changes(3)
        finally:
            stop.set()
            relaying.join()
        them.stop()
        drain(distant.commands)
        them.check(distant.direct.legacy)
        assert rows(distant.direct.legacy) == rows(distant.direct.primary)
        assert (read_status(distant.direct).live, read_status(distant.direct).in_the_way) == ("legacy", [])
    assert one_open.violations == []
    assert one_open.looks > 100
