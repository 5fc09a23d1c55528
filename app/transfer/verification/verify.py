"""Verification: compare the contents of both sides by hash, also while writers are active.

If the hashes of a bucket differ, its differing rows become candidates. A row that has just been written may
differ for a moment. So a candidate counts as a divergence only if several reads show the same difference
while its key is not in the change log. Rows whose keys are in the change log are known to be behind.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg.types.json import Jsonb

from app.database.connection import Connection
from app.errors import InvalidInputError
from app.transfer.protocol import control_schema
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.fencing import read_side_row
from app.transfer.protocol.stages import Stage, other_side
from app.transfer.protocol.tables import (
    SCHEMA,
    TableInfo,
    read_tables,
    select_tables,
    sort_parents_first,
    transfer_tables,
)
from app.transfer.relay.session_pair import SideRows
from app.transfer.verification.buckets import (
    Bucket,
    BucketReader,
    PrimaryKey,
    batch_buckets,
    find_collated_columns,
)

CONNECTIONS_PER_SIDE = 2
CONFIRMING_READS = 3  # reads that must show the same difference before it counts
RECHECK_INTERVAL_SECONDS = 0.05
SETTLE_TIMEOUT_SECONDS = 15.0  # for candidates that keep changing or are pending in the change log
RECHECK_BATCH_KEYS = 5_000  # candidates in one query
MAX_RECORDED_ROWS = 100  # divergences whose columns are determined, and that the verification record lists


@dataclass(frozen=True)
class Divergence:
    """A row that differs. `kind`: `missing` or `extra` on the standby, or `different` in `columns`."""

    table: str
    key: PrimaryKey
    kind: str
    columns: tuple[str, ...] = ()


@dataclass
class TableResult:
    """Result for one table: row counts of both sides, differences, and `root`, the source's content hash."""

    name: str
    source_rows: int = 0
    standby_rows: int = 0
    root: str = ""
    different: int = 0
    waiting: int = 0  # rows whose keys are pending in the change log
    unsettled: int = 0  # rows that changed during every comparison
    reason: str = ""  # why the table could not be compared
    seconds: float = 0.0


@dataclass
class VerificationReport:
    """Result of a verification. `source` is the side that the other one follows."""

    source: SideName
    tables: list[TableResult] = field(default_factory=list)
    divergences: list[Divergence] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_compared(self) -> bool:
        """True if every row of every table could be compared."""
        return not any(table.reason or table.unsettled for table in self.tables)

    @property
    def is_equal(self) -> bool:
        """True if everything could be compared and nothing differs."""
        return self.is_compared and not self.divergences

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dict that can be serialised to JSON."""
        return {
            "equal": self.is_equal,
            "compared": self.is_compared,
            "source": self.source,
            "rows": sum(table.source_rows for table in self.tables),
            "waiting": sum(table.waiting for table in self.tables),
            "seconds": round(self.seconds, 3),
            "tables": [asdict(table) for table in self.tables],
            "divergences": [asdict(divergence) for divergence in self.divergences],
        }


OnVerifyProgress = Callable[[str, int, int], object]  # table, buckets done, buckets in all


def verify(
    sides: Sides,
    *,
    only: Collection[str] = (),
    on_progress: OnVerifyProgress = lambda table, done, total: None,
    settle_timeout: float = SETTLE_TIMEOUT_SECONDS,
) -> VerificationReport:
    """Compare the tables on both sides and return a report with the differences.

    The tables are those of the transfer. If no transfer has been started, they are those of Frontdesk's
    models, and legacy is the source. During a transfer, a complete result for all tables is recorded on both
    sides.

    Args:
        sides: Both databases.
        only: Qualified names of the tables to compare; empty for all tables.
        on_progress: Called after each batch of buckets.
        settle_timeout: Seconds to wait for rows that keep changing or are pending in the change log.

    Raises:
        InvalidInputError: `only` names an unknown table.
        UnavailableError: A server cannot be reached.
    """
    with ExitStack() as stack:
        sessions = [
            {side.name: stack.enter_context(closing(side.connect())) for side in sides}
            for _ in range(CONNECTIONS_PER_SIDE)
        ]
        comparison = Verification(sessions)
        report = comparison.run(only, on_progress, settle_timeout)
        if comparison.is_transfer_active and not only and report.is_compared:
            for connection in sessions[0].values():
                _record(connection, report)
        return report


class Verification:
    """A comparison of both sides through several sessions on each, from `source` to the other side."""

    def __init__(self, sessions: Sequence[Mapping[SideName, Connection]]) -> None:
        rows = SideRows(
            *(
                read_side_row(connection) if control_schema.is_set_up(connection) else None
                for connection in sessions[0].values()
            )
        )
        self.is_transfer_active = rows.stage not in (Stage.NOT_STARTED, Stage.STARTING)
        self.source: SideName = rows.source if self.is_transfer_active else "legacy"
        self._sessions = [(pair[self.source], pair[other_side(self.source)]) for pair in sessions]
        source, standby = self._sessions[0]
        self.tables = (
            transfer_tables(source)
            if self.is_transfer_active
            else sort_parents_first(select_tables(read_tables(source), ()))
        )
        self._standby_tables = {table.name: table for table in read_tables(standby)}

    def run(
        self, only: Collection[str], on_progress: OnVerifyProgress, settle_timeout: float
    ) -> VerificationReport:
        """Compare all tables (or `only` some), then compare rows that were changing again; return the report.

        Raises InvalidInputError if `only` names an unknown table.
        """
        unknown = sorted(set(only) - {table.name for table in self.tables})
        if unknown:
            raise InvalidInputError(
                f"Unknown tables: {', '.join(unknown)}. Name tables of the transfer with their schema."
            )
        report = VerificationReport(self.source)
        began = time.monotonic()
        unsettled_tables: list[tuple[TableResult, TablePair, set[PrimaryKey]]] = []
        with ThreadPoolExecutor(2 * CONNECTIONS_PER_SIDE) as threads:
            for table in self.tables:
                if only and table.name not in only:
                    continue
                result = TableResult(table.name, reason=self.reason_not_comparable(table))
                report.tables.append(result)
                if not result.reason:
                    pairs = self._pairs(table)
                    found, unsettled = self._compare(threads, pairs, result, on_progress)
                    report.divergences += found
                    unsettled_tables.append((result, pairs[0], unsettled))
        deadline = time.monotonic() + settle_timeout
        for result, pair, keys in unsettled_tables:
            found, waiting, unsettled = pair.recheck(keys, deadline)
            report.divergences += found
            result.different += len(found)
            result.waiting, result.unsettled = len(waiting), len(unsettled)
        report.seconds = time.monotonic() - began
        return report

    def reason_not_comparable(self, table: TableInfo) -> str:
        """Return why the table cannot be compared, or "" if it can."""
        other = self._standby_tables.get(table.name)
        if other is None:
            return "the standby does not have this table"
        if not table.key:
            return "it has no primary key"
        if (set(table.columns), table.key) != (set(other.columns), other.key):
            return "its columns or its key differ on the standby"
        return ""

    def _pairs(self, table: TableInfo) -> list["TablePair"]:
        """Return the table on both sides, once per pair of sessions."""
        sorts = find_collated_columns(self._sessions[0], table)
        return [
            TablePair(
                table,
                BucketReader(source, table, sorts),
                BucketReader(standby, table, sorts),
                source,
                self.is_transfer_active,
            )
            for source, standby in self._sessions
        ]

    def _compare(
        self,
        threads: ThreadPoolExecutor,
        pairs: Sequence["TablePair"],
        result: TableResult,
        on_progress: OnVerifyProgress,
    ) -> tuple[list[Divergence], set[PrimaryKey]]:
        """Compare one table bucket by bucket.

        Returns the divergences, and the keys of rows that are pending or that changed during the comparison.
        """
        began = time.monotonic()
        buckets = pairs[0].source.buckets()
        done, root = 0, hashlib.sha256()
        found: list[Divergence] = []
        unsettled: set[PrimaryKey] = set()
        for batches in batch_buckets(buckets, len(pairs)):
            answers = [
                [threads.submit(reader.digests, batch) for reader in (pair.source, pair.standby)]
                for pair, batch in zip(pairs, batches, strict=False)
            ]
            candidates: set[PrimaryKey] = set()
            for batch, (on_source, on_standby) in zip(batches, answers, strict=True):
                for bucket, (rows, digest), (other_rows, other) in zip(
                    batch, on_source.result(), on_standby.result(), strict=True
                ):
                    result.source_rows += rows
                    result.standby_rows += other_rows
                    root.update(digest)
                    if digest != other:
                        candidates |= pairs[0].differing_keys(bucket)
                done += len(batch)
                on_progress(result.name, done, len(buckets))
            divergences, waiting, changing = pairs[0].recheck(candidates, deadline=0)
            found += divergences
            unsettled |= waiting | changing
        result.root, result.different = root.hexdigest(), len(found)
        result.seconds = round(time.monotonic() - began, 3)
        return found, unsettled


class TablePair:
    """One table on both sides."""

    def __init__(
        self,
        table: TableInfo,
        source: BucketReader,
        standby: BucketReader,
        connection: Connection,
        has_change_log: bool,
    ) -> None:
        self.table = table
        self.source = source
        self.standby = standby
        self._connection = connection
        self._has_change_log = has_change_log

    def differing_keys(self, bucket: Bucket) -> set[PrimaryKey]:
        """Return the keys of the bucket whose rows currently differ."""
        on_source, on_standby = self.source.hash_bucket_rows(bucket), self.standby.hash_bucket_rows(bucket)
        return {key for key in {*on_source, *on_standby} if on_source.get(key) != on_standby.get(key)}

    def recheck(
        self, candidates: Collection[PrimaryKey], deadline: float
    ) -> tuple[list[Divergence], set[PrimaryKey], set[PrimaryKey]]:
        """Compare the candidates again, several times.

        Each candidate is read up to CONFIRMING_READS + 1 times, and if that does not settle it, until
        `deadline` (a value of `time.monotonic`).

        Returns the divergences, the keys that are pending in the change log, and the keys that keep changing.
        """
        found: list[Divergence] = []
        waiting: set[PrimaryKey] = set()
        unsettled: set[PrimaryKey] = set()
        keys = sorted(candidates)
        for first in range(0, len(keys), RECHECK_BATCH_KEYS):
            result = self._recheck_batch(keys[first : first + RECHECK_BATCH_KEYS], deadline)
            found += result[0]
            waiting |= result[1]
            unsettled |= result[2]
        return found, waiting, unsettled

    def _recheck_batch(
        self, keys: Sequence[PrimaryKey], deadline: float
    ) -> tuple[list[Divergence], set[PrimaryKey], set[PrimaryKey]]:
        seen: dict[PrimaryKey, tuple[Any, int]] = {}
        found: dict[PrimaryKey, str] = {}
        pending, waiting, reads = set(keys), set[PrimaryKey](), 0
        while pending and (reads <= CONFIRMING_READS or time.monotonic() < deadline):
            if reads:
                time.sleep(RECHECK_INTERVAL_SECONDS)
            reads += 1
            # Read the source first, log and rows from one snapshot: if a key is not in the log, the standby
            # has this version of the row or a newer one.
            on_source, waiting = self._read_source(pending)
            on_standby = self.standby.hash_rows(pending)
            for key in list(pending):
                both = (on_source.get(key), on_standby.get(key))
                before, count = seen.get(key, (None, 0))
                seen[key] = (both, count + 1 if both == before and key not in waiting else 1)
                if both[0] == both[1]:
                    pending.discard(key)
                elif key not in waiting and seen[key][1] >= CONFIRMING_READS:
                    pending.discard(key)
                    found[key] = "extra" if both[0] is None else "missing" if both[1] is None else "different"
        return self._divergences(found), waiting & pending, pending - waiting

    def _read_source(self, keys: Collection[PrimaryKey]) -> tuple[dict[PrimaryKey, bytes], set[PrimaryKey]]:
        with self._connection.transaction():
            self._connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            return self.source.hash_rows(keys), self.source.pending_keys(
                keys
            ) if self._has_change_log else set()

    def _divergences(self, kinds: Mapping[PrimaryKey, str]) -> list[Divergence]:
        """Return the divergences; the first MAX_RECORDED_ROWS different rows have their differing columns."""
        different = [key for key, kind in kinds.items() if kind == "different"][:MAX_RECORDED_ROWS]
        columns: dict[PrimaryKey, list[str]] = {}
        for column in self.table.columns if different else ():
            on_source, on_standby = (
                side.hash_rows(different, [column]) for side in (self.source, self.standby)
            )
            for key in different:
                if on_source.get(key) != on_standby.get(key):
                    columns.setdefault(key, []).append(column)
        return [
            Divergence(self.table.name, key, kind, tuple(columns.get(key, ()))) for key, kind in kinds.items()
        ]


def _record(connection: Connection, report: VerificationReport) -> None:
    detail = {
        "rows": sum(table.source_rows for table in report.tables),
        "seconds": round(report.seconds, 3),
        "roots": {table.name: table.root for table in report.tables},
        "different": len(report.divergences),
        "keys": [
            [divergence.table, list(divergence.key), divergence.kind]
            for divergence in report.divergences[:MAX_RECORDED_ROWS]
        ],
    }
    connection.execute(
        f"INSERT INTO {SCHEMA}.verifications (equal, detail) VALUES (%s, %s)",
        (report.is_equal, Jsonb(detail)),
    )
