"""What all mappings share: the context, the result, and reading a payload by a table of fields."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard
from zoneinfo import ZoneInfo

from app.schemas.schema import Values
from app.yclients.mapping.values import UNREADABLE, instant, integer, is_empty, items

Payload = Mapping[str, Any]
Fields = Mapping[str, tuple[str, Callable[[Any], Any]]]  # by our column: the payload's key, and its reader

# Columns that are never NULL: where YClients says nothing, they are left out, for their default to stand or
# for validation to say that they are required.
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
_MAX_DURATION_SECONDS = 7 * 24 * 3600  # seconds


@dataclass(frozen=True)
class MappingContext:
    """Whose payloads these are; `staff_id` is whose schedule, which the payload itself does not say."""

    company_id: int
    zone: ZoneInfo
    staff_id: int | None = None


@dataclass
class MappedRow:
    """A row for validation, and by column what of the payload could not be read."""

    row: Values
    warnings: dict[str, str] = field(default_factory=dict)


def mirrored_row(payload: Payload, context: MappingContext, fields: Fields) -> Values:
    """A row with what all mirrored rows have: it is alive, and may say when it changed and whose it is."""
    row = plain_row(payload, {"company_id": ("company_id", integer), **fields})
    if "last_change_date" in payload:
        row["source_changed_at"] = instant(payload["last_change_date"], context.zone)
    return row | {"deleted_at": None}


def plain_row(payload: Payload, fields: Fields) -> Values:
    """The columns whose keys the payload has."""
    row = {column: read(payload[key]) for column, (key, read) in fields.items() if key in payload}
    return {
        column: value for column, value in row.items() if value is not None or column not in _NOT_NULL_COLUMNS
    }


def item_rows(value: Any, fields: Fields) -> Any:
    """A row for each item of a list; UNREADABLE for what is no list."""
    found = items(value)
    if not isinstance(found, list):
        return found
    return [plain_row(item, fields) if isinstance(item, Mapping) else UNREADABLE for item in found]


def first_key(payload: Payload, *names: str) -> str:
    """The first of these keys that says something."""
    return next((name for name in names if not is_empty(payload.get(name))), names[0])


def is_duration(value: Any) -> TypeGuard[int]:
    """Whether this is a length in seconds that a service or a booking may have."""
    return isinstance(value, int) and 0 < value <= _MAX_DURATION_SECONDS
