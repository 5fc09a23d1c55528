"""Tests of a transfer between distant servers with active writers and the default limit of the pause."""

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

pytestmark = pytest.mark.xdist_group("network")  # these tests share one pair of servers

EACH_WAY = 0.02  # seconds of latency in each direction
FEW = ("repeatable read", "psql with BEGIN")
THERE_AND_BACK: tuple[SideName, ...] = ("primary", "legacy")


def change_live_side_with_retries(sides: Sides, to: SideName) -> None:
    """Change the live side within the default pause. A busy machine may need up to three attempts."""
    for _ in range(2):
        with suppress(AbortedError):
            change_live_side(sides, to)
            return
    change_live_side(sides, to)


@pytest.mark.parametrize(
    ("kinds", "rest", "rounds"),
    [
        pytest.param(FEW, 0.05, 1, id="few writers"),
        pytest.param(tuple(KINDS), 0.01, 3, id="writers of all kinds", marks=pytest.mark.full),
    ],
)
def test_no_write_is_lost_with_distant_servers_and_the_default_pause(
    distant: RemoteSides, tmp_path: Path, kinds: tuple[str, ...], rest: float, rounds: int
) -> None:
    with (
        running_writers(distant.services, tmp_path, delay=rest, kinds=kinds) as writers,
        SingleOpenSideCheck(distant.direct) as one_open,
    ):
        start(distant.direct)
        copy(distant.direct)
        for proxy in distant.of_commands:
            proxy.slow(EACH_WAY)
        stop = threading.Event()
        relaying = threading.Thread(target=relay, args=(distant.commands, stop))
        relaying.start()
        try:
            for to in THERE_AND_BACK * rounds:
                writers.wait_for_changes(3)
                change_live_side_with_retries(distant.commands, to)
            writers.wait_for_changes(3)
        finally:
            stop.set()
            relaying.join()
        writers.stop()
        drain(distant.commands)
        writers.check(distant.direct.legacy)
        assert rows(distant.direct.legacy) == rows(distant.direct.primary)
        assert (read_status(distant.direct).live, read_status(distant.direct).in_the_way) == ("legacy", [])
    assert one_open.violations == []
    assert one_open.looks > 100
