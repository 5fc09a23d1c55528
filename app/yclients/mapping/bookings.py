"""Mapping of YClients records to bookings."""

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

DEFAULT_DURATION_SECONDS = 3600  # of a booking without a valid duration
UNKNOWN_DELETION_TIME = datetime(2000, 1, 1, tzinfo=UTC)


def booking(payload: Payload, context: MappingContext) -> MappedRow:
    """Map a record. `api_id` is Frontdesk's id if Frontdesk created the booking."""
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
    # Other programs may store ids of their own in this field, so an unusable id is not a problem.
    frontdesk_id = integer(payload.get("api_id"))
    if isinstance(frontdesk_id, int) and 1 <= frontdesk_id <= MAX_ID:
        row["id"] = frontdesk_id
    _map_client(payload, row)
    _map_services(payload, row)
    _map_times(payload, context, mapped)
    _map_deletion(payload, context, mapped)
    return mapped


def _map_client(payload: Payload, row: Values) -> None:
    if "client" not in payload:
        return
    client = payload["client"]
    if isinstance(client, Mapping) or is_empty(client):
        client = client or {}
        row["client_id"] = reference(client.get("id"))
        row["client_phone"] = text(client.get("phone"))
        row["client_name"] = text(client.get("name"))
    else:
        row["client_id"] = reference(client)


def _map_services(payload: Payload, row: Values) -> None:
    """Map the booked services. The price of the booking is the sum of their costs."""
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
    for service_row, item in zip(booked, payload["services"] or (), strict=False):
        if isinstance(service_row, dict):
            service_row["cost"] = _cost(item)
    costs = [service_row["cost"] for service_row in booked if isinstance(service_row, dict)]
    valid = [cost for cost in costs if isinstance(cost, Decimal) and cost >= 0]
    row["price"] = sum(valid, Decimal(0)) if valid else None


def _cost(item: Payload) -> Any:
    """Return `cost`, the booked price after discount, or the first valid one of the similar fields."""
    unreadable = None
    for name in ("cost", "cost_to_pay", "manual_cost", "first_cost"):
        cost = amount(item.get(name))
        if isinstance(cost, Decimal):
            return cost
        unreadable = unreadable or cost
    return unreadable


def _map_times(payload: Payload, context: MappingContext, mapped: MappedRow) -> None:
    """Map start and end. `datetime` has an offset and is preferred; `date` is the salon's local time."""
    starts_at = instant(payload.get("datetime"), context.zone)
    if starts_at is None or starts_at is UNREADABLE:
        if starts_at is UNREADABLE:
            mapped.warnings["starts_at"] = "datetime is not a time; taken from date"
        starts_at = instant(payload.get("date"), context.zone)
    if starts_at is None:
        return  # validation reports the missing field
    lengths = [integer(payload.get(name)) for name in ("seance_length", "length")]
    length = next(filter(is_duration, lengths), DEFAULT_DURATION_SECONDS)
    if not any(map(is_duration, lengths)) and any(value not in (None, 0) for value in lengths):
        mapped.warnings["ends_at"] = "the length is not a number of seconds; an hour is assumed"
    mapped.row["starts_at"] = mapped.row["ends_at"] = starts_at
    if isinstance(starts_at, datetime):
        try:
            mapped.row["ends_at"] = starts_at + timedelta(seconds=length)
        except OverflowError:  # in the last hours of the year 9999, which validation refuses
            mapped.row["ends_at"] = UNREADABLE


def _map_deletion(payload: Payload, context: MappingContext, mapped: MappedRow) -> None:
    """Map a deleted record to a cancelled booking that was deleted at its last change.

    With the current time instead, each import would change the row.
    """
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
