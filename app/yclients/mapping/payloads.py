"""YClients' payloads to rows of ours; bookings have a file of their own.

A mapping reads only the keys that are there (the API returns the fields that were asked for; a key left
out leaves its column alone), and never raises: what it cannot read fails validation, field by field.
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
    """The country becomes its ISO code where its name is known."""
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
    row.setdefault("company_id", UNREADABLE)  # whose it is must be said
    return MappedRow(row)


def service_category(payload: Payload, context: MappingContext) -> MappedRow:
    """A group of the price list."""
    fields = {"yclients_id": ("id", integer), "title": ("title", text), "weight": ("weight", integer)}
    return MappedRow(mirrored_row(payload, context, fields))


def service(payload: Payload, context: MappingContext) -> MappedRow:
    """Without a duration of its own, a service takes as long as its slowest performer."""
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
    """`fired` and `hidden` become their opposites, `is_active` and `is_bookable`."""
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
    """A client; `spent` (in older answers `sold`) is the total spent."""
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
    """One date of a schedule; its member of staff is the context's, unless the payload names one."""
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
        return UNREADABLE  # costs this one interval, where validation would refuse the whole day's
    return {"from": start, "to": end}
