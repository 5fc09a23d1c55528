"""Filters and ordering, compared with a model in plain Python."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app import Frontdesk
from app.data_layer import DataLayer
from app.data_layer.unit_of_work import UnitOfWork
from app.errors import InvalidInputError
from tests.factories import ClientRow

TEXTS = [None, "", "a", "A", "ab", "a%", "a_", "Ё", "ё", "a\\b"]
NUMBERS = [0, 1, 2, 5]


@pytest.fixture(scope="module")
def clients(new_company: Callable[..., DataLayer]) -> tuple[int, list[dict[str, Any]]]:
    """Create a company with a client for each pair of comment and number of visits; return id and rows."""
    salon = new_company()
    rows = [
        ClientRow(yclients_id=n + 1, comment=comment, visit_count=visits, importance=None if n % 3 else "VIP")
        for n, (comment, visits) in enumerate((comment, visits) for comment in TEXTS for visits in NUMBERS)
    ]
    assert salon.upsert_clients(rows).unwrap().inserted == len(rows)
    return salon.company_id, rows


def like(text: str | None, pattern: str) -> bool:
    """Evaluate SQL's LIKE, one character after the other."""
    if text is None:
        return False
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(like(text[n:], pattern[1:]) for n in range(len(text) + 1))
    if pattern[0] == "\\" and len(pattern) > 1:
        return text[:1] == pattern[1] and like(text[1:], pattern[2:])
    return bool(text) and pattern[0] in ("_", text[0]) and like(text[1:], pattern[1:])


MODEL: dict[str, Callable[[Any, Any], bool]] = {
    "": lambda value, given: value == given,
    "__eq": lambda value, given: value == given,
    "__ne": lambda value, given: value != given,
    "__gt": lambda value, given: value is not None and value > given,
    "__gte": lambda value, given: value is not None and value >= given,
    "__lt": lambda value, given: value is not None and value < given,
    "__lte": lambda value, given: value is not None and value <= given,
    "__in": lambda value, given: value is not None and value in given,
    "__null": lambda value, given: (value is None) is given,
    "__like": like,
    "__ilike": lambda value, given: like(value.lower() if value else value, given.lower()),
}
NUMERIC = ["", "__eq", "__ne", "__gt", "__gte", "__lt", "__lte"]
filters = st.dictionaries(
    st.just("visit_count__in"), st.lists(st.sampled_from(NUMBERS), max_size=3), max_size=1
) | st.fixed_dictionaries(
    {},
    optional={
        **{f"visit_count{name}": st.sampled_from(NUMBERS) for name in NUMERIC},
        "comment": st.sampled_from(TEXTS),
        "comment__ne": st.sampled_from(TEXTS),
        "comment__in": st.lists(st.sampled_from(TEXTS), max_size=4),
        "comment__null": st.booleans(),
        # Only ASCII: the C locale folds no other letters. Searches by name use a column with folded text.
        "comment__ilike": st.sampled_from(["a", "A%", "_", "%", "", r"a\%", "%B"]),
        "comment__like": st.sampled_from(["a", "A%", "_", "%", "", r"a\%", "a\\_", "%b"]),
        "importance__null": st.booleans(),
    },
)


def matches(row: dict[str, Any], given_filters: dict[str, Any]) -> bool:
    for name, value in given_filters.items():
        column, _, operator = name.partition("__")
        if not MODEL[f"__{operator}" if operator else ""](row[column], value):
            return False
    return True


@settings(max_examples=150)
@given(given_filters=filters)
def test_find_many_and_count_agree_with_the_model(
    desk: Frontdesk, clients: tuple[int, list[dict[str, Any]]], given_filters: dict[str, Any]
) -> None:
    company_id, rows = clients
    expected = [row["yclients_id"] for row in rows if matches(row, given_filters)]
    with desk.unit_of_work(company_id) as uow:
        found = uow.clients.find_many(order_by="yclients_id", **given_filters)
        assert [client.yclients_id for client in found] == expected
        assert uow.clients.count(**given_filters) == len(expected)


@settings(max_examples=60)
@given(
    order=st.lists(st.sampled_from(["visit_count", "-visit_count", "importance", "-importance"]), max_size=2),
    limit=st.none() | st.integers(0, 50),
    offset=st.integers(0, 50),
)
def test_ordering_puts_nulls_last_and_pages_are_consistent(
    desk: Frontdesk,
    clients: tuple[int, list[dict[str, Any]]],
    order: list[str],
    limit: int | None,
    offset: int,
) -> None:
    company_id, rows = clients
    expected = list(rows)
    for name in reversed(order):
        column = name.removeprefix("-")
        known = [row for row in expected if row[column] is not None]
        known.sort(key=lambda row: row[column], reverse=name.startswith("-"))
        expected = known + [row for row in expected if row[column] is None]
    end = None if limit is None else offset + limit
    with desk.unit_of_work(company_id) as uow:
        found = uow.clients.find_many(order_by=order, limit=limit, offset=offset)
        assert [c.yclients_id for c in found] == [row["yclients_id"] for row in expected[offset:end]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"nonsense": 1},
        {"visit_count__between": 1},
        {"visit_count__in": 5},
        {"comment__in": "abc"},
        {"comment__null": 1},
        {"visit_count__gt": None},
        {"comment__like": None},
        {"visit_count__gt": "abc"},
        {"visit_count": 2**63},
        {"visit_count__like": "1%"},
        {"order_by": "nonsense"},
        {"limit": -1},
        {"metadata": 1},
    ],
)
def test_an_invalid_filter_is_refused(desk: Frontdesk, company_id: int, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError), desk.unit_of_work(company_id) as uow:
        uow.clients.find_many(**wrong)


def test_find_one_returns_the_first_row_or_none(uow: UnitOfWork) -> None:
    uow.clients.bulk_upsert([ClientRow(yclients_id=n, name="A") for n in (5, 3)])
    first = uow.clients.find_one(name="A")
    assert first is not None
    assert first.yclients_id == 3
    assert uow.clients.find_one(name="B") is None


def test_find_by_ids_keeps_the_order_and_returns_none_for_missing_ids(uow: UnitOfWork) -> None:
    uow.clients.bulk_upsert([ClientRow(yclients_id=n) for n in (1, 2, 3)])
    found = uow.clients.find_by_ids([3, 9, 1, 3])
    assert [client and client.yclients_id for client in found] == [3, None, 1, 3]
    assert uow.clients.find_by_ids([]) == []


def test_delete_requires_a_filter_and_deletes_matching_rows(uow: UnitOfWork) -> None:
    uow.clients.bulk_upsert([ClientRow(yclients_id=n, visit_count=n) for n in (1, 2, 3)])
    with pytest.raises(InvalidInputError):
        uow.clients.delete()
    assert uow.clients.delete(visit_count__gte=2) == 2
    assert uow.clients.count() == 1
