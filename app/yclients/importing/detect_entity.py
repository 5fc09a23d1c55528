"""Which kind of rows a file holds: by the keys of its first rows, and failing that by its name."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.yclients.mapping.entities import CLIENTS, COMPANY, KINDS, SCHEDULES, SERVICE_CATEGORIES, EntityKind

# Columns of ours that no payload has.
FRONTDESK_COLUMNS = frozenset({"yclients_id", "yclients_record_id", "intervals"})
# `schedule_83169.json`, `schedule-83169-2026-11.json`; but not the 2026 of `schedule-2026-11.json`.
_STAFF_ID = re.compile(r"(?:schedule|staff)s?\D*?(?!20\d\d[-_.]\d\d(?!\d))(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class DetectedEntity:
    """What rows these are: of which kind, and whether they are rows of ours already or payloads."""

    kind: EntityKind
    has_frontdesk_columns: bool


def detect_entity(rows: Sequence[Any], path: Path, kind: EntityKind | None = None) -> DetectedEntity | None:
    """The shape of a file that begins with `rows`; None where it cannot be told. A given `kind` stands."""
    for row in rows:
        if isinstance(row, Mapping) and row:
            is_ours = _has_frontdesk_columns(row)
            found = kind or (_kind_of_row(row, path) if is_ours else _kind_of_payload(row, path))
            if found is not None:
                return DetectedEntity(found, is_ours)
    return None


def staff_id_from_filename(path: Path) -> int | None:
    """Whose schedule a file holds, by its name."""
    found = _STAFF_ID.search(path.stem)
    return int(found[1]) if found else None


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
    """The kind with the highest score; among equals the one that the file is named after."""
    highest = max(map(score, KINDS))
    best = [kind for kind in KINDS if score(kind) == highest > 0]
    hinted = _kind_from_filename(path)
    return best[0] if len(best) == 1 else hinted if hinted in best else None


def _kind_from_filename(path: Path) -> EntityKind | None:
    """The kind in the file's name; `staff_schedules` and `service_categories` name two, and mean one."""
    name = path.stem.lower()
    hinted = [kind for kind in (SCHEDULES, *KINDS) if kind.filename_hint in name]
    return hinted[0] if hinted else None
