"""Text: folded for search, and made fit to be shown."""

import unicodedata


def fold_case(text: str) -> str:
    """Fold case and compatibility forms so that `Ё`, `ё` or `ﬁ`, `FI` compare equal in any locale."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def search_name(*parts: str | None) -> str:
    """Join name, surname and patronymic, folded, as `clients.search_name` holds them."""
    return fold_case(" ".join(filter(None, parts)))


def to_printable_line(text: str) -> str:
    """One line without control characters and lone surrogates, which terminals and files do not take."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
