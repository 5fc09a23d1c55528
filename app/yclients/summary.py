"""Counts of rows by outcome, which the summaries of an import and of a sync share."""

from dataclasses import dataclass
from typing import Any

from app.repositories.batch_dedup import UpsertReport

MAX_KEPT = 100  # findings that the summary itself remembers, of however many


@dataclass
class KindSummary:
    """What became of the rows of one kind; the counts, but for `warnings`, add up to `rows`."""

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    stale: int = 0
    superseded: int = 0
    rejected: int = 0
    warnings: int = 0
    seconds: float = 0.0

    def add(self, report: UpsertReport) -> None:
        """Add what became of a chunk of good rows."""
        self.rows += report.total
        self.inserted += report.inserted
        self.updated += report.updated
        self.unchanged += report.unchanged
        self.stale += report.stale
        self.superseded += report.superseded

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON has them."""
        rate = round(self.rows / self.seconds) if self.seconds else None
        return {**vars(self), "seconds": round(self.seconds, 3), "rows_per_second": rate}
