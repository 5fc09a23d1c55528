"""Detection of the kind of rows in a file, by the keys of its first rows and by its name."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.yclients.mapping.entities import CLIENTS, COMPANY, KINDS, SCHEDULES, SERVICE_CATEGORIES, EntityKind

# Columns of Frontdesk that no payload has.
FRONTDESK_COLUMNS = frozenset({"yclients_id", "yclients_record_id", "intervals"})
# Finds 83169 in `schedule_83169.json` and `schedule-83169-2026-11.json`, and nothing in a name with only a
# month, `schedule-2026-11.json`.
_STAFF_ID = re.compile(r"(?:schedule|staff)s?\D*?(?!20\d\d[-_.]\d\d(?!\d))(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class DetectedEntity:
    """The kind of rows, and whether they have the columns of Frontdesk or are payloads of YClients."""

    kind: EntityKind
    has_frontdesk_columns: bool


def detect_entity(rows: Sequence[Any], path: Path, kind: EntityKind | None = None) -> DetectedEntity | None:
    """Return the kind of a file that begins with `rows`, or None if it is unclear.

    `kind`, if given, is not detected but used.
    """
    for row in rows:
        if isinstance(row, Mapping) and row:
            has_columns = _has_frontdesk_columns(row)
            detected = kind or (_kind_of_row(row, path) if has_columns else _kind_of_payload(row, path))
            if detected is not None:
                return DetectedEntity(detected, has_columns)
    return None


def staff_id_from_filename(path: Path) -> int | None:
    """Return the id of the member of staff in the name of a schedule file, or None."""
    match = _STAFF_ID.search(path.stem)
    return int(match[1]) if match else None


def _has_frontdesk_columns(row: Mapping[str, Any]) -> bool:
    return not FRONTDESK_COLUMNS.isdisjoint(row) or {"id", "date"}.isdisjoint(row)


def _kind_of_payload(row: Mapping[str, Any], path: Path) -> EntityKind | None:
    return (
        _best(lambda kind: len(kind.distinctive_keys & row.keys()), path)
        or _kind_from_filename(path)
        or (SERVICE_CATEGORIES if "title" in row else None)
        or (CLIENTS if "phone" in row or "email" in row else None)
    )


def _kind_of_row(row: Mapping[str, Any], path: Path) -> EntityKind | None:
    def shared_fields(kind: EntityKind) -> int:
        key = kind.schema.key if kind is not COMPANY else ("title",)
        return len(kind.schema.fields & row.keys()) if set(key) <= row.keys() else 0

    return _best(shared_fields, path)


def _best(score: Callable[[EntityKind], int], path: Path) -> EntityKind | None:
    """Return the kind with the highest score. Among equals, the file name decides; if it cannot, None."""
    highest = max(map(score, KINDS))
    best = [kind for kind in KINDS if score(kind) == highest > 0]
    named = _kind_from_filename(path)
    return best[0] if len(best) == 1 else named if named in best else None


def _kind_from_filename(path: Path) -> EntityKind | None:
    """Return the kind in the file name, or None.

    In `staff_schedules` and `service_categories`, the first match in this order is the intended one.
    """
    name = path.stem.lower()
    named = [kind for kind in (SCHEDULES, *KINDS) if kind.filename_hint in name]
    return named[0] if named else None
