"""Conversion of phone numbers to E.164."""

import re

import phonenumbers

# Most numbers are Russian mobile numbers. Parsing one with phonenumbers takes 18 µs, this expression 0.5 µs;
# a property test checks that both give the same result. Numbers that begin with 930 are excluded, because
# some of them are not assigned.
_RUSSIAN_MOBILE = re.compile(
    r"(\+7|8|7)?[ \-(]{0,2}(9(?!30)\d{2})[ \-)]{0,2}(\d{3})[ \-]?(\d{2})[ \-]?(\d{2})", re.ASCII
)
_FORBIDDEN_CHARACTERS = re.compile(r"[^\W\d_]|\x00")  # letters and NUL
_MAX_CHARACTERS = 40


def to_e164(text: str, country: str = "RU") -> str:
    """Return the phone number in E.164 form, such as `+79686484488`.

    A number without a country code is first parsed as a number of `country` (ISO 3166 alpha-2), then as an
    international number without `+`, the form that YClients uses.

    Raises ValueError if the number is invalid. The message does not contain the number.
    """
    if country == "RU" and (match := _RUSSIAN_MOBILE.fullmatch(text)):
        return "+7" + "".join(match.groups()[1:])
    if len(text) > _MAX_CHARACTERS or _FORBIDDEN_CHARACTERS.search(text):
        raise ValueError("is not a phone number")
    digits = re.sub(r"\D", "", text)
    for candidate, region in ((text, country), ("+" + digits.removeprefix("00"), None)):
        try:
            number = phonenumbers.parse(candidate, region)
        except phonenumbers.NumberParseException:
            continue
        if number.extension is None and phonenumbers.is_valid_number(number):
            return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    raise ValueError("is not a valid phone number")
