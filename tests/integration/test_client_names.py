"""`search_name` of clients after upserts with all or some parts of the name."""

import pytest

from app.data_layer import DataLayer
from app.database.bulk_merge import MAX_INLINE_ROWS


def rows(count: int, **fields: object) -> list[dict[str, object]]:
    return [{"yclients_id": number, **fields} for number in range(1, count + 1)]


@pytest.mark.parametrize("count", [1, MAX_INLINE_ROWS + 1])
def test_a_new_name_keeps_the_stored_surname_in_search(salon: DataLayer, count: int) -> None:
    salon.upsert_clients(rows(count, name="Анна", surname="Петрова")).unwrap()
    report = salon.upsert_clients(rows(count, name="ИРИНА")).unwrap()
    assert report.updated == count
    assert len(salon.search_clients_by_name("ирина петрова", limit=100).unwrap()) == count
    assert salon.search_clients_by_name("анна").unwrap() == []


@pytest.mark.parametrize("count", [1, MAX_INLINE_ROWS + 1])
def test_without_a_surname_the_search_name_is_the_new_name(salon: DataLayer, count: int) -> None:
    salon.upsert_clients(rows(count, name="Анна")).unwrap()
    assert salon.upsert_clients(rows(count, name="Ёлка")).unwrap().updated == count
    found = salon.search_clients_by_name("ёЛКА", limit=100).unwrap()
    assert [client.search_name for client in found] == ["ёлка"] * count


@pytest.mark.parametrize("count", [1, MAX_INLINE_ROWS + 1])
def test_a_name_that_did_not_change_is_unchanged_with_or_without_its_surname(
    salon: DataLayer, count: int
) -> None:
    salon.upsert_clients(rows(count, name="Анна", surname="Петрова")).unwrap()
    assert salon.upsert_clients(rows(count, name="Анна")).unwrap().unchanged == count
    assert salon.upsert_clients(rows(count, name="Анна", surname="Петрова")).unwrap().unchanged == count
