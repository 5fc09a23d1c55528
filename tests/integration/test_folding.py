"""An upsert of a batch has the same effect as upserts of its rows one by one."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.data_layer import DataLayer

COLUMNS = ("name", "surname", "comment", "email", "visit_count", "source_changed_at", "search_name")


def day(number: int | None) -> datetime | None:
    return None if number is None else datetime(2026, 1, number, tzinfo=UTC)


def row(key: int, name: str, **others: Any) -> dict[str, Any]:
    return {"yclients_id": key, "name": name, **others}


ROWS = st.lists(
    st.fixed_dictionaries(
        {"yclients_id": st.integers(1, 3), "name": st.sampled_from(["Anna", "Вера", "Ира"])},
        optional={
            "surname": st.sampled_from([None, "Petrova"]),
            "comment": st.sampled_from([None, "a", "b"]),
            "visit_count": st.integers(0, 2),
            "source_changed_at": st.sampled_from([None, 5, 10, 15]).map(day),
        },
    ),
    max_size=8,
)


def stored(salon: DataLayer) -> dict[int | None, tuple[Any, ...]]:
    clients = salon.get_clients().unwrap()
    return {client.yclients_id: tuple(getattr(client, c) for c in COLUMNS) for client in clients}


@settings(max_examples=60)
@given(before=ROWS, batch=ROWS)
@example(
    before=[row(1, "Anna", source_changed_at=day(10))],
    batch=[
        row(1, "Anna", comment="old", source_changed_at=day(5)),
        row(1, "Anna", source_changed_at=day(15)),
    ],
)
@example(
    before=[row(1, "Anna", source_changed_at=day(10))],
    batch=[row(1, "Вера", source_changed_at=day(5)), row(1, "Ира")],
)
@example(
    before=[row(1, "Anna", source_changed_at=day(10))],
    batch=[row(1, "Вера"), row(1, "Ира", source_changed_at=day(5))],
)
@example(
    before=[],
    batch=[
        row(1, "Anna", source_changed_at=day(10)),
        row(1, "Anna"),
        row(1, "Anna", source_changed_at=day(5)),
    ],
)
def test_a_batch_has_the_effect_of_its_rows_one_by_one(
    new_company: Callable[..., DataLayer], before: list[dict[str, Any]], batch: list[dict[str, Any]]
) -> None:
    one_by_one, together = new_company(), new_company()
    for client in (*before, *batch):
        one_by_one.upsert_client(client).unwrap()
    together.upsert_clients(before).unwrap()
    report = together.upsert_clients(batch).unwrap()
    assert stored(together) == stored(one_by_one)
    assert report.total == len(batch)
    assert min(report.inserted, report.updated, report.unchanged, report.stale, report.superseded) >= 0
    known = {client["yclients_id"] for client in before}
    assert report.inserted == len({client["yclients_id"] for client in batch} - known)
