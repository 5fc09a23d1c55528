"""Converters of values in payloads. They do not raise exceptions.

An empty value becomes None, and an unreadable one UNREADABLE. No schema accepts UNREADABLE, so validation
reports the field, with a reason that cannot contain the value.
"""

import math
import re
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

UNREADABLE = object()
CENT = Decimal("0.01")
_INTEGER = re.compile(r"[+-]?\d{1,20}(\.0{1,6})?", re.ASCII)
_AMOUNT = re.compile(r"[+-]?\d{1,20}(\.\d{1,20})?", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(:\d{2})?", re.ASCII)
_BOOLEANS = {"0": False, "1": True, "false": False, "true": True}


def is_empty(value: Any) -> bool:
    """Return True for null, blank text, `{}` and `[]`."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value in ({}, [])


def text(value: Any) -> Any:
    """Return text unchanged. Validation converts numbers to text."""
    if is_empty(value):
        return None
    return UNREADABLE if isinstance(value, bool) else value


def integer(value: Any) -> Any:
    """Convert `83169`, `"83169"` or `83169.0` to an integer."""
    if type(value) is int:
        return value
    if is_empty(value):
        return None
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    return UNREADABLE


def reference(value: Any) -> Any:
    """Convert the id of a referenced row; 0 means none and becomes None."""
    return integer(value) or None


def amount(value: Any) -> Any:
    """Convert money, a percentage or a rating to a Decimal with two places.

    Accepts `1300`, `"1300.00"` and `"1 300,50"`.
    """
    if type(value) is int:
        return Decimal(value)
    if is_empty(value):
        return None
    if not isinstance(value, (float, str)):
        return UNREADABLE
    digits = re.sub(r"\s", "", str(value)).replace(",", ".")
    if not _AMOUNT.fullmatch(digits):
        return UNREADABLE
    try:
        return Decimal(digits).quantize(CENT, ROUND_HALF_UP)
    except InvalidOperation:  # more digits than a Decimal can have
        return UNREADABLE


def boolean(value: Any) -> Any:
    """Convert `true`, 1, `"1"` and their opposites to a bool."""
    if is_empty(value):
        return None
    if isinstance(value, (bool, int, str)):
        return _BOOLEANS.get(str(value).strip().lower(), UNREADABLE)
    return UNREADABLE


def inverted_boolean(value: Any) -> Any:
    """Convert a boolean and invert it."""
    converted = boolean(value)
    return not converted if isinstance(converted, bool) else converted


def calendar_date(value: Any) -> Any:
    """Convert text that begins with an ISO date to a date."""
    if is_empty(value):
        return None
    try:
        return date.fromisoformat(value.strip()[:10])
    except (AttributeError, ValueError):
        return UNREADABLE


def birth_date(value: Any) -> Any:
    """Convert a date of birth. YClients writes an unknown one as 1970-01-01, which becomes None."""
    converted = calendar_date(value)
    return None if converted == date(1970, 1, 1) else converted


def instant(value: Any, zone: ZoneInfo) -> Any:
    """Convert an ISO time to UTC. A time without offset is local time in `zone`."""
    if is_empty(value):
        return None
    try:
        converted = datetime.fromisoformat(value.strip())
        return (converted if converted.tzinfo else converted.replace(tzinfo=zone)).astimezone(UTC)
    except (AttributeError, ValueError, OverflowError):  # overflows near the minimum and maximum datetime
        return UNREADABLE


def time_of_day(value: Any, midnight: str = "00:00") -> Any:
    """Convert a time of day to `HH:MM`. 00:00 becomes `midnight` ("24:00" for the end of an interval)."""
    match = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return UNREADABLE
    converted = f"{int(match[1]):02}:{match[2]}"
    return midnight if converted == "00:00" else converted


def items(value: Any) -> Any:
    """Return a list. An empty value, such as `{}` from PHP, becomes an empty list."""
    if is_empty(value):
        return []
    return value if isinstance(value, list) else UNREADABLE
