"""Several rows of one key in one batch, and the report of what became of every row."""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from app.database.bulk_merge import MergeResult
from app.schemas.schema import Batch, RejectedRow, Values


@dataclass
class UpsertReport:
    """What became of each row of a batch; the sum of all is the number of rows given."""

    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    stale: int = 0  # older than what is stored
    superseded: int = 0  # a later row of the same batch has its key
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
        """How many rows were given."""
        written = self.inserted + self.updated + self.unchanged
        return written + self.stale + self.superseded + len(self.rejected)


@dataclass
class DistinctBatch:
    """A batch without two rows of one key, to be merged as if its rows were written one after the other.

    Nearly always there is one round. A row that the next of its key does not replace for certain (it has
    columns which that one lacks, or only one of the two says when it changed) goes in a round before.
    `report` counts the rows that are gone: superseded, stale within the batch, rejected before.
    """

    batches: list[Batch]
    report: UpsertReport

    def merge_in_order(self, merge_round: Callable[[Batch], UpsertReport]) -> UpsertReport:
        """Merge the rounds in their order. Every row of a round before the last counts as superseded."""
        inserted_before = 0
        for early in self.batches[:-1]:
            merged = merge_round(early)
            inserted_before += merged.inserted
            self.report.rejected += merged.rejected
            self.report.superseded -= len(merged.rejected)
        last = merge_round(self.batches[-1])
        # What a round before inserted, the last one found there: for the caller it is new all the same.
        # Or the last row of its key was too old to be written, and the one before it stays.
        found = min(inserted_before, last.updated + last.unchanged)
        seen_as_updated = min(found, last.updated)
        last.inserted += inserted_before
        last.updated -= seen_as_updated
        last.unchanged -= found - seen_as_updated
        self.report.superseded -= inserted_before - found
        self.report.add(last)
        return self.report


def deduplicate(batch: Batch, key: tuple[str, ...]) -> DistinctBatch:
    """Fold the rows that have the same `key`."""
    report = UpsertReport(rejected=list(batch.rejected))
    latest: dict[Any, tuple[int, Values]] = {}
    before: dict[Any, list[tuple[int, Values]]] = {}
    key_of = itemgetter(*key) if key else lambda row: ()
    for position, row in zip(batch.positions, batch.rows, strict=True):
        row_key = key_of(row)
        earlier = latest.get(row_key)
        if earlier is not None:
            theirs, ours = row.get("source_changed_at"), earlier[1].get("source_changed_at")
            if theirs is not None and ours is not None and theirs < ours:
                report.stale += 1
                continue
            report.superseded += 1
            if (theirs is None) != (ours is None) or not earlier[1].keys() <= row.keys():
                before.setdefault(row_key, []).append(earlier)
        latest[row_key] = position, row
    rounds = [batch.new_empty() for _ in range(max(map(len, before.values()), default=0) + 1)]
    for rows in before.values():
        for number, (position, row) in enumerate(rows):
            rounds[number].add(position, row)
    for position, row in latest.values():
        rounds[-1].add(position, row)
    return DistinctBatch(rounds, report)
