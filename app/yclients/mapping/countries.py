"""Conversion of localised country names, which YClients sends, to ISO 3166 codes."""

from functools import cache

import phonenumbers
from babel import Locale

# The languages of the YClients interface and of the countries of its salons.
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
# Common names that the Unicode registry does not contain.
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
    """Return the ISO 3166 alpha-2 code of a country name in one of LANGUAGES, or None if it is unknown."""
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
