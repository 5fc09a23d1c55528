"""YClients' records to bookings of ours."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from app.schemas.schema import Values
from app.schemas.types import MAX_ID
from app.yclients.mapping.fields import (
    MappedRow,
    MappingContext,
    Payload,
    first_key,
    is_duration,
    item_rows,
    mirrored_row,
)
from app.yclients.mapping.values import (
    UNREADABLE,
    amount,
    boolean,
    instant,
    integer,
    is_empty,
    reference,
    text,
)

DEFAULT_DURATION_SECONDS = 3600  # seconds; what a booking takes where YClients does not say
UNKNOWN_DELETION_TIME = datetime(2000, 1, 1, tzinfo=UTC)


def booking(payload: Payload, context: MappingContext) -> MappedRow:
    """A record; `api_id` may be the id of a booking that was made here."""
    row = mirrored_row(
        payload,
        context,
        {
            "yclients_record_id": ("id", integer),
            "comment": ("comment", text),
            "attendance": (first_key(payload, "attendance", "visit_attendance"), integer),
        },
    )
    mapped = MappedRow(row)
    if "staff_id" in payload or "staff" in payload:
        row["staff_id"] = reference(payload.get("staff_id")) or _id_within(payload.get("staff"))
    # Any other program may have put its own kind of id here, so what is not one of ours is no fault.
    ours = integer(payload.get("api_id"))
    if isinstance(ours, int) and 1 <= ours <= MAX_ID:
        row["id"] = ours
    _client_of(payload, row)
    _services_of(payload, row)
    _times_of(payload, context, mapped)
    _deletion_of(payload, context, mapped)
    return mapped


def _client_of(payload: Payload, row: Values) -> None:
    if "client" not in payload:
        return
    who = payload["client"]
    if isinstance(who, Mapping) or is_empty(who):
        who = who or {}
        row["client_id"] = reference(who.get("id"))
        row["client_phone"] = text(who.get("phone"))
        row["client_name"] = text(who.get("name"))
    else:
        row["client_id"] = reference(who)


def _services_of(payload: Payload, row: Values) -> None:
    """The booked services; the price of the booking is the sum of what they cost."""
    if "services" not in payload:
        return
    fields = {
        "service_id": ("id", integer),
        "title": ("title", text),
        "amount": ("amount", integer),
        "discount": ("discount", amount),
    }
    row["services"] = booked = item_rows(payload["services"], fields)
    if not isinstance(booked, list):
        return
    for line, given in zip(booked, payload["services"] or (), strict=False):
        if isinstance(line, dict):
            line["cost"] = _cost(given)
    costs = [line["cost"] for line in booked if isinstance(line, dict)]
    readable = [cost for cost in costs if isinstance(cost, Decimal) and cost >= 0]
    row["price"] = sum(readable, Decimal(0)) if readable else None


def _cost(given: Payload) -> Any:
    """`cost` is the price as booked, after the discount; the others stand in where it is missing."""
    unreadable = None
    for name in ("cost", "cost_to_pay", "manual_cost", "first_cost"):
        cost = amount(given.get(name))
        if isinstance(cost, Decimal):
            return cost
        unreadable = unreadable or cost
    return unreadable


def _times_of(payload: Payload, context: MappingContext, mapped: MappedRow) -> None:
    """`datetime` has an offset and is the truth; `date` is the salon's local time."""
    starts_at = instant(payload.get("datetime"), context.zone)
    if starts_at is None or starts_at is UNREADABLE:
        if starts_at is UNREADABLE:
            mapped.warnings["starts_at"] = "datetime is not a time; taken from date"
        starts_at = instant(payload.get("date"), context.zone)
    if starts_at is None:
        return  # required, which validation says
    lengths = [integer(payload.get(name)) for name in ("seance_length", "length")]
    length = next(filter(is_duration, lengths), DEFAULT_DURATION_SECONDS)
    if not any(map(is_duration, lengths)) and any(given not in (None, 0) for given in lengths):
        mapped.warnings["ends_at"] = "the length is not one in seconds; an hour is assumed"
    mapped.row["starts_at"] = mapped.row["ends_at"] = starts_at
    if isinstance(starts_at, datetime):
        try:
            mapped.row["ends_at"] = starts_at + timedelta(seconds=length)
        except OverflowError:  # the last hours of the year 9999; validation refuses them
            mapped.row["ends_at"] = UNREADABLE


def _deletion_of(payload: Payload, context: MappingContext, mapped: MappedRow) -> None:
    """A deleted record is cancelled, since its last change: not since now, or each import would differ."""
    deleted = boolean(payload.get("deleted"))
    if deleted is UNREADABLE:
        mapped.warnings["deleted_at"] = "deleted is not a boolean; taken as not deleted"
    mapped.row["status"] = "cancelled" if deleted is True else "active"
    if deleted is True:
        times = [instant(payload.get(name), context.zone) for name in ("last_change_date", "create_date")]
        times.append(mapped.row.get("starts_at"))
        mapped.row["deleted_at"] = next((t for t in times if isinstance(t, datetime)), UNKNOWN_DELETION_TIME)


def _id_within(value: Any) -> Any:
    return reference(value.get("id")) if isinstance(value, Mapping) else reference(value)
