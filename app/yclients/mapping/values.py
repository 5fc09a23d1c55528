"""Readers of dirty values. None of them raises: what cannot be read becomes UNREADABLE.

Empty strings and the like mean nothing: None. No schema accepts UNREADABLE, so validation names the
field, and its reason cannot quote the value.
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
    """Whether YClients says nothing by it: null, blanks, `{}` or `[]`."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value in ({}, [])


def text(value: Any) -> Any:
    """Text as it is (numbers become text where the row is validated)."""
    if is_empty(value):
        return None
    return UNREADABLE if isinstance(value, bool) else value


def integer(value: Any) -> Any:
    """`83169`, `"83169"`, `83169.0`."""
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
    """The id of something else; 0 stands for none."""
    return integer(value) or None


def amount(value: Any) -> Any:
    """Money, percent or rating, to two places: `1300`, `"1300.00"`, `"1 300,50"`."""
    if type(value) is int:
        return Decimal(value)
    if is_empty(value):
        return None
    if not isinstance(value, (float, str)):
        return UNREADABLE
    written = re.sub(r"\s", "", str(value)).replace(",", ".")
    if not _AMOUNT.fullmatch(written):
        return UNREADABLE
    try:
        return Decimal(written).quantize(CENT, ROUND_HALF_UP)
    except InvalidOperation:  # more digits than a Decimal has
        return UNREADABLE


def boolean(value: Any) -> Any:
    """`true`, 1, `"1"`."""
    if is_empty(value):
        return None
    if isinstance(value, (bool, int, str)):
        return _BOOLEANS.get(str(value).strip().lower(), UNREADABLE)
    return UNREADABLE


def inverted_boolean(value: Any) -> Any:
    """A boolean with its meaning inverted."""
    read = boolean(value)
    return not read if isinstance(read, bool) else read


def calendar_date(value: Any) -> Any:
    """A date, alone or in front of a time."""
    if is_empty(value):
        return None
    try:
        return date.fromisoformat(value.strip()[:10])
    except (AttributeError, ValueError):
        return UNREADABLE


def birth_date(value: Any) -> Any:
    """A date; 1970-01-01 is how YClients writes an unknown one."""
    read = calendar_date(value)
    return None if read == date(1970, 1, 1) else read


def instant(value: Any, zone: ZoneInfo) -> Any:
    """A time in UTC; one without an offset is the salon's local time."""
    if is_empty(value):
        return None
    try:
        read = datetime.fromisoformat(value.strip())
        return (read if read.tzinfo else read.replace(tzinfo=zone)).astimezone(UTC)
    except (AttributeError, ValueError, OverflowError):  # the first and last hours have no UTC
        return UNREADABLE


def time_of_day(value: Any, midnight: str = "00:00") -> Any:
    """A time of day as `HH:MM`; `midnight` is what 00:00 is called here."""
    found = _CLOCK.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return UNREADABLE
    read = f"{int(found[1]):02}:{found[2]}"
    return midnight if read == "00:00" else read


def items(value: Any) -> Any:
    """A list; PHP writes an empty one as `{}`."""
    if is_empty(value):
        return []
    return value if isinstance(value, list) else UNREADABLE
