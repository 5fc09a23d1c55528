"""De-duplication of rows with the same key in a batch, and the report of an upsert."""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from app.database.bulk_merge import MergeResult
from app.schemas.schema import Batch, RejectedRow, Values


@dataclass
class UpsertReport:
    """The number of rows of a batch by outcome. The counts add up to the number of rows passed in."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    stale: int = 0  # older than the stored row
    superseded: int = 0  # replaced by a later row of the batch with the same key
    rejected: list[RejectedRow] = field(default_factory=list)

    def add(self, other: "UpsertReport | MergeResult") -> None:
        """Add the counts of another report."""
        self.inserted += other.inserted
        self.updated += other.updated
        self.unchanged += other.unchanged
        self.stale += other.stale
        if isinstance(other, UpsertReport):
            self.superseded += other.superseded
            self.rejected += other.rejected

    @property
    def total(self) -> int:
        """Return the number of rows passed in."""
        written = self.inserted + self.updated + self.unchanged
        return written + self.stale + self.superseded + len(self.rejected)


@dataclass
class DistinctBatch:
    """Batches without repeated keys; merged in order, they have the effect of writing row by row.

    Usually there is one batch. A row needs an earlier batch if the next row with its key may not replace
    it completely: the row has columns that the next one lacks, or only one of the two has a change time.
    `report` counts the rows that need no merge: superseded, stale within the batch, or rejected.
    """

    batches: list[Batch]
    report: UpsertReport

    def merge_in_order(self, merge_round: Callable[[Batch], UpsertReport]) -> UpsertReport:
        """Merge the batches in order with `merge_round` and return the report for all rows.

        Every row of a batch before the last one counts as superseded.
        """
        inserted_before = 0
        for early in self.batches[:-1]:
            merged = merge_round(early)
            inserted_before += merged.inserted
            self.report.rejected += merged.rejected
            self.report.superseded -= len(merged.rejected)
        last = merge_round(self.batches[-1])
        # Rows that an earlier batch inserted count as inserted, although the last batch updated them or
        # left them unchanged. If the last row of a key was stale, the inserted row is not superseded.
        merged_again = min(inserted_before, last.updated + last.unchanged)
        seen_as_updated = min(merged_again, last.updated)
        last.inserted += inserted_before
        last.updated -= seen_as_updated
        last.unchanged -= merged_again - seen_as_updated
        self.report.superseded -= inserted_before - merged_again
        self.report.add(last)
        return self.report


def deduplicate(batch: Batch, key: tuple[str, ...]) -> DistinctBatch:
    """Split a batch into batches without repeated values of `key` (column names).

    With an empty key, all rows have the same key.
    """
    report = UpsertReport(rejected=list(batch.rejected))
    latest: dict[Any, tuple[int, Values]] = {}
    before: dict[Any, list[tuple[int, Values]]] = {}
    key_of = itemgetter(*key) if key else lambda row: ()
    for position, row in zip(batch.positions, batch.rows, strict=True):
        row_key = key_of(row)
        earlier = latest.get(row_key)
        if earlier is not None:
            changed, changed_before = row.get("source_changed_at"), earlier[1].get("source_changed_at")
            if changed is not None and changed_before is not None and changed < changed_before:
                report.stale += 1
                continue
            report.superseded += 1
            if (changed is None) != (changed_before is None) or not earlier[1].keys() <= row.keys():
                before.setdefault(row_key, []).append(earlier)
        latest[row_key] = position, row
    rounds = [batch.new_empty() for _ in range(max(map(len, before.values()), default=0) + 1)]
    for rows in before.values():
        for number, (position, row) in enumerate(rows):
            rounds[number].add(position, row)
    for position, row in latest.values():
        rounds[-1].add(position, row)
    return DistinctBatch(rounds, report)
