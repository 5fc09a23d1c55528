"""The last half hour, kept in memory: a look every ten seconds, whether anybody watches or not."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from app.observability.metric_snapshot import MetricSnapshot, take_snapshot
from app.web.health.database_check import DatabaseCheck, DatabaseStatus
from app.web.health.installation_check import InstallationCheck
from app.web.health.transfer_check import TransferCheck

SAMPLE_INTERVAL_SECONDS = 10.0  # seconds
HISTORY_SECONDS = 1800.0  # seconds
MAX_KEPT = int(HISTORY_SECONDS / SAMPLE_INTERVAL_SECONDS) + 1


@dataclass(frozen=True)
class HistorySample:
    """What was seen at one moment (`at`: seconds since 1970); `commits` of the database since its start."""

    at: float
    snapshot: MetricSnapshot
    database_status: DatabaseStatus
    commits: int | None


@dataclass(frozen=True)
class Interval:
    """What happened between two looks that follow each other."""

    at: float
    seconds: float
    delta: MetricSnapshot
    commits: int | None


class History:
    """The looks of the last half hour. Each process begins its own when it is told to."""

    def __init__(
        self,
        database_check: DatabaseCheck,
        installation_check: InstallationCheck,
        transfer_check: TransferCheck,
    ) -> None:
        self._database_check = database_check
        self._installation_check = installation_check
        self._transfer_check = transfer_check
        self._samples: deque[HistorySample] = deque(maxlen=MAX_KEPT)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look from now on. After a fork: threads do not survive one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="history", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._samples.append(self.read_sample())
            time.sleep(
                SAMPLE_INTERVAL_SECONDS - time.time() % SAMPLE_INTERVAL_SECONDS
            )  # in step with the clock, as other workers

    def read_sample(self) -> HistorySample:
        """What is to be seen now."""
        self._installation_check.start()
        self._transfer_check.start()  # for its metrics
        verdict = self._database_check()
        installation = self._installation_check()
        commits = None if installation is None else installation.server.commits
        return HistorySample(time.time(), take_snapshot(), verdict, commits)

    def read_samples(self) -> list[HistorySample]:
        """The looks of the last half hour and one now, the oldest first."""
        now = self.read_sample()
        return [*(look for look in list(self._samples) if now.at - HISTORY_SECONDS <= look.at), now]


def intervals(samples: list[HistorySample]) -> list[Interval]:
    """What happened between the looks."""
    return [
        Interval(
            after.at,
            after.at - before.at,
            after.snapshot.since(before.snapshot),
            _commits(before.commits, after.commits),
        )
        for before, after in pairwise(samples)
        if after.at - before.at > 1  # two looks at once say nothing about the time between them
    ]


def _commits(before: int | None, after: int | None) -> int | None:
    # A server that crashed has lost its statistics and counts from nothing again.
    return after - before if before is not None and after is not None and after >= before else None


def interval_since(samples: list[HistorySample], seconds: float) -> Interval | None:
    """What happened in about the last so many seconds, or since the first look; None with one look."""
    last = samples[-1]
    first = next(look for look in samples if look.at >= last.at - seconds)
    return next(iter(intervals([first, last])), None)
