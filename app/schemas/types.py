"""Types of validated values: identifiers, names, phone numbers, money, times."""

import json
import re
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import phonenumbers
from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, StringConstraints, ValidationInfo

from app.phones import to_e164

# The upper bound of int8range(n, n, '[]') is n + 1, which must fit into a BIGINT too.
MAX_ID = 2**63 - 2
MAX_INTEGER = 2**31 - 1
MIN_DATE, DATE_LIMIT = date(1900, 1, 1), date(2200, 1, 1)
NO_NUL = r"^[^\x00]*$"
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_NUMBER = re.compile(r"\s*[-+]?[\d.]+\s*")


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be an integer")  # noqa: TRY004 - pydantic turns only ValueError into a reason
    return value


def _not_a_number(value: Any) -> Any:
    # pydantic would interpret any number as seconds since 1970.
    is_number = isinstance(value, (int, float, Decimal, bytes))
    if is_number or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise ValueError("must be a date or a time, not a number")
    return value


def _phone(value: str, info: ValidationInfo) -> str:
    return to_e164(value, (info.context or {}).get("country", "RU"))


def _email(value: str) -> str:
    if not _EMAIL.fullmatch(value):
        raise ValueError("is not an e-mail address")
    return value


def _within_years(value: date) -> date:
    if not MIN_DATE <= value < DATE_LIMIT:
        raise ValueError(f"must be between {MIN_DATE.year} and {DATE_LIMIT.year - 1}")
    return value


def _utc(value: datetime) -> datetime:
    # Checked before the conversion, which fails near the minimum and maximum datetime.
    if not MIN_DATE.year <= value.year < DATE_LIMIT.year:
        raise ValueError(f"must be between {MIN_DATE.year} and {DATE_LIMIT.year - 1}")
    return value.astimezone(UTC)


def _timezone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (KeyError, ValueError, OSError):  # unknown, malformed, a directory
        raise ValueError("is not an IANA time zone") from None
    return value


def _country(value: str) -> str:
    if value not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError("is not an ISO 3166 alpha-2 country code")
    return value


def _storable_json(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object. Raises ValueError for NUL and lone surrogates (invalid in JSONB) and for NaN."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        text.encode()
    except (TypeError, ValueError, RecursionError):
        raise ValueError("must be JSON without NaN and lone surrogates") from None
    # A NUL is dumped as \u0000, preceded by an even number of other backslashes.
    if "\\u0000" in text.replace("\\\\", ""):
        raise ValueError("must not contain NUL characters")
    return value


def _text(maximum: int, minimum: int = 0) -> StringConstraints:
    return StringConstraints(strip_whitespace=True, min_length=minimum, max_length=maximum, pattern=NO_NUL)


_Whole = Annotated[int, BeforeValidator(_not_bool)]
Id = Annotated[_Whole, Field(ge=1, le=MAX_ID)]
Integer = Annotated[_Whole, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
Count = Annotated[_Whole, Field(ge=0, le=MAX_INTEGER)]
PageLimit = Annotated[_Whole, Field(ge=1, le=100_000)]
NonNegativeInteger = Annotated[_Whole, Field(ge=0, le=MAX_ID)]
DurationSeconds = Annotated[_Whole, Field(gt=0, le=7 * 24 * 3600)]
Name = Annotated[str, _text(255, minimum=1)]
ShortText = Annotated[str, _text(255)]
LongText = Annotated[str, _text(100_000)]
KeyText = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=NO_NUL)]
Phone = Annotated[str, AfterValidator(_phone)]
Email = Annotated[str, _text(255), AfterValidator(_email)]
Price = Annotated[Decimal, Field(ge=0, max_digits=12, decimal_places=2)]
Balance = Annotated[Decimal, Field(max_digits=12, decimal_places=2)]
Percent = Annotated[Decimal, Field(ge=0, le=100, max_digits=5, decimal_places=2)]
Rating = Annotated[Decimal, Field(ge=0, le=5, max_digits=3, decimal_places=2)]
Date = Annotated[date, BeforeValidator(_not_a_number), AfterValidator(_within_years)]
AwareInstant = Annotated[AwareDatetime, BeforeValidator(_not_a_number), AfterValidator(_utc)]
Timezone = Annotated[str, AfterValidator(_timezone)]
Country = Annotated[str, AfterValidator(_country)]
JsonObject = Annotated[dict[str, Any], AfterValidator(_storable_json)]
