"""Two concurrent writers with invalid and stale rows, compared with a model in plain Python."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import app.database.bulk_merge
from app import Frontdesk
from app.data_layer import DataLayer
from tests.threads import at_once

Row = dict[str, Any]
T0 = datetime(2026, 1, 1, tzinfo=UTC)
KEYS = range(1, 7)
BAD: list[Row] = [{"name": " "}, {"phone": "x"}, {"yclients_id": 0}, {"name": "a\0"}, {"unheard_of": 1}]


@st.composite
def writes(draw: st.DrawFn) -> tuple[list[tuple[Row, bool]], ...]:
    """Draw the stored rows and the rows of two writers; a row is paired with True if it is valid.

    No two rows have the same time, so the stored rows do not depend on the order of the writers.
    """
    sizes = [draw(st.integers(0, 8)) for _ in range(3)]
    times = iter(draw(st.permutations(range(sum(sizes)))))
    batches = []
    for size in sizes:
        batch = []
        for _ in range(size):
            time = next(times)
            row = {
                "yclients_id": draw(st.sampled_from(KEYS)),
                "name": f"name {time}",
                "source_changed_at": T0 + timedelta(hours=time),
            }
            bad = draw(st.none() | st.sampled_from(BAD))
            batch.append(({**row, **(bad or {})}, bad is None))
        batches.append(batch)
    return tuple(batches)


@pytest.mark.parametrize("max_inline_rows", [50, 0], ids=["parameters", "copy"])
@settings(max_examples=40)
@given(given_writes=writes())
def test_the_newest_valid_row_of_each_key_is_stored_and_every_row_is_counted(
    desk: Frontdesk,
    salon: DataLayer,
    monkeypatch: pytest.MonkeyPatch,
    max_inline_rows: int,
    given_writes: tuple[list[tuple[Row, bool]], ...],
) -> None:
    monkeypatch.setattr(app.database.bulk_merge, "MAX_INLINE_ROWS", max_inline_rows)
    desk.transact(salon.company_id, lambda uow: uow.clients.delete(yclients_id__in=list(KEYS)))
    before, *at_the_same_time = given_writes
    rows = [[row for row, _ in batch] for batch in given_writes]
    reports = [salon.upsert_clients(rows[0]).unwrap()]
    reports += at_once([lambda mine=mine: salon.upsert_clients(mine).unwrap() for mine in rows[1:]])

    good = [row for batch in (before, *at_the_same_time) for row, is_good in batch if is_good]
    newest: dict[int, Row] = {}
    for row in sorted(good, key=lambda row: row["source_changed_at"]):
        newest[row["yclients_id"]] = row
    stored = {client.yclients_id: client.name for client in salon.get_clients().unwrap()}
    assert stored == {key: row["name"] for key, row in newest.items()}
    assert sum(report.inserted for report in reports) == len(newest)
    for batch, report in zip(given_writes, reports, strict=True):
        assert report.total == len(batch)
        wrong = [position for position, (_, is_good) in enumerate(batch) if not is_good]
        assert [rejected.position for rejected in report.rejected] == wrong
