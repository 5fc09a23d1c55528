"""Phones in every writing become E.164."""

import phonenumbers
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app import phones
from app.phones import to_e164


@pytest.mark.parametrize(
    "text",
    [
        "8 (968) 648-44-88",
        "+7 968 648 44 88",
        "+7 968 648-44-88",
        "968 648 44 88",
        "89686484488",
        "79686484488",
        "9686484488",
        "+7(968)6484488",
        " +7 968 648 44 88 ",
        "8-968-648-44-88",
        "8.968.648.44.88",
        "tel:+79686484488".removeprefix("tel:"),
        "００7 968 648 44 88".replace("００", "00"),
        "+７ ９６８ ６４８ ４４ ８８",
    ],
)
def test_a_russian_number_is_read_in_any_notation(text: str) -> None:
    assert to_e164(text) == "+79686484488"


@pytest.mark.parametrize(
    ("text", "country", "expected"),
    [
        ("8 (701) 234-56-78", "KZ", "+77012345678"),
        ("029 123-45-67", "BY", "+375291234567"),
        ("067 123 45 67", "UA", "+380671234567"),
        ("(212) 736-5000", "US", "+12127365000"),
        ("020 7946 0958", "GB", "+442079460958"),
        ("0171 2345678", "DE", "+491712345678"),
        ("06 12 34 56 78", "FR", "+33612345678"),
        ("02 698 85 123", "IT", "+390269885123"),
        ("052-234-5678", "IL", "+972522345678"),
        ("0532 123 45 67", "TR", "+905321234567"),
        ("555 12 34 56", "GE", "+995555123456"),
        ("+374 91 123456", "RU", "+37491123456"),
        ("37491123456", "RU", "+37491123456"),
        ("00 49 171 2345678", "RU", "+491712345678"),
        ("+7 968 648 44 88", "US", "+79686484488"),
        ("8 (495) 123-45-67", "RU", "+74951234567"),
    ],
)
def test_numbers_of_other_countries_are_read(text: str, country: str, expected: str) -> None:
    assert to_e164(text, country) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "abc", "phone", "12", "+", "+7", "0" * 11, "9" * 40, "+7968648448", "1" * 10_000),
        "+7 968 648 44 88 ext. 5",
        "+79686484488x12",
        "8968648448a",
        "+79686484488\x00",
        "\ud800",
        "+999123456789",
        "9300000000",
    ],
)
def test_invalid_text_is_refused_and_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not a (valid )?phone number$"):
        to_e164(text)


@given(st.from_regex(phones._RUSSIAN_MOBILE, fullmatch=True))
@example("8 (968) 648-44-88")
def test_the_fast_path_and_the_library_give_the_same_number(text: str) -> None:
    number = phonenumbers.parse(text, "RU")
    assert phonenumbers.is_valid_number(number)
    assert to_e164(text) == phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@given(
    text=st.text(max_size=50) | st.from_regex(r"[+\d ()\-.]{5,20}", fullmatch=True),
    country=st.sampled_from(sorted(phonenumbers.SUPPORTED_REGIONS)),
)
def test_a_result_is_a_valid_number_that_every_country_reads_as_itself(text: str, country: str) -> None:
    try:
        answer = to_e164(text, country)
    except ValueError:
        return
    assert phonenumbers.is_valid_number(phonenumbers.parse(answer))
    assert to_e164(answer, country) == to_e164(answer, "RU") == answer


@given(country=st.sampled_from(sorted(phonenumbers.SUPPORTED_REGIONS)))
def test_a_number_is_read_in_the_notation_of_its_country(country: str) -> None:
    number = phonenumbers.example_number_for_type(country, phonenumbers.PhoneNumberType.MOBILE)
    if number is None:
        return
    expected = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    for style in ("NATIONAL", "INTERNATIONAL", "E164"):
        text = phonenumbers.format_number(number, getattr(phonenumbers.PhoneNumberFormat, style))
        assert to_e164(text, country) == expected
