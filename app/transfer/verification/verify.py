"""Whether both sides hold the same, by content; beside writers, too.

A bucket that differs is opened, and its keys are candidates: rows that a writer has just changed differ for a
moment. A candidate counts as a divergence only when it differs in the same way at several looks while its key
does not wait in the log; what waits there is known to be behind.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

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

CONNECTIONS_PER_SIDE = 2  # connections on each side
CONFIRMING_READS = 3  # that must agree before a difference counts
RECHECK_INTERVAL_SECONDS = 0.05  # seconds
SETTLE_TIMEOUT_SECONDS = 15.0  # seconds for candidates that keep changing, or wait in the log
RECHECK_BATCH_KEYS = 5_000  # candidates looked at together
MAX_RECORDED_ROWS = 100  # rows that are told with their columns, and in the record of a verification

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Divergence:
    """One row that is not the same: `missing` or `extra` on the standby, or `different` in `columns`."""

    table: str
    key: PrimaryKey
    kind: str
    columns: tuple[str, ...] = ()


@dataclass
class TableResult:
    """One table: rows on the side that is followed and on the standby, and the root of the former."""

    name: str
    source_rows: int = 0
    standby_rows: int = 0
    root: str = ""
    different: int = 0
    waiting: int = 0  # keys in the log: the relay has yet to bring them
    unsettled: int = 0  # rows that never stood still
    reason: str = ""  # why it could not be compared
    seconds: float = 0.0


@dataclass
class VerificationReport:
    """What a verification has found. `source` is the side that the other one follows."""

    source: SideName
    tables: list[TableResult] = field(default_factory=list)
    divergences: list[Divergence] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_compared(self) -> bool:
        """Whether every table could be compared, and every row."""
        return not any(table.reason or table.unsettled for table in self.tables)

    @property
    def is_equal(self) -> bool:
        """No divergence, and nothing that could not be compared."""
        return self.is_compared and not self.divergences

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "equal": self.is_equal,
            "compared": self.is_compared,
            "source": self.source,
            "rows": sum(table.source_rows for table in self.tables),
            "waiting": sum(table.waiting for table in self.tables),
            "seconds": round(self.seconds, 3),
            "tables": [asdict(table) for table in self.tables],
            "divergences": [asdict(each) for each in self.divergences],
        }


OnVerifyProgress = Callable[[str, int, int], object]  # table, buckets done, buckets in all


def verify(
    sides: Sides,
    *,
    only: Collection[str] = (),
    on_progress: OnVerifyProgress = lambda table, done, total: None,
    settle_timeout: float = SETTLE_TIMEOUT_SECONDS,
) -> VerificationReport:
    """Compare the tables of the move (or those of the models, where none has begun), or `only` some.

    The result is recorded where there is a move. Raises UnavailableError and InvalidInputError.
    """
    with ExitStack() as stack:
        lanes = [
            {side.name: stack.enter_context(closing(side.connect())) for side in sides}
            for _ in range(CONNECTIONS_PER_SIDE)
        ]
        comparison = Verification(lanes)
        report = comparison.run(only, on_progress, settle_timeout)
        if comparison.is_transfer_active and not only and report.is_compared:
            for connection in lanes[0].values():
                _record(connection, report)
        return report


class Verification:
    """Both sides, several sessions on each, and which of them is followed."""

    def __init__(self, sessions: Sequence[Mapping[SideName, Connection]]) -> None:
        rows = SideRows(
            *(
                read_side_row(each) if control_schema.is_set_up(each) else None
                for each in sessions[0].values()
            )
        )
        self.is_transfer_active = rows.stage not in (Stage.NOT_STARTED, Stage.STARTING)
        self.source: SideName = rows.source if self.is_transfer_active else "legacy"
        self._sessions = [(lane[self.source], lane[other_side(self.source)]) for lane in sessions]
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
        """Compare table after table, then look again at what had not settled."""
        unknown = sorted(set(only) - {table.name for table in self.tables})
        if unknown:
            raise InvalidInputError(f"{', '.join(unknown)}: not among the tables that are compared.")
        report = VerificationReport(self.source)
        began = time.monotonic()
        open_: list[tuple[TableResult, TablePair, set[PrimaryKey]]] = []
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
                    open_.append((result, pairs[0], unsettled))
        deadline = time.monotonic() + settle_timeout
        for result, pair, keys in open_:
            found, waiting, unsettled = pair.recheck(keys, deadline)
            report.divergences += found
            result.different += len(found)
            result.waiting, result.unsettled = len(waiting), len(unsettled)
        report.seconds = time.monotonic() - began
        return report

    def reason_not_comparable(self, table: TableInfo) -> str:
        """Why the table cannot be compared; empty where it can."""
        other = self._standby_tables.get(table.name)
        if other is None:
            return "the standby does not have it"
        if not table.key:
            return "it has no primary key"
        if (set(table.columns), table.key) != (set(other.columns), other.key):
            return "its columns or its key differ on the standby"
        return ""

    def _pairs(self, table: TableInfo) -> list["TablePair"]:
        """The table on both sides, for each lane."""
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
        """The divergences, and the candidates that had not settled at a few looks."""
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
            for batch, (there, here) in zip(batches, answers, strict=True):
                for bucket, (rows, digest), (other_rows, other) in zip(
                    batch, there.result(), here.result(), strict=True
                ):
                    result.source_rows += rows
                    result.standby_rows += other_rows
                    root.update(digest)
                    if digest != other:
                        candidates |= pairs[0].differing_keys(bucket)
                done += len(batch)
                on_progress(result.name, done, len(buckets))
            divergences, waiting, moving = pairs[0].recheck(candidates, deadline=0)
            found += divergences
            unsettled |= waiting | moving
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
        """The keys in it that differ at this moment."""
        there, here = self.source.hash_bucket_rows(bucket), self.standby.hash_bucket_rows(bucket)
        return {key for key in {*there, *here} if there.get(key) != here.get(key)}

    def recheck(
        self, candidates: Collection[PrimaryKey], deadline: float
    ) -> tuple[list[Divergence], set[PrimaryKey], set[PrimaryKey]]:
        """Look again: divergences, keys that wait in the log, and keys that do not stand still.

        At least LOOKS times, and until `deadline` (of `time.monotonic`) where that does not settle it.
        """
        found: list[Divergence] = []
        waiting: set[PrimaryKey] = set()
        unsettled: set[PrimaryKey] = set()
        keys = sorted(candidates)
        for first in range(0, len(keys), RECHECK_BATCH_KEYS):
            each = self._recheck_batch(keys[first : first + RECHECK_BATCH_KEYS], deadline)
            found += each[0]
            waiting |= each[1]
            unsettled |= each[2]
        return found, waiting, unsettled

    def _recheck_batch(
        self, keys: Sequence[PrimaryKey], deadline: float
    ) -> tuple[list[Divergence], set[PrimaryKey], set[PrimaryKey]]:
        seen: dict[PrimaryKey, tuple[Any, int]] = {}
        found: dict[PrimaryKey, str] = {}
        pending, waiting, looks = set(keys), set[PrimaryKey](), 0
        while pending and (looks <= CONFIRMING_READS or time.monotonic() < deadline):
            if looks:
                time.sleep(RECHECK_INTERVAL_SECONDS)
            looks += 1
            # The log and the rows of one snapshot first: a key that is not in the log then is on the
            # standby as it was then, or newer.
            there, waiting = self._read_source(pending)
            here = self.standby.hash_rows(pending)
            for key in list(pending):
                both = (there.get(key), here.get(key))
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
        """With the columns that differ, of the first RECORDED rows: more than that nobody reads."""
        different = [key for key, kind in kinds.items() if kind == "different"][:MAX_RECORDED_ROWS]
        columns: dict[PrimaryKey, list[str]] = {}
        for column in self.table.columns if different else ():
            there, here = (side.hash_rows(different, [column]) for side in (self.source, self.standby))
            for key in different:
                if there.get(key) != here.get(key):
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
        "keys": [[each.table, list(each.key), each.kind] for each in report.divergences[:MAX_RECORDED_ROWS]],
    }
    connection.execute(
        f"INSERT INTO {SCHEMA}.verifications (equal, detail) VALUES (%s, %s)",
        (report.is_equal, Jsonb(detail)),
    )
