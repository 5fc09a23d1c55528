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
from app.transfer.cutover.cutover import switch
from app.transfer.finish import finish
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.stages import Stage
from app.transfer.protocol.status import status
from app.transfer.relay.relay import drain, relay
from app.transfer.start import start
from app.transfer.verification.verify import verify
from tests.network import BLACK_HOLE, CUT, MUTE, SLOW, Line
from tests.processes import PATIENCE
from tests.transfer.distant import Distant, OneOpen
from tests.transfer.moving import rows
from tests.transfer.writers import KINDS
from tests.transfer.writing import writing

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

    def __init__(self, distant: Distant, seed: int) -> None:
        self._distant = distant
        self._chance = random.Random(seed)

    def through(self, work: Callable[[], object]) -> None:
        """Do some work, again and again until it is done, and let a fault come meanwhile."""
        stop = threading.Event()
        storm = threading.Thread(target=self._storm, args=(stop,))
        storm.start()
        deadline = time.monotonic() + PATIENCE
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

    def _befall(self, line: Line) -> None:
        if self._chance.random() < 0.5:
            fault = self._chance.choice((CUT, BLACK_HOLE, MUTE, SLOW))
            moment = self._chance.choice(("request", "answer", 2_000))
            line.when(self._chance.choice(STATEMENTS), fault, moment)
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
    distant: Distant, tmp_path: Path, seed: int, rounds: int
) -> None:
    weather, commands = Weather(distant, seed), distant.commands
    few = ["repeatable read", "psql with BEGIN", "data layer"]
    kinds = tuple(random.Random(seed).sample(sorted(KINDS), 4) if seed else few)
    with (
        writing(distant.services, tmp_path, seed, rest=0.05, kinds=kinds) as them,
        OneOpen(distant.here) as one_open,
    ):
        weather.through(lambda: start(commands))
        weather.through(lambda: copy(commands))
        stop = threading.Event()
        relaying = threading.Thread(target=relay, args=(commands, stop))
        relaying.start()
        try:
            for to in (*THERE_AND_BACK * rounds, "primary"):
                them.write_on(3)
                weather.through(lambda to=to: switch(commands, to, max_pause=5))  # type: ignore[misc]
                weather.through(lambda: compare(commands))
            them.write_on(3)
        finally:
            stop.set()
            relaying.join()
        them.stop()
        drain(commands)
        assert verify(distant.here).is_equal
        found = status(distant.here)
        assert (found.live, found.marks, found.in_the_way) == ("primary", 0, [])
        assert rows(distant.here.legacy) == rows(distant.here.primary)
        weather.through(lambda: finish(commands, force=True))
        assert status(distant.here).stage is Stage.NOT_STARTED
        them.check(distant.here.primary)
    assert one_open.violations == []
    assert one_open.looks > 100
