"""Code shared by the mappings: context, result, and mapping of a payload by a table of fields."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard
from zoneinfo import ZoneInfo

from app.schemas.schema import Values
from app.yclients.mapping.values import UNREADABLE, instant, integer, is_empty, items

Payload = Mapping[str, Any]
Fields = Mapping[
    str, tuple[str, Callable[[Any], Any]]
]  # by column: the key in the payload, and the converter

# Columns that are never NULL. Without a value they are omitted, so that their default is used or validation
# reports that they are required.
_NOT_NULL_COLUMNS = frozenset(
    {
        *(
            "yclients_id",
            "yclients_record_id",
            "service_id",
            "staff_id",
            "company_id",
            "name",
            "title",
            "date",
        ),
        *(
            "timezone",
            "country",
            "is_active",
            "is_bookable",
            "is_working",
            "visit_count",
            "attendance",
            "amount",
        ),
    }
)
_MAX_DURATION_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class MappingContext:
    """Company and time zone of payloads. `staff_id` is for schedules, whose payloads do not contain it."""

    company_id: int
    zone: ZoneInfo
    staff_id: int | None = None


@dataclass
class MappedRow:
    """A row for validation, and warnings about unreadable values by column."""

    row: Values
    warnings: dict[str, str] = field(default_factory=dict)


def mirrored_row(payload: Payload, context: MappingContext, fields: Fields) -> Values:
    """Return a row with the fields, and the columns that all mirrored rows have.

    These are `company_id` and `source_changed_at`, if the payload has them, and `deleted_at` (None).
    """
    row = plain_row(payload, {"company_id": ("company_id", integer), **fields})
    if "last_change_date" in payload:
        row["source_changed_at"] = instant(payload["last_change_date"], context.zone)
    return row | {"deleted_at": None}


def plain_row(payload: Payload, fields: Fields) -> Values:
    """Return a row with the columns whose keys the payload contains."""
    row = {column: convert(payload[key]) for column, (key, convert) in fields.items() if key in payload}
    return {
        column: value for column, value in row.items() if value is not None or column not in _NOT_NULL_COLUMNS
    }


def item_rows(value: Any, fields: Fields) -> Any:
    """Return a row for each item of a list, or UNREADABLE if the value is not a list."""
    values = items(value)
    if not isinstance(values, list):
        return values
    return [plain_row(item, fields) if isinstance(item, Mapping) else UNREADABLE for item in values]


def first_key(payload: Payload, *names: str) -> str:
    """Return the first of these keys whose value is not empty, or the first key."""
    return next((name for name in names if not is_empty(payload.get(name))), names[0])


def is_duration(value: Any) -> TypeGuard[int]:
    """Return True if the value is a valid duration of a service or booking in seconds."""
    return isinstance(value, int) and 0 < value <= _MAX_DURATION_SECONDS
