"""Reads made on both sides of a move and compared, in the manner of GitHub's Scientist.

The caller has had its answer by then: a sample goes into a short queue, which drops what does not fit, and
a thread compares at its leisure. Most mismatches are races with writes and with the relay, so each is
checked again before it counts.
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
from app.database.database import Connection, Database
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

QUEUE_SIZE = 100  # samples in the queue
MAX_SAMPLE_ROWS = 1_000  # rows of one; a larger one is not compared
STATEMENT_TIMEOUT_MS = 5_000  # milliseconds for a statement
STAGE_CACHE_SECONDS = 10.0  # seconds that the stage of the move is remembered
RELAY_TIMEOUT_SECONDS = 5.0  # seconds for the relay to bring over what was written by now
RECHECKS = 3  # times that a difference has to show itself, besides the first

_COMPARABLE_STAGES = (Stage.RELAYING, Stage.CUT_OVER)  # the stages in which the standby has all rows


@dataclass(frozen=True)
class Sample:
    """One read as the caller had it. `id_index` is the place of our id in a row, if there is one."""

    text: str
    parameters: dict[str, Any]
    rows: Sequence[Sequence[Any]]
    label: str
    id_index: int | None
    side: SideName | None


class SamplingReader(PoolReader):
    """A PoolReader that lets a share of its reads be compared."""

    def __init__(self, database: LiveDatabase, settings: Settings) -> None:
        super().__init__(database)
        self._moving = database
        self._sample_rate = settings.transfer_compare_reads
        self.comparer = ReadComparer(database, settings)

    def _fetch(
        self, text: str, parameters: dict[str, Any], query: Query[Any] | None = None
    ) -> list[tuple[Any, ...]]:
        rows = super()._fetch(text, parameters, query)
        if random.random() < self._sample_rate:  # noqa: S311 - a sample, no secret
            present = operation_context.current()
            what = query.model.__tablename__ if query else (present and present.operation) or "a read"
            key = query.columns.index("id") if query and "id" in query.columns else None
            self.comparer.offer(Sample(text, parameters, rows, what, key, self._moving.live_name))
        return rows


class ReadComparer:
    """The thread that compares, and its queue. It begins with the first sample; a fork begins its own."""

    def __init__(
        self, database: LiveDatabase, settings: Settings, monitor: DivergenceMonitor = shared_monitor
    ) -> None:
        self._database = database
        self._sides = Sides.from_settings(settings)
        self._monitor = monitor
        self._limited_log = RateLimitedLog(log)
        self._reset()
        begin_anew = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := begin_anew()) and method())

    def _reset(self) -> object:
        self._lock = threading.Lock()
        self._samples: queue.Queue[Sample | None] = queue.Queue(QUEUE_SIZE)
        self._thread: threading.Thread | None = None
        self._is_closed = False
        self._standby: tuple[SideName, Connection] | None = None
        self._stage, self._stage_until = Stage.UNKNOWN, 0.0
        return self

    def offer(self, sample: Sample) -> None:
        """Let a sample be compared, or drop it: this never waits."""
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
        """Give the connection back when the sample at hand is done; what waits is dropped."""
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
        """The next sample. A side that has become the live one meanwhile has enough connections."""
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
        """The one connection to the standby, which has no pool."""
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
    """What differs, checked again: nothing if it was a race, None where it cannot be told."""
    differing: list[str] = []
    for _ in range(RECHECKS):
        before = live.read(lambda connection: _run_sample(connection, sample))
        if not _wait_until_relayed(live):
            return None
        there = _run_sample(standby, sample)
        after = live.read(lambda connection: _run_sample(connection, sample))
        if _has_same_rows(there, before) or _has_same_rows(there, after):
            return []
        if not _has_same_rows(before, after):
            differing = []  # it changes all the time
            continue
        differing = _row_labels(sample, after, there)
    return differing or None


def _wait_until_relayed(live: Database) -> bool:
    """Wait until the standby has whatever was written by now; whether that came to pass."""
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
    """Table and our id of each row that differs; what was read, where rows have none."""
    mine, theirs = Counter(map(repr, live_rows)), Counter(map(repr, standby_rows))
    rows = [
        *(row for row in live_rows if repr(row) not in theirs),
        *(row for row in standby_rows if repr(row) not in mine),
    ]
    if sample.id_index is None or not rows:
        return [sample.label]
    return sorted({f"{sample.label} {row[sample.id_index]}" for row in rows})


def _has_same_rows(rows: Sequence[Sequence[Any]], other_rows: Sequence[Sequence[Any]]) -> bool:
    # In any order: what is not ordered by the statement lies in the table as it came.
    return Counter(map(repr, rows)) == Counter(map(repr, other_rows))


def _run_sample(connection: Connection, sample: Sample) -> list[tuple[Any, ...]]:
    # Not the connection's own cursors: this is nobody's query, and no slow one of the service.
    cursor: psycopg.Cursor[Any] = psycopg.Cursor(connection)
    return cursor.execute(sample.text.encode(), sample.parameters).fetchall()


def _value(database: Database, text: LiteralString, parameters: dict[str, Any]) -> Any:
    def read(connection: Connection) -> Any:
        cursor: psycopg.Cursor[Any] = psycopg.Cursor(connection)
        return cursor.execute(text, parameters).fetchone()

    row = database.read(read)
    return row and row[0]
