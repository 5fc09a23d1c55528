"""History of the last half hour: a sample every ten seconds, kept in memory, for the status page."""

import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from app.observability.metric_snapshot import MetricSnapshot, take_snapshot
from app.web.health.database_check import DatabaseCheck, DatabaseStatus
from app.web.health.installation_check import InstallationCheck
from app.web.health.transfer_check import TransferCheck

SAMPLE_INTERVAL_SECONDS = 10.0
HISTORY_SECONDS = 1800.0
MAX_KEPT = int(HISTORY_SECONDS / SAMPLE_INTERVAL_SECONDS) + 1


@dataclass(frozen=True)
class HistorySample:
    """Metrics and check results at one time.

    `at` is a Unix timestamp. `commits` is the database's commit counter, or None if it could not be read.
    """

    at: float
    snapshot: MetricSnapshot
    database_status: DatabaseStatus
    commits: int | None


@dataclass(frozen=True)
class Interval:
    """Difference between two samples: `at` is the time of the later one, `commits` the number of commits."""

    at: float
    seconds: float
    delta: MetricSnapshot
    commits: int | None


class History:
    """Samples of the last half hour. Each process keeps its own history, from `start` on."""

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
        """Start sampling in a background thread. Call it after forking: threads do not survive a fork."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="history", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            self._samples.append(self.read_sample())
            # Aligned to the clock, so that all workers sample at the same times.
            time.sleep(SAMPLE_INTERVAL_SECONDS - time.time() % SAMPLE_INTERVAL_SECONDS)

    def read_sample(self) -> HistorySample:
        """Run the checks and return a sample of the current state."""
        self._installation_check.start()
        self._transfer_check.start()  # it updates the transfer's metrics
        status = self._database_check()
        installation = self._installation_check()
        commits = None if installation is None else installation.server.commits
        return HistorySample(time.time(), take_snapshot(), status, commits)

    def read_samples(self) -> list[HistorySample]:
        """Return the samples of the last half hour and a current one, the oldest first."""
        now = self.read_sample()
        return [*(sample for sample in list(self._samples) if now.at - HISTORY_SECONDS <= sample.at), now]


def intervals(samples: list[HistorySample]) -> list[Interval]:
    """Return the differences between successive samples, leaving out pairs less than a second apart."""
    return [
        Interval(
            after.at,
            after.at - before.at,
            after.snapshot.since(before.snapshot),
            _commits(before.commits, after.commits),
        )
        for before, after in pairwise(samples)
        if after.at - before.at > 1  # a shorter interval gives meaningless rates
    ]


def _commits(before: int | None, after: int | None) -> int | None:
    # A server that crashed has lost its statistics, and its counter starts from zero.
    return after - before if before is not None and after is not None and after >= before else None


def interval_since(samples: list[HistorySample], seconds: float) -> Interval | None:
    """Return the difference between the last sample and the first one within the last `seconds` seconds.

    Returns None if there is no earlier sample in that time.
    """
    last = samples[-1]
    first = next(sample for sample in samples if sample.at >= last.at - seconds)
    return next(iter(intervals([first, last])), None)
