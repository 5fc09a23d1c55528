"""Tests of a whole transfer with active writers over a network with random faults."""

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

# These tests share one pair of servers, and each takes up to a minute.
pytestmark = [pytest.mark.xdist_group("network"), pytest.mark.full]

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


class RandomFaults:
    """Random network faults between the programs and the servers, each of which is healed after a while."""

    def __init__(self, distant: RemoteSides, seed: int) -> None:
        self._distant = distant
        self._random = random.Random(seed)

    def run(self, work: Callable[[], object]) -> None:
        """Call `work` until it succeeds, and inject random faults meanwhile."""
        stop = threading.Event()
        faults = threading.Thread(target=self._inject_and_heal, args=(stop,))
        faults.start()
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
            faults.join()
            self._distant.heal()

    def _inject_and_heal(self, stop: threading.Event) -> None:
        for proxy in self._random.sample(self._distant.lines, self._random.choice((1, 1, 2, 4))):
            self._inject(proxy)
        stop.wait(self._random.uniform(0.1, 1.5))
        time.sleep(self._random.uniform(0, 0.3))
        self._distant.heal()

    def _inject(self, proxy: TcpProxy) -> None:
        if self._random.random() < 0.5:
            fault = self._random.choice((CUT, BLACK_HOLE, MUTE, SLOW))
            moment = self._random.choice(("request", "answer", 2_000))
            proxy.inject_fault_on(self._random.choice(STATEMENTS), fault, moment)
            return
        time.sleep(self._random.uniform(0, 0.3))
        match self._random.choice(("cut", "black hole", "mute", "slow", "narrow")):
            case "cut":
                proxy.cut()
            case "black hole":
                proxy.black_hole()
            case "mute":
                proxy.mute()
            case "slow":
                proxy.slow(self._random.uniform(0.005, 0.1))
            case "narrow":
                proxy.slow(0, 100_000)


def compare(sides: Sides) -> None:
    assert verify(sides).divergences == []


@pytest.mark.parametrize(("seed", "rounds"), [(0, 1), *((seed, 3) for seed in range(1, 7))])
def test_no_write_is_lost_on_an_unreliable_network(
    distant: RemoteSides, tmp_path: Path, seed: int, rounds: int
) -> None:
    faults, commands = RandomFaults(distant, seed), distant.commands
    few = ["repeatable read", "psql with BEGIN", "data layer"]
    kinds = tuple(random.Random(seed).sample(sorted(KINDS), 4) if seed else few)
    with (
        running_writers(distant.services, tmp_path, seed, delay=0.05, kinds=kinds) as writers,
        SingleOpenSideCheck(distant.direct) as one_open,
    ):
        faults.run(lambda: start(commands))
        faults.run(lambda: copy(commands))
        stop = threading.Event()
        relaying = threading.Thread(target=relay, args=(commands, stop))
        relaying.start()
        try:
            for to in (*THERE_AND_BACK * rounds, "primary"):
                writers.wait_for_changes(3)
                faults.run(lambda to=to: change_live_side(commands, to, max_pause=5))  # type: ignore[misc]
                faults.run(lambda: compare(commands))
            writers.wait_for_changes(3)
        finally:
            stop.set()
            relaying.join()
        writers.stop()
        drain(commands)
        assert verify(distant.direct).is_equal
        status = read_status(distant.direct)
        assert (status.live, status.marks, status.in_the_way) == ("primary", 0, [])
        assert rows(distant.direct.legacy) == rows(distant.direct.primary)
        faults.run(lambda: finish(commands, force=True))
        assert read_status(distant.direct).stage is Stage.NOT_STARTED
        writers.check(distant.direct.primary)
    assert one_open.violations == []
    assert one_open.looks > 100
