"""The last half hour, kept in memory: a look every ten seconds, whether anybody watches or not."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from app.observability.metric_snapshot import Snapshot, take
from app.web.health.database_check import DatabaseCheck, Verdict
from app.web.health.installation_check import InstallationCheck
from app.web.health.transfer_check import TransferCheck

EVERY = 10.0  # seconds
WINDOW = 1800.0  # seconds
KEPT = int(WINDOW / EVERY) + 1


@dataclass(frozen=True)
class Look:
    """What was seen at one moment (`at`: seconds since 1970); `commits` of the database since its start."""

    at: float
    snapshot: Snapshot
    verdict: Verdict
    commits: int | None


@dataclass(frozen=True)
class Interval:
    """What happened between two looks that follow each other."""

    at: float
    seconds: float
    happened: Snapshot
    commits: int | None


class History:
    """The looks of the last half hour. Each process begins its own when it is told to."""

    def __init__(
        self, database: DatabaseCheck, installation: InstallationCheck, transfer: TransferCheck
    ) -> None:
        self._database = database
        self._installation = installation
        self._transfer = transfer
        self._looks: deque[Look] = deque(maxlen=KEPT)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look from now on. After a fork: threads do not survive one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_looking, name="history", daemon=True)
            self._thread.start()

    def _keep_looking(self) -> None:
        while True:
            self._looks.append(self.look())
            time.sleep(EVERY - time.time() % EVERY)  # in step with the clock, as other workers

    def look(self) -> Look:
        """What is to be seen now."""
        self._installation.start()
        self._transfer.start()  # for its metrics
        verdict = self._database()
        installation = self._installation()
        commits = None if installation is None else installation.server.commits
        return Look(time.time(), take(), verdict, commits)

    def with_now(self) -> list[Look]:
        """The looks of the last half hour and one now, the oldest first."""
        now = self.look()
        return [*(look for look in list(self._looks) if now.at - WINDOW <= look.at), now]


def intervals(looks: list[Look]) -> list[Interval]:
    """What happened between the looks."""
    return [
        Interval(
            after.at,
            after.at - before.at,
            after.snapshot.since(before.snapshot),
            _commits(before.commits, after.commits),
        )
        for before, after in pairwise(looks)
        if after.at - before.at > 1  # two looks at once say nothing about the time between them
    ]


def _commits(before: int | None, after: int | None) -> int | None:
    # A server that crashed has lost its statistics and counts from nothing again.
    return after - before if before is not None and after is not None and after >= before else None


def since(looks: list[Look], seconds: float) -> Interval | None:
    """What happened in about the last so many seconds, or since the first look; None with one look."""
    last = looks[-1]
    first = next(look for look in looks if look.at >= last.at - seconds)
    return next(iter(intervals([first, last])), None)
