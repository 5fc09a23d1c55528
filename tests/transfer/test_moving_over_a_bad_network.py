"""A whole move with writers at work, over a network that is cut, silent and slow at random moments."""

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from app.errors import FrontdeskError
from app.transfer.copying.copy import copy
from app.transfer.cutover.cutover import change_live_side
from app.transfer.finish import finish
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.stages import Stage
from app.transfer.protocol.status import read_status
from app.transfer.relay.relay import drain, relay
from app.transfer.start import start
from app.transfer.verification.verify import verify
from tests.network import BLACK_HOLE, CUT, MUTE, SLOW, TcpProxy
from tests.processes import WAIT_TIMEOUT_SECONDS
from tests.transfer.distant import RemoteSides, SingleOpenSideCheck
from tests.transfer.moving import rows
from tests.transfer.writers import KINDS
from tests.transfer.writing import running_writers

pytestmark = pytest.mark.xdist_group("network")  # one pair of servers for all

THERE_AND_BACK: tuple[SideName, ...] = ("primary", "legacy")
STATEMENTS = (
    b"BEGIN",
    b"COMMIT",
    b"COPY",
    b"frontdesk_transfer",
    b"close(",
    b"hand_over(",
    b".open(",
    b"sha256",
)


class Weather:
    """Faults at random on the way to the servers, one after the other, each healed again."""

    def __init__(self, distant: RemoteSides, seed: int) -> None:
        self._distant = distant
        self._chance = random.Random(seed)

    def through(self, work: Callable[[], object]) -> None:
        """Do some work, again and again until it is done, and let a fault come meanwhile."""
        stop = threading.Event()
        storm = threading.Thread(target=self._storm, args=(stop,))
        storm.start()
        deadline = time.monotonic() + WAIT_TIMEOUT_SECONDS
        try:
            while True:
                try:
                    work()
                except (FrontdeskError, psycopg.Error):
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
                else:
                    return
        finally:
            stop.set()
            storm.join()
            self._distant.heal()

    def _storm(self, stop: threading.Event) -> None:
        for line in self._chance.sample(self._distant.lines, self._chance.choice((1, 1, 2, 4))):
            self._befall(line)
        stop.wait(self._chance.uniform(0.1, 1.5))
        time.sleep(self._chance.uniform(0, 0.3))
        self._distant.heal()

    def _befall(self, line: TcpProxy) -> None:
        if self._chance.random() < 0.5:
            fault = self._chance.choice((CUT, BLACK_HOLE, MUTE, SLOW))
            moment = self._chance.choice(("request", "answer", 2_000))
            line.inject_fault_on(self._chance.choice(STATEMENTS), fault, moment)
            return
        time.sleep(self._chance.uniform(0, 0.3))
        match self._chance.choice(("cut", "black hole", "mute", "slow", "narrow")):
            case "cut":
                line.cut()
            case "black hole":
                line.black_hole()
            case "mute":
                line.mute()
            case "slow":
                line.slow(self._chance.uniform(0.005, 0.1))
            case "narrow":
                line.slow(0, 100_000)


def compare(sides: Sides) -> None:
    assert verify(sides).divergences == []


@pytest.mark.parametrize(
    ("seed", "rounds"),
    [(0, 1), *(pytest.param(seed, 3, marks=pytest.mark.full) for seed in range(1, 7))],
)
def test_nothing_is_lost_whatever_befalls_the_network(
    distant: RemoteSides, tmp_path: Path, seed: int, rounds: int
) -> None:
    weather, commands = Weather(distant, seed), distant.commands
    few = ["repeatable read", "psql with BEGIN", "data layer"]
    kinds = tuple(random.Random(seed).sample(sorted(KINDS), 4) if seed else few)
    with (
        running_writers(distant.services, tmp_path, seed, delay=0.05, kinds=kinds) as them,
        SingleOpenSideCheck(distant.direct) as one_open,
    ):
        weather.through(lambda: start(commands))
        weather.through(lambda: copy(commands))
        stop = threading.Event()
        relaying = threading.Thread(target=relay, args=(commands, stop))
        relaying.start()
        try:
            for to in (*THERE_AND_BACK * rounds, "primary"):
                them.wait_for_changes(3)
                weather.through(lambda to=to: change_live_side(commands, to, max_pause=5))  # type: ignore[misc]
                weather.through(lambda: compare(commands))
            them.wait_for_changes(3)
        finally:
            stop.set()
            relaying.join()
        them.stop()
        drain(commands)
        assert verify(distant.direct).is_equal
        found = read_status(distant.direct)
        assert (found.live, found.marks, found.in_the_way) == ("primary", 0, [])
        assert rows(distant.direct.legacy) == rows(distant.direct.primary)
        weather.through(lambda: finish(commands, force=True))
        assert read_status(distant.direct).stage is Stage.NOT_STARTED
        them.check(distant.direct.primary)
    assert one_open.violations == []
    assert one_open.looks > 100
