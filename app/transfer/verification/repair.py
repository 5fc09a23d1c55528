"""Making the standby's differing rows equal again, through the log: the relay's own way to write there."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from app.errors import ConflictError
from app.transfer.protocol import journal
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.stages import other_side
from app.transfer.protocol.tables import SCHEMA
from app.transfer.relay.session_pair import DirectionChangedError, SessionPair
from app.transfer.verification.verify import Divergence, OnVerifyProgress, VerificationReport, verify

APPLY_ATTEMPTS = 5

Connection = psycopg.Connection[Any]
LogEntry = tuple[str, list[str]]  # table and key


@dataclass
class RepairReport:
    """What differed, and what differs still. `standby_changes`: changes somebody made on the standby itself."""

    found: list[Divergence]
    standby_changes: int
    is_dry_run: bool
    remaining: list[Divergence] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        """Whether both sides are equal now."""
        return not self.remaining

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "dry_run": self.is_dry_run,
            "equal": self.succeeded,
            "strangers": self.standby_changes,
            "found": [asdict(each) for each in self.found],
            "remaining": [asdict(each) for each in self.remaining],
        }


def repair(
    sides: Sides, *, dry_run: bool = False, on_progress: OnVerifyProgress = lambda table, done, total: None
) -> RepairReport:
    """Find what differs, note its keys in the log, replay, and compare again.

    What somebody has changed on the standby past the fence is taken back, too. `dry_run` only finds.
    Raises NotStartedError, and ConflictError where tables cannot be compared.
    """
    with SessionPair(sides) as link:
        source = link.read_side_rows().source
        report = _require_compared(verify(sides, on_progress=on_progress))
        strangers = (
            link.session(other_side(source))
            .execute(f"SELECT seq, table_name, key FROM {SCHEMA}.marks")
            .fetchall()
        )
        result = RepairReport(report.divergences, len(strangers), dry_run)
        if dry_run:
            result.remaining = report.divergences
            return result
        marks: list[LogEntry] = [(each.table, list(each.key)) for each in report.divergences]
        marks += [(table, key) for _, table, key in strangers]
        if not marks:
            return result
        _log_and_apply(link, source, marks)
        # By number: what is noted meanwhile is news.
        link.session(other_side(source)).execute(
            f"DELETE FROM {SCHEMA}.marks WHERE seq = ANY (%s)", ([seq for seq, _, _ in strangers],)
        )
        result.remaining = _require_compared(verify(sides, on_progress=on_progress)).divergences
        journal.record(
            link.session(source),
            "repair",
            found=len(result.found),
            remaining=len(result.remaining),
            strangers=len(strangers),
        )
    return result


def _require_compared(report: VerificationReport) -> VerificationReport:
    reasons = [f"{table.name}: {table.reason}" for table in report.tables if table.reason]
    if reasons:
        raise ConflictError(f"Not everything can be compared: {'; '.join(reasons)}.")
    return report


def _log_and_apply(link: SessionPair, source: SideName, entries: Sequence[LogEntry]) -> None:
    """Note the keys and bring them over; a relay that runs beside may be faster."""
    connection = link.session(source)
    with connection.transaction(), connection.cursor() as cursor:
        # As every writer does: a side that is being closed takes no marks, for nobody would bring them over.
        cursor.execute(f"SELECT {SCHEMA}.enter()")
        cursor.executemany(f"INSERT INTO {SCHEMA}.marks (table_name, key) VALUES (%s, %s)", entries)
    for attempt in range(1, APPLY_ATTEMPTS + 1):
        try:
            link.run_cycle(source)
        except DirectionChangedError:
            if attempt == APPLY_ATTEMPTS:
                raise
        else:
            return
