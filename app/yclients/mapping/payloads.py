"""Mapping of YClients payloads to rows. bookings.py contains the mapping of bookings.

The API returns only requested fields, so a mapping converts only existing keys; a missing key does not change
its column. A mapping does not raise exceptions: unreadable values become UNREADABLE, which validation
reports.
"""

from collections.abc import Mapping
from typing import Any

from app.yclients.mapping.countries import country_code
from app.yclients.mapping.fields import (
    MappedRow,
    MappingContext,
    Payload,
    first_key,
    is_duration,
    item_rows,
    mirrored_row,
    plain_row,
)
from app.yclients.mapping.values import (
    UNREADABLE,
    amount,
    birth_date,
    boolean,
    calendar_date,
    integer,
    inverted_boolean,
    items,
    reference,
    text,
    time_of_day,
)


def company(payload: Payload, context: MappingContext) -> MappedRow:
    """Map a company. The name of its country becomes an ISO code if it is known."""
    row = plain_row(
        payload,
        {
            "company_id": ("id", integer),
            "title": ("title", text),
            "timezone": ("timezone", text),
            "country": ("country", _country),
            "phone": ("phone", text),
            "address": ("address", text),
        },
    )
    row.setdefault("company_id", UNREADABLE)  # required, unlike in other payloads
    return MappedRow(row)


def service_category(payload: Payload, context: MappingContext) -> MappedRow:
    """Map a category of the price list."""
    fields = {"yclients_id": ("id", integer), "title": ("title", text), "weight": ("weight", integer)}
    return MappedRow(mirrored_row(payload, context, fields))


def service(payload: Payload, context: MappingContext) -> MappedRow:
    """Map a service. Without a duration, it has the longest duration of its performers."""
    row = mirrored_row(
        payload,
        context,
        {
            "yclients_id": ("id", integer),
            "title": ("title", text),
            "category_id": ("category_id", reference),
            "price_min": ("price_min", amount),
            "price_max": ("price_max", amount),
            "duration": ("duration", reference),
            "comment": ("comment", text),
            "weight": ("weight", integer),
            "is_active": ("active", boolean),
        },
    )
    if "staff" in payload:
        fields = {"staff_id": ("id", integer), "duration": ("seance_length", reference)}
        row["staff"] = performers = item_rows(payload["staff"], fields)
        if row.get("duration") is None and isinstance(performers, list):
            durations = [p.get("duration") for p in performers if isinstance(p, dict)]
            row["duration"] = max(filter(is_duration, durations), default=None)
    return MappedRow(row)


def staff_member(payload: Payload, context: MappingContext) -> MappedRow:
    """Map a member of staff. `fired` and `hidden` are inverted to `is_active` and `is_bookable`."""
    return MappedRow(
        mirrored_row(
            payload,
            context,
            {
                "yclients_id": ("id", integer),
                "name": ("name", text),
                "specialization": ("specialization", text),
                "position": ("position", _title),
                "rating": ("rating", amount),
                "weight": ("weight", integer),
                "is_active": ("fired", inverted_boolean),
                "is_bookable": ("hidden", inverted_boolean),
            },
        )
    )


def client(payload: Payload, context: MappingContext) -> MappedRow:
    """Map a client. The total spent is `spent`, or `sold` in older responses."""
    row = mirrored_row(
        payload,
        context,
        {
            "yclients_id": ("id", integer),
            "name": ("name", text),
            "surname": ("surname", text),
            "patronymic": ("patronymic", text),
            "phone": ("phone", text),
            "email": ("email", text),
            "birth_date": ("birth_date", birth_date),
            "importance": ("importance", text),
            "discount": ("discount", amount),
            "comment": ("comment", text),
            "visit_count": ("visits", integer),
            "total_spent": (first_key(payload, "spent", "sold"), amount),
            "balance": ("balance", amount),
        },
    )
    return MappedRow(row)


def schedule(payload: Payload, context: MappingContext) -> MappedRow:
    """Map one date of a schedule. The member of staff is taken from the payload, else from the context."""
    row = plain_row(
        payload,
        {
            "company_id": ("company_id", integer),
            "staff_id": ("staff_id", integer),
            "date": ("date", calendar_date),
            "is_working": ("is_working", boolean),
            "intervals": ("slots", _intervals),
        },
    )
    if context.staff_id is not None:
        row.setdefault("staff_id", context.staff_id)
    if "intervals" in row:
        row.setdefault("is_working", bool(row["intervals"]))
    return MappedRow(row | {"deleted_at": None})


def _country(value: Any) -> Any:
    name = text(value)
    return (country_code(name) or name) if isinstance(name, str) else name


def _title(value: Any) -> Any:
    return text(value.get("title")) if isinstance(value, Mapping) else text(value)


def _intervals(value: Any) -> Any:
    slots = items(value)
    if not isinstance(slots, list):
        return slots
    return [_interval(slot) if isinstance(slot, Mapping) else UNREADABLE for slot in slots]


def _interval(slot: Payload) -> Any:
    start, end = time_of_day(slot.get("from")), time_of_day(slot.get("to"), midnight="24:00")
    if isinstance(start, str) and isinstance(end, str) and start >= end:
        return UNREADABLE  # drops this interval only; validation would refuse all intervals of the day
    return {"from": start, "to": end}
