"""The kinds of rows that callers write. Keys are column names; a missing key does not change its column."""

from typing import Annotated, Any, Literal, Required

from pydantic import AfterValidator, BeforeValidator, ConfigDict, StringConstraints, with_config
from typing_extensions import TypedDict  # pydantic requires it instead of typing's before Python 3.12

from app.schemas.schema import RowSchema, Values
from app.schemas.types import (
    AwareInstant,
    Balance,
    Count,
    Country,
    Date,
    DurationSeconds,
    Email,
    Id,
    Integer,
    JsonObject,
    KeyText,
    LongText,
    Name,
    Percent,
    Phone,
    Price,
    Rating,
    ShortText,
    Timezone,
)

Source = Literal["yclients", "assistant"]
_strict_keys = with_config(ConfigDict(extra="forbid", coerce_numbers_to_str=True))


@_strict_keys
class CompanyRow(TypedDict, total=False):
    title: Required[Name]
    timezone: Timezone
    country: Country
    phone: ShortText | None
    address: LongText | None
    is_active: bool
    source_changed_at: AwareInstant | None
    deleted_at: AwareInstant | None


class _ClientFields(TypedDict, total=False):
    name: Required[Name]
    surname: ShortText | None
    patronymic: ShortText | None
    email: Email | None
    birth_date: Date | None
    importance: ShortText | None
    discount: Percent | None
    comment: LongText | None
    visit_count: Count
    total_spent: Price | None
    balance: Balance | None
    last_visit_at: AwareInstant | None
    source: Source
    source_changed_at: AwareInstant | None
    deleted_at: AwareInstant | None


@_strict_keys
class ClientRow(_ClientFields, total=False):
    yclients_id: Required[Id]
    phone: Phone | None


@_strict_keys
class NewClientRow(_ClientFields, total=False):
    """The client of `create_booking`, identified by phone. The YClients id may be unknown."""

    yclients_id: Id | None
    phone: Required[Phone]


@_strict_keys
class ServiceCategoryRow(TypedDict, total=False):
    yclients_id: Required[Id]
    title: Required[Name]
    weight: Integer | None
    source_changed_at: AwareInstant | None
    deleted_at: AwareInstant | None


@_strict_keys
class PerformerRow(TypedDict, total=False):
    staff_id: Required[Id]
    duration: DurationSeconds | None


@_strict_keys
class ServiceRow(TypedDict, total=False):
    yclients_id: Required[Id]
    title: Required[Name]
    category_id: Id | None
    price_min: Price | None
    price_max: Price | None
    duration: DurationSeconds | None
    comment: LongText | None
    weight: Integer | None
    is_active: bool
    source_changed_at: AwareInstant | None
    deleted_at: AwareInstant | None
    staff: list[PerformerRow]  # performers of the service, stored in `service_staff`


@_strict_keys
class StaffRow(TypedDict, total=False):
    yclients_id: Required[Id]
    name: Required[Name]
    specialization: ShortText | None
    position: ShortText | None
    rating: Rating | None
    weight: Integer | None
    is_active: bool
    is_bookable: bool
    source_changed_at: AwareInstant | None
    deleted_at: AwareInstant | None


_Clock = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$|^24:00$")]
Interval = TypedDict("Interval", {"from": _Clock, "to": _Clock})


def _validate_intervals(intervals: list[Any]) -> list[Any]:
    if any(interval["from"] >= interval["to"] for interval in intervals):
        raise ValueError("an interval ends before it starts")
    return sorted(intervals, key=lambda interval: interval["from"])


@_strict_keys
class StaffScheduleRow(TypedDict, total=False):
    staff_id: Required[Id]
    date: Required[Date]
    is_working: bool
    intervals: Annotated[list[Interval], AfterValidator(_validate_intervals)]
    source_changed_at: AwareInstant | None
    deleted_at: AwareInstant | None


@_strict_keys
class BookedServiceRow(TypedDict, total=False):
    service_id: Required[Id]
    title: ShortText | None
    amount: Count
    cost: Price | None
    discount: Percent | None


def _service_of_id(value: Any) -> Any:
    return {"service_id": value} if isinstance(value, (int, str)) else value


BookedService = Annotated[BookedServiceRow, BeforeValidator(_service_of_id)]


@_strict_keys
class BookingRow(TypedDict, total=False):
    """A booking of YClients. `id` is Frontdesk's id, if YClients reports that Frontdesk created it."""

    id: Id | None
    yclients_record_id: Required[Id]
    client_id: Id | None
    client_phone: Phone | None
    client_name: ShortText | None
    staff_id: Id | None
    starts_at: Required[AwareInstant]
    ends_at: Required[AwareInstant]
    attendance: Literal[-1, 0, 1, 2]
    status: Literal["active", "cancelled"]
    comment: LongText | None
    price: Price | None
    source: Source
    source_changed_at: AwareInstant | None
    deleted_at: AwareInstant | None
    services: list[BookedService]


@_strict_keys
class NewBookingRow(TypedDict, total=False):
    """The booking of `create_booking`, with either `ends_at` or `duration` (in seconds)."""

    staff_id: Required[Id]
    starts_at: Required[AwareInstant]
    ends_at: AwareInstant
    duration: DurationSeconds
    services: list[BookedService]
    comment: LongText | None
    price: Price | None
    yclients_record_id: Id | None


@_strict_keys
class DialogRow(TypedDict, total=False):
    user_id: Required[KeyText]
    stage: ShortText | None
    context: JsonObject
    last_activity_at: AwareInstant | None


@_strict_keys
class WhatsAppAuthRow(TypedDict, total=False):
    creds: Required[bytes]
    version: Id


@_strict_keys
class WhatsAppKeyRow(TypedDict, total=False):
    key_type: Required[KeyText]
    key_id: Required[KeyText]
    value: Required[bytes]
    expires_at: AwareInstant | None


def _prices_in_order(row: Values) -> dict[str, str]:
    low, high = row.get("price_min"), row.get("price_max")
    return {"price_max": "is less than price_min"} if low and high and high < low else {}


def _times_in_order(row: Values) -> dict[str, str]:
    return {} if row["ends_at"] > row["starts_at"] else {"ends_at": "is not after starts_at"}


def _check_end(row: Values) -> dict[str, str]:
    if ("ends_at" in row) == ("duration" in row):
        return {"duration": "give either ends_at or duration"}
    return _times_in_order(row) if "ends_at" in row else {}


COMPANY = RowSchema(CompanyRow)
CLIENT = RowSchema(ClientRow, key=("yclients_id",))
NEW_CLIENT = RowSchema(NewClientRow)
SERVICE_CATEGORY = RowSchema(ServiceCategoryRow, key=("yclients_id",))
SERVICE = RowSchema(ServiceRow, key=("yclients_id",), check=_prices_in_order)
STAFF = RowSchema(StaffRow, key=("yclients_id",))
STAFF_SCHEDULE = RowSchema(StaffScheduleRow, key=("staff_id", "date"))
BOOKING = RowSchema(BookingRow, key=("yclients_record_id",), check=_times_in_order)
NEW_BOOKING = RowSchema(NewBookingRow, check=_check_end)
DIALOG = RowSchema(DialogRow, key=("user_id",))
WHATSAPP_AUTH = RowSchema(WhatsAppAuthRow)
WHATSAPP_KEY = RowSchema(WhatsAppKeyRow, key=("key_type", "key_id"))
