"""Counts of rows by outcome, which the summaries of an import and of a sync share."""

from dataclasses import dataclass
from typing import Any

from app.repositories.batch_dedup import UpsertReport

MAX_KEPT = 100  # problems that a summary contains; the others are only counted


@dataclass
class KindSummary:
    """Numbers of rows of one kind by outcome. All except `warnings` add up to `rows`."""

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
        """Add the counts of a merged batch."""
        self.rows += report.total
        self.inserted += report.inserted
        self.updated += report.updated
        self.unchanged += report.unchanged
        self.stale += report.stale
        self.superseded += report.superseded

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for the JSON document, with the rate in rows per second."""
        rate = round(self.rows / self.seconds) if self.seconds else None
        return {**vars(self), "seconds": round(self.seconds, 3), "rows_per_second": rate}
