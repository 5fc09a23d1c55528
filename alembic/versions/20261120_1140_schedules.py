"""Rename `slots` to `intervals`, and convert all values to lists of `{"from": "10:00", "to": "14:30"}`.

Revises: service_categories
Created: 2026-11-20 11:40
"""

import json
import re
from typing import Any

from app.migrations import backfill, introspection
from app.migrations import operations as changes

revision = "schedules"
down_revision = "service_categories"
branch_labels = None
depends_on = None

CLOCK = re.compile(r"\s*([01]?\d|2[0-4]):([0-5]\d)(?::00)?\s*")


def upgrade() -> None:
    if introspection.has_column("staff_schedules", "slots"):
        changes.execute(
            "-- squawk-ignore renaming-column -- the old code is stopped; a second column could diverge\n"
            "ALTER TABLE staff_schedules RENAME COLUMN slots TO intervals"
        )
        changes.commit()
    for rows in backfill.batches("staff_schedules", "intervals", "intervals <> '[]'", lock=True):
        normalized = [(company, row_id, *normalize(slots), slots) for company, row_id, slots in rows]
        backfill.archive_each(
            "staff_schedules",
            [(company, row_id) for company, row_id, _, complete, _ in normalized if not complete],
            "slots has entries that are no intervals of a day",
        )
        backfill.update_each(
            "staff_schedules",
            "intervals",
            [(company, row_id, json.dumps(new)) for company, row_id, new, _, old in normalized if new != old],
            type_="jsonb",
        )


def normalize(slots: Any) -> tuple[list[dict[str, str]], bool]:
    """Return the intervals, and True if they contain all information of `slots`."""
    entries = slots if isinstance(slots, list) else [slots]
    intervals = [interval for entry in entries if (interval := read(entry)) is not None]
    complete = len(intervals) == len(entries) and all(
        not isinstance(entry, dict) or set(entry) == {"from", "to"} for entry in entries
    )
    return intervals, complete


def read(entry: Any) -> dict[str, str] | None:
    """Parse `{"from": ..., "to": ...}` or "10:00-14:30"; return None for anything else."""
    if isinstance(entry, dict):
        ends = [entry.get("from"), entry.get("to")]
    elif isinstance(entry, str):
        ends = list(re.split(r"[-–—]", entry))
    else:
        return None
    clocks = [CLOCK.fullmatch(end) if isinstance(end, str) else None for end in ends]
    if len(clocks) != 2 or None in clocks:
        return None
    start, end = (f"{int(clock[1]):02d}:{clock[2]}" for clock in clocks if clock is not None)
    return {"from": start, "to": end} if start < end <= "24:00" else None


def downgrade() -> None:
    if introspection.has_column("staff_schedules", "intervals"):
        changes.execute("ALTER TABLE staff_schedules RENAME COLUMN intervals TO slots")
