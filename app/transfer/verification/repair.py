"""Repair: add the keys of differing rows to the change log, so that an apply cycle makes the rows equal."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from app.errors import ConflictError
from app.transfer.protocol import journal
from app.transfer.protocol.endpoints import SideName, Sides
from app.transfer.protocol.stages import other_side
from app.transfer.protocol.tables import SCHEMA
from app.transfer.relay.session_pair import DirectionChangedError, SessionPair
from app.transfer.verification.verify import Divergence, OnVerifyProgress, VerificationReport, verify

APPLY_ATTEMPTS = 5

LogEntry = tuple[str, list[str]]  # table and key


@dataclass
class RepairReport:
    """Result of a repair: the differences found and the remaining ones.

    `standby_changes` is the number of changes that another program has made on the standby itself.
    """

    found: list[Divergence]
    standby_changes: int
    is_dry_run: bool
    remaining: list[Divergence] = field(default_factory=list)

    @property
    def succeeded(self) -> bool:
        """True if no differences remain."""
        return not self.remaining

    def as_dict(self) -> dict[str, Any]:
        """Return the report as a dict that can be serialised to JSON."""
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
    """Find the differing rows, copy them to the standby through the change log, and compare again.

    Changes that other programs made on the standby, bypassing the fence, are undone as well. With `dry_run`
    the differences are only reported. Raises NotStartedError if no transfer has been started, and
    ConflictError if tables cannot be compared.
    """
    with SessionPair(sides) as link:
        source = link.read_side_rows().source
        report = _require_compared(verify(sides, on_progress=on_progress))
        standby_entries = (
            link.session(other_side(source))
            .execute(f"SELECT seq, table_name, key FROM {SCHEMA}.marks")
            .fetchall()
        )
        result = RepairReport(report.divergences, len(standby_entries), dry_run)
        if dry_run:
            result.remaining = report.divergences
            return result
        entries: list[LogEntry] = [
            (divergence.table, list(divergence.key)) for divergence in report.divergences
        ]
        entries += [(table, key) for _, table, key in standby_entries]
        if not entries:
            return result
        _log_and_apply(link, source, entries)
        # Delete by number: entries that were added meanwhile are not repaired yet.
        link.session(other_side(source)).execute(
            f"DELETE FROM {SCHEMA}.marks WHERE seq = ANY (%s)", ([seq for seq, _, _ in standby_entries],)
        )
        result.remaining = _require_compared(verify(sides, on_progress=on_progress)).divergences
        journal.record(
            link.session(source),
            "repair",
            found=len(result.found),
            remaining=len(result.remaining),
            strangers=len(standby_entries),
        )
    return result


def _require_compared(report: VerificationReport) -> VerificationReport:
    reasons = [f"{table.name}: {table.reason}" for table in report.tables if table.reason]
    if reasons:
        raise ConflictError(f"Some tables cannot be compared: {'; '.join(reasons)}.")
    return report


def _log_and_apply(link: SessionPair, source: SideName, entries: Sequence[LogEntry]) -> None:
    """Add the keys to the change log of the source and apply them, unless a running relay does it first."""
    connection = link.session(source)
    with connection.transaction(), connection.cursor() as cursor:
        # Pass the fence as every writer does: entries added to a closing side would never be applied.
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
