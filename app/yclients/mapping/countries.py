"""Localized names of countries, as YClients sends them, to ISO 3166 codes."""

from functools import cache

import phonenumbers
from babel import Locale

# The languages of YClients' own interface, and of the countries where its salons are.
LANGUAGES: tuple[str, ...] = (
    "ru",
    "en",
    "uk",
    "kk",
    "be",
    "lv",
    "lt",
    "et",
    "ka",
    "hy",
    "az",
    "ky",
    "uz",
    "tg",
    "ro",
    "pl",
)
LANGUAGES += ("de", "es", "fr", "pt", "it", "cs", "bg", "hu", "el", "sr", "tr", "he", "ar", "th", "vi")
# Names in use that the Unicode registry does not list.
ALIASES = {
    "российская федерация": "RU",
    "russian federation": "RU",
    "рф": "RU",
    "белоруссия": "BY",
    "молдавия": "MD",
    "сша": "US",
    "usa": "US",
    "uk": "GB",
    "uae": "AE",
    "turkey": "TR",
    "czech republic": "CZ",
}


def country_code(name: str) -> str | None:
    """The ISO 3166 alpha-2 code of a country named in one of YClients' languages, or None."""
    if name.strip().upper() in phonenumbers.SUPPORTED_REGIONS:
        return name.strip().upper()
    return _codes_by_name().get(_normalise_name(name))


@cache
def _codes_by_name() -> dict[str, str]:
    codes: dict[str, str] = {}
    for language in LANGUAGES:
        for code, name in Locale.parse(language).territories.items():
            if code in phonenumbers.SUPPORTED_REGIONS:
                codes.setdefault(_normalise_name(name), code)
    return codes | ALIASES


def _normalise_name(name: str) -> str:
    return " ".join(name.casefold().replace("ё", "е").split())
