"""Any payload becomes a row or a reason, without an exception, and reasons do not contain values."""

from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.errors import InvalidInputError
from app.yclients.mapping.entities import KINDS_BY_NAME, EntityKind
from app.yclients.mapping.fields import MappingContext

COMPANY_ID = 4564
CONTEXT = MappingContext(COMPANY_ID, ZoneInfo("Europe/Moscow"), staff_id=9)
KEYS = [
    *("address", "active", "activity_id", "amount", "api_id", "attendance", "balance", "birth_date"),
    *("category_id", "client", "comment", "company_id", "cost", "country", "date", "datetime", "deleted"),
    *("discount", "duration", "email", "fired", "first_cost", "from", "hidden", "id", "importance"),
    *("is_working", "last_change_date", "length", "name", "patronymic", "phone", "position", "price_max"),
    *("price_min", "rating", "seance_length", "services", "slots", "specialization", "spent", "staff"),
    *("staff_id", "surname", "timezone", "title", "to", "visit_attendance", "visits", "weight"),
]
# Required fields of each kind; all other fields may have any value.
SOUND: dict[str, dict[str, Any]] = {
    "company": {"id": COMPANY_ID, "title": "Салон"},
    "service_categories": {"id": 1, "title": "Волосы"},
    "services": {"id": 1, "title": "Стрижка"},
    "staff": {"id": 9, "name": "Оксана"},
    "clients": {"id": 1, "name": "Иван"},
    "schedules": {"date": "2026-11-21", "staff_id": 9},
    "bookings": {"id": 1, "datetime": "2026-11-21T10:00:00+03:00"},
}

leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        [
            *("", " ", "0", "1", "83169", "1300.00", "1 300,50", "1E+999999999", "-0", "٣", "NaN", "\0"),
            *("1970-01-01", "0000-00-00", "2019-01-16 16:00:00", "2019-01-16T16:00:00+09:00", "10:00"),
            *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "24:00", "8 (968) 648-44-88"),
            *("\ud800", "Россия"),
        ]
    )
)
json_values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)
payloads = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), json_values, max_size=10)
kinds = st.sampled_from(list(KINDS_BY_NAME.values()))


@given(kind=kinds, payload=payloads)
def test_each_payload_becomes_a_row_or_a_rejection_with_a_reason(
    kind: EntityKind, payload: dict[str, Any]
) -> None:
    mapped = kind.map_payload(payload, CONTEXT)
    try:
        values, warnings = kind.validate(mapped.row, COMPANY_ID, "RU")
    except InvalidInputError as error:
        reasons = error.fields
    else:
        reasons = mapped.warnings | warnings
        assert values.keys() <= kind.schema.fields
    assert all(isinstance(reason, str) and reason for reason in reasons.values())


@given(kind=kinds, junk=payloads)
@example(
    KINDS_BY_NAME["bookings"], {"services": [{"id": 1, "amount": "x", "cost": "y"}, {}, 3], "length": "z"}
)
@example(
    KINDS_BY_NAME["services"],
    {"staff": [{"id": None, "seance_length": "x"}, None], "price_min": 5, "price_max": 4},
)
def test_an_invalid_optional_field_does_not_reject_the_row(kind: EntityKind, junk: dict[str, Any]) -> None:
    payload = {k: v for k, v in junk.items() if k != "company_id"} | SOUND[kind.name]
    values, _ = kind.validate(kind.map_payload(payload, CONTEXT).row, COMPANY_ID, "RU")
    assert kind.schema.required <= values.keys()


@given(
    kind=kinds,
    row=payloads | st.dictionaries(st.sampled_from(["yclients_id", "services", "a.b"]), json_values),
)
def test_a_row_in_our_format_is_stored_or_refused(kind: EntityKind, row: dict[str, Any]) -> None:
    try:
        values, _ = kind.validate(row, COMPANY_ID, "RU")
    except InvalidInputError:
        return
    assert values.keys() <= kind.schema.fields


@given(kind=kinds, secret=st.text("бвгджзлмн", min_size=8, max_size=20), key=st.sampled_from(KEYS))
def test_reasons_contain_no_values(kind: EntityKind, secret: str, key: str) -> None:
    for value in (secret, [secret], {secret: secret}, {"id": secret}, [{"id": secret, "cost": secret}]):
        mapped = kind.map_payload(SOUND[kind.name] | {key: value}, CONTEXT)
        try:
            _, reasons = kind.validate(mapped.row, COMPANY_ID, "RU")
        except InvalidInputError as error:
            reasons = error.fields
        assert secret not in repr(mapped.warnings | reasons)


@pytest.mark.parametrize("kind", KINDS_BY_NAME.values(), ids=str)
def test_reading_a_payload_twice_gives_the_same_row(kind: EntityKind) -> None:
    payload = SOUND[kind.name] | {"deleted": 1, "slots": [{"from": "10:00", "to": "12:00"}]}
    assert kind.map_payload(payload, CONTEXT) == kind.map_payload(payload, CONTEXT)
