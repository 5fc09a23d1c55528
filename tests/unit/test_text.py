"""Names fold so that a search finds them whatever their case."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.text import fold_case, search_name


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ЁЛКА", "ёлка"),
        ("Straße", "STRASSE"),
        ("ﬁn", "FIN"),
        ("É", "e\u0301"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("Ⅷ", "viii"),
        ("Й", "и\u0306"),
    ],
)
def test_writings_of_one_name_fold_alike(one: str, other: str) -> None:
    assert fold_case(one) == fold_case(other)


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold_case(fold_case(text)) == fold_case(text)


def test_parts_that_are_missing_leave_no_gap() -> None:
    assert search_name("Анна", None, "Ивановна") == "анна ивановна"
    assert search_name(None, "", None) == ""
