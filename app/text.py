"""Text: names folded for search, printable lines, and points in time."""

import unicodedata
from datetime import UTC, datetime


def fold_case(text: str) -> str:
    """Fold case and compatibility forms, so that `Ё` and `ё`, or `ﬁ` and `FI`, are equal in any locale."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def search_name(*parts: str | None) -> str:
    """Join name, surname and patronymic, folded, as in the column `clients.search_name`."""
    return fold_case(" ".join(filter(None, parts)))


def to_printable_line(text: str) -> str:
    """Return the text as one line without control characters and lone surrogates."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def format_utc(moment: datetime, timespec: str = "seconds") -> str:
    """Return the moment in UTC in ISO 8601, such as `2026-11-20T10:40:00Z`."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
