"""Shadow reads: repeat a sample of the service's reads on the standby and compare the rows.

The approach is that of GitHub's Scientist library. The caller gets its rows first; the sample then goes into
a short queue, and is dropped if the queue is full. A background thread compares the samples. Most mismatches
are races with writers or with the relay, so each mismatch is checked again before it is counted.
"""

import logging
import os
import queue
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg

from app.config import Settings
from app.database.connection import Connection
from app.database.database import Database
from app.database.live_database import LiveDatabase
from app.database.query import PoolReader, Query
from app.database.side_state import SideName
from app.errors import DRIVER_ERRORS, FrontdeskError, to_frontdesk_error
from app.observability import metrics, operation_context
from app.observability.rate_limited_log import RateLimitedLog
from app.transfer.protocol.endpoints import Sides
from app.transfer.protocol.stages import Stage
from app.transfer.protocol.status import read_status
from app.transfer.verification.divergence_monitor import DivergenceMonitor, shared_monitor

log = logging.getLogger(__name__)

QUEUE_SIZE = 100  # samples
MAX_SAMPLE_ROWS = 1_000  # reads with more rows are not compared
STATEMENT_TIMEOUT_MS = 5_000
STAGE_CACHE_SECONDS = 10.0  # how long the stage of the transfer is cached
RELAY_TIMEOUT_SECONDS = 5.0  # how long to wait until the relay has applied the pending changes
RECHECKS = 3  # additional comparisons that must also differ

_COMPARABLE_STAGES = (Stage.RELAYING, Stage.CUT_OVER)  # the stages in which the standby has all rows


@dataclass(frozen=True)
class Sample:
    """A read and the rows that it returned. `id_index` is the index of the `id` column, if there is one."""

    text: str
    parameters: dict[str, Any]
    rows: Sequence[Sequence[Any]]
    label: str
    id_index: int | None
    side: SideName | None


class SamplingReader(PoolReader):
    """A PoolReader that passes a random share of its reads to a ReadComparer."""

    def __init__(self, database: LiveDatabase, settings: Settings) -> None:
        super().__init__(database)
        self._moving = database
        self._sample_rate = settings.transfer_compare_reads
        self.comparer = ReadComparer(database, settings)

    def _fetch(
        self, text: str, parameters: dict[str, Any], query: Query[Any] | None = None
    ) -> list[tuple[Any, ...]]:
        rows = super()._fetch(text, parameters, query)
        if random.random() < self._sample_rate:  # noqa: S311 - sampling, not a secret
            present = operation_context.current()
            label = query.model.__tablename__ if query else (present and present.operation) or "a read"
            id_index = query.columns.index("id") if query and "id" in query.columns else None
            self.comparer.offer(Sample(text, parameters, rows, label, id_index, self._moving.live_name))
        return rows


class ReadComparer:
    """Compares samples in a background thread.

    The thread starts with the first sample. A forked child process starts its own thread and queue.
    """

    def __init__(
        self, database: LiveDatabase, settings: Settings, monitor: DivergenceMonitor = shared_monitor
    ) -> None:
        self._database = database
        self._sides = Sides.from_settings(settings)
        self._monitor = monitor
        self._limited_log = RateLimitedLog(log)
        self._reset()
        weak_reset = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := weak_reset()) and method())

    def _reset(self) -> object:
        self._lock = threading.Lock()
        self._samples: queue.Queue[Sample | None] = queue.Queue(QUEUE_SIZE)
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._standby: tuple[SideName, Connection] | None = None
        self._stage, self._stage_until = Stage.UNKNOWN, 0.0
        return self

    def offer(self, sample: Sample) -> None:
        """Queue a sample for comparison, or drop it if the queue is full. This never blocks."""
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="compare", daemon=True)
                    self._thread.start()
        try:
            self._samples.put_nowait(sample)
        except queue.Full:
            metrics.READS_NOT_COMPARED.inc()

    def close(self) -> None:
        """Stop after the current sample and drop the queued ones; the thread then closes its connection."""
        with self._lock:
            if self._thread is None:
                return
            while True:
                try:
                    self._samples.put_nowait(None)
                except queue.Full:
                    with suppress(queue.Empty):
                        self._samples.get_nowait()
                else:
                    break
            self._is_closed = True

    def _run(self) -> None:
        while (sample := self._next()) is not None and not self._is_closed:
            try:
                self._compare(sample)
            except (FrontdeskError, *DRIVER_ERRORS) as error:
                metrics.READS_NOT_COMPARED.inc()
                self._close_standby()
                self._limited_log.warning(
                    "A read could not be compared: %s", to_frontdesk_error(error).message
                )
        self._close_standby()

    def _next(self) -> Sample | None:
        """Wait for the next sample, and return it (None: stop).

        While waiting, close the connection to a standby that has become live: the live side's connections are
        needed by the service.
        """
        while True:
            try:
                return self._samples.get(timeout=1.0)
            except queue.Empty:
                if self._standby is not None and self._standby[0] == self._database.live_name:
                    self._close_standby()

    def _compare(self, sample: Sample) -> None:
        live = sample.side
        if live is None or self._stage_now() not in _COMPARABLE_STAGES:
            return
        if len(sample.rows) > MAX_SAMPLE_ROWS:
            metrics.READS_NOT_COMPARED.inc()
            return
        standby = self._connection("primary" if live == "legacy" else "legacy")
        if _has_same_rows(sample.rows, _run_sample(standby, sample)):
            self._monitor.record()
            return
        differing = _find_differences(sample, self._database.sides[live], standby)
        if differing is None or self._database.live_name != live:
            metrics.READS_NOT_COMPARED.inc()
        else:
            self._monitor.record(differing)

    def _stage_now(self) -> Stage:
        if time.monotonic() > self._stage_until:
            self._stage = read_status(self._sides, timeout=STATEMENT_TIMEOUT_MS / 1000).stage
            self._stage_until = time.monotonic() + STAGE_CACHE_SECONDS
        return self._stage

    def _connection(self, name: SideName) -> Connection:
        """Return the connection to the standby, opened outside the pool."""
        if self._standby is None or self._standby[0] != name:
            self._close_standby()
            database: Database = self._database.sides[name]
            self._standby = name, database.connect_outside_pool(STATEMENT_TIMEOUT_MS)
        return self._standby[1]

    def _close_standby(self) -> None:
        if self._standby is not None:
            self._standby[1].close()
            self._standby = None


def _find_differences(sample: Sample, live: Database, standby: Connection) -> list[str] | None:
    """Repeat the comparison up to RECHECKS times and return labels of the rows that still differ.

    Returns an empty list if the first mismatch was a race, and None if that cannot be determined.
    """
    differing: list[str] = []
    for _ in range(RECHECKS):
        before = live.read(lambda connection: _run_sample(connection, sample))
        if not _wait_until_relayed(live):
            return None
        on_standby = _run_sample(standby, sample)
        after = live.read(lambda connection: _run_sample(connection, sample))
        if _has_same_rows(on_standby, before) or _has_same_rows(on_standby, after):
            return []
        if not _has_same_rows(before, after):
            differing = []  # the rows changed during this comparison
            continue
        differing = _row_labels(sample, after, on_standby)
    return differing or None


def _wait_until_relayed(live: Database) -> bool:
    """Wait until the standby has all changes that are pending now. Returns False on a timeout."""
    last = _value(live, "SELECT max(seq) FROM frontdesk_transfer.marks", {})
    deadline = time.monotonic() + RELAY_TIMEOUT_SECONDS
    waiting = "SELECT EXISTS (SELECT FROM frontdesk_transfer.marks WHERE seq <= %(last)s)"
    while last is not None and _value(live, waiting, {"last": last}):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _row_labels(
    sample: Sample, live_rows: Sequence[Sequence[Any]], standby_rows: Sequence[Sequence[Any]]
) -> list[str]:
    """Return the label and id of each row that differs, or only the label of a sample without ids."""
    on_live, on_standby = Counter(map(repr, live_rows)), Counter(map(repr, standby_rows))
    rows = [
        *(row for row in live_rows if repr(row) not in on_standby),
        *(row for row in standby_rows if repr(row) not in on_live),
    ]
    if sample.id_index is None or not rows:
        return [sample.label]
    return sorted({f"{sample.label} {row[sample.id_index]}" for row in rows})


def _has_same_rows(rows: Sequence[Sequence[Any]], other_rows: Sequence[Sequence[Any]]) -> bool:
    # Ignore the order: a statement without ORDER BY returns the rows in their physical order.
    return Counter(map(repr, rows)) == Counter(map(repr, other_rows))


def _run_sample(connection: Connection, sample: Sample) -> list[tuple[Any, ...]]:
    # A plain psycopg cursor: shadow reads must not count in the service's query metrics and slow-query log.
    cursor: psycopg.Cursor[Any] = psycopg.Cursor(connection)
    return cursor.execute(sample.text.encode(), sample.parameters).fetchall()


def _value(database: Database, text: LiteralString, parameters: dict[str, Any]) -> Any:
    def read(connection: Connection) -> Any:
        cursor: psycopg.Cursor[Any] = psycopg.Cursor(connection)
        return cursor.execute(text, parameters).fetchone()

    row = database.read(read)
    return row and row[0]
