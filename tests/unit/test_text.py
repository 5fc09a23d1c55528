"""Case folding of names: a search finds a name in any case and any Unicode spelling."""

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
def test_spellings_of_one_name_fold_to_the_same_text(one: str, other: str) -> None:
    assert fold_case(one) == fold_case(other)


@given(st.text())
def test_folding_twice_equals_folding_once(text: str) -> None:
    assert fold_case(fold_case(text)) == fold_case(text)


def test_missing_parts_of_a_name_leave_no_extra_spaces() -> None:
    assert search_name("Анна", None, "Ивановна") == "анна ивановна"
    assert search_name(None, "", None) == ""
