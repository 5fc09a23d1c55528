"""The bulk merge compared with a Python model, on both of its code paths (parameters and COPY)."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import app.database.bulk_merge
from app import Frontdesk, Settings
from app.data_layer import DataLayer
from app.data_layer.unit_of_work import UnitOfWork
from app.repositories.batch_dedup import UpsertReport
from tests.factories import ClientRow, DialogRow, ServiceRow, StaffRow
from tests.processes import wait_until
from tests.threads import at_once

Row = dict[str, Any]
State = dict[int, Row]
T0 = datetime(2026, 1, 1, tzinfo=UTC)
DEFAULTS = {"comment": None, "visit_count": 0, "source_changed_at": None, "surname": None}
OPTIONAL: dict[str, st.SearchStrategy[Any]] = {
    "comment": st.sampled_from([None, "x", "y"]),
    "visit_count": st.integers(0, 2),
    "surname": st.sampled_from([None, "Петрова"]),
    "source_changed_at": st.sampled_from([T0 + timedelta(days=n) for n in range(3)]),
}


@st.composite
def batches(draw: st.DrawFn) -> list[Row]:
    """Rows with the same columns, many of them with the same key."""
    columns = draw(st.sets(st.sampled_from(sorted(OPTIONAL))))
    fields = {"yclients_id": st.integers(1, 4), "name": st.sampled_from(["Анна", "Ира"])}
    fields |= {name: OPTIONAL[name] for name in columns}
    return draw(st.lists(st.fixed_dictionaries(fields), max_size=8))


def write_one_by_one(state: State, batch: list[Row]) -> dict[str, int]:
    """Apply a batch to `state` row by row; return the counts that the merge must report."""
    counts = dict.fromkeys(("inserted", "updated", "unchanged", "stale", "superseded"), 0)
    last: dict[int, Row] = {}
    for row in batch:
        key = row["yclients_id"]
        if key in last and is_older(row, last[key]):
            counts["stale"] += 1
        else:
            counts["superseded"] += key in last
            last[key] = row
    for key, row in last.items():
        before = state.get(key)
        if before and is_older(row, before):
            counts["stale"] += 1
            continue
        state[key] = {**(before or DEFAULTS), **row}
        counts["inserted" if not before else "unchanged" if before == state[key] else "updated"] += 1
    return counts


def is_older(row: Row, than: Row) -> bool:
    times = row.get("source_changed_at"), than.get("source_changed_at")
    return None not in times and times[0] < times[1]


def stored(uow: UnitOfWork) -> dict[int, tuple[Row, str]]:
    """Return the values of each stored row by id, and its ctid, which changes with every write."""
    names = ("yclients_id", "name", *DEFAULTS)
    rows = uow.session.connection().exec_driver_sql(
        f"SELECT {', '.join(names)}, ctid::text FROM clients WHERE company_id = {uow.tenant.company_id}"
    )
    return {row[0]: (dict(zip(names, row[:-1], strict=True)), row[-1]) for row in rows}


def counts_of(report: UpsertReport) -> dict[str, int]:
    return {
        name: getattr(report, name) for name in ("inserted", "updated", "unchanged", "stale", "superseded")
    }


@pytest.fixture(params=[50, 0], ids=["parameters", "copy"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the number of rows above which the merge uses COPY instead of parameters."""
    monkeypatch.setattr(app.database.bulk_merge, "MAX_INLINE_ROWS", request.param)


@settings(max_examples=60)
@given(given_batches=st.lists(batches(), min_size=1, max_size=3))
def test_the_merge_has_the_effect_of_writing_row_by_row(
    desk: Frontdesk, salon: DataLayer, path: None, given_batches: list[list[Row]]
) -> None:
    model: State = {}
    with desk.unit_of_work(salon.company_id) as uow:
        for batch in given_batches:
            before = stored(uow)
            expected = write_one_by_one(model, batch)
            report = uow.clients.bulk_upsert(batch)
            assert counts_of(report) == expected
            assert report.total == len(batch)
            after = stored(uow)
            assert {key: row for key, (row, _) in after.items()} == model
            rewritten = {key for key, (_, ctid) in after.items() if before.get(key, (None, ""))[1] != ctid}
            assert rewritten == {key for key in model if before.get(key, (None,))[0] != model[key]}
        uow.session.rollback()


@settings(max_examples=30)
@given(batch=batches())
def test_a_second_merge_of_the_same_rows_changes_nothing(
    desk: Frontdesk, salon: DataLayer, path: None, batch: list[Row]
) -> None:
    with desk.unit_of_work(salon.company_id) as uow:
        uow.clients.bulk_upsert(batch)
        before = stored(uow)
        report = uow.clients.bulk_upsert([batch[-1]] if batch else [])
        if batch and "source_changed_at" not in batch[-1]:
            assert counts_of(report)["unchanged"] == 1
        assert stored(uow) == before
        uow.session.rollback()


class TestOneRowAfterTheOther:
    def test_an_older_row_never_wins_at_any_position_in_the_batch(self, uow: UnitOfWork) -> None:
        new = ClientRow(yclients_id=1, name="new", source_changed_at=T0 + timedelta(days=1))
        old = ClientRow(yclients_id=1, name="old", source_changed_at=T0)
        for batch in ([new, old], [old, new], [old]):
            uow.clients.bulk_upsert(batch)
            client = uow.clients.find_one(yclients_id=1)
            assert client is not None
            assert client.name == "new"

    def test_a_row_without_a_time_counts_as_current_and_keeps_the_time(self, uow: UnitOfWork) -> None:
        uow.clients.upsert(ClientRow(yclients_id=1, source_changed_at=T0))
        client = uow.clients.upsert(ClientRow(yclients_id=1, name="timeless", source_changed_at=None))
        assert (client.name, client.source_changed_at) == ("timeless", T0)
        assert uow.clients.upsert(
            ClientRow(yclients_id=1, name="old", source_changed_at=T0 - timedelta(days=1))
        ).name == ("timeless")

    def test_an_omitted_column_is_unchanged_and_none_clears_a_column(self, uow: UnitOfWork) -> None:
        uow.clients.upsert(ClientRow(yclients_id=1, comment="tea", email="a@b.ru"))
        client = uow.clients.upsert({"yclients_id": 1, "name": "Анна", "email": None})
        assert (client.comment, client.email) == ("tea", None)

    def test_rows_with_different_columns_share_a_batch(self, uow: UnitOfWork) -> None:
        report = uow.clients.bulk_upsert(
            [{"yclients_id": n, "name": "A", **({"comment": "c"} if n % 2 else {})} for n in range(1, 120)]
        )
        assert report.inserted == 119
        assert uow.clients.count(comment="c") == 60

    def test_a_rejected_row_has_its_position_key_and_errors_by_field(self, uow: UnitOfWork) -> None:
        report = uow.clients.bulk_upsert(
            [ClientRow(), {"yclients_id": 2, "name": " ", "phone": "x"}, "row", {"name": "B"}]
        )
        assert report.inserted == 1
        assert [(r.position, r.key, sorted(r.errors)) for r in report.rejected] == [
            (1, (2,), ["name", "phone"]),
            (2, None, ["row"]),
            (3, None, ["yclients_id"]),
        ]

    def test_any_iterable_of_rows_is_accepted(self, uow: UnitOfWork) -> None:
        assert uow.clients.bulk_upsert(ClientRow() for _ in range(3)).inserted == 3
        assert uow.clients.bulk_upsert(()).total == 0

    def test_an_unchanged_row_is_not_written(self, salon: DataLayer, settings: Settings) -> None:
        rows = [ClientRow(yclients_id=n, name="Анна") for n in range(1, 200)]
        salon.upsert_clients(rows).unwrap()
        before = versions(settings, salon.company_id)
        assert salon.upsert_clients(rows).unwrap().unchanged == 199
        assert versions(settings, salon.company_id) == before


class TestManyRows:
    """More rows than a statement can have bind parameters (65,535)."""

    COUNT = 70_000

    @pytest.mark.full
    def test_clients_with_a_part_of_their_name_are_merged(self, uow: UnitOfWork) -> None:
        rows = [{"yclients_id": n, "name": "Анна", "surname": "Ким"} for n in range(1, self.COUNT)]
        assert uow.clients.bulk_upsert(rows).inserted == self.COUNT - 1
        renamed = [{"yclients_id": n, "name": "Ира"} for n in range(1, self.COUNT)]
        assert uow.clients.bulk_upsert(renamed).updated == self.COUNT - 1
        assert uow.clients.count(search_name="ира ким") == self.COUNT - 1

    @pytest.mark.full
    def test_services_with_changed_staff_are_merged(self, uow: UnitOfWork) -> None:
        for staff in (7, 8):
            rows = [
                {"yclients_id": n, "title": "Стрижка", "staff": [{"staff_id": staff}]}
                for n in range(1, self.COUNT)
            ]
            report = uow.services.bulk_upsert(rows)
        assert report.updated == self.COUNT - 1

    @pytest.mark.full
    def test_bookings_with_a_local_id_are_merged(self, uow: UnitOfWork) -> None:
        rows = [
            {
                "id": 10**9 + n,
                "yclients_record_id": n,
                "starts_at": T0 + timedelta(hours=n),
                "ends_at": T0 + timedelta(hours=n + 1),
            }
            for n in range(1, self.COUNT)
        ]
        assert uow.bookings.bulk_upsert(rows).inserted == self.COUNT - 1


class TestChildren:
    def test_staff_of_a_service_are_replaced_if_they_differ(self, uow: UnitOfWork) -> None:
        first = ServiceRow(yclients_id=1, title="Cut", staff=[{"staff_id": 7, "duration": 900}])
        assert uow.services.bulk_upsert([first]).inserted == 1
        assert uow.services.bulk_upsert([first]).unchanged == 1
        assert uow.services.bulk_upsert([{**first, "staff": [{"staff_id": 8}]}]).updated == 1
        without = {key: value for key, value in first.items() if key != "staff"}
        assert uow.services.bulk_upsert([without]).unchanged == 1
        assert performers(uow) == [(8, None)]
        assert uow.services.bulk_upsert([{**first, "staff": []}]).updated == 1
        assert performers(uow) == []

    def test_staff_of_a_stale_service_are_unchanged(self, uow: UnitOfWork) -> None:
        uow.services.upsert(ServiceRow(yclients_id=1, staff=[{"staff_id": 7}], source_changed_at=T0))
        old = ServiceRow(yclients_id=1, staff=[{"staff_id": 8}], source_changed_at=T0 - timedelta(days=1))
        assert uow.services.bulk_upsert([old]).stale == 1
        assert performers(uow) == [(7, None)]


def performers(uow: UnitOfWork) -> list[tuple[int, int | None]]:
    rows = uow.session.connection().exec_driver_sql(
        f"SELECT staff_id, duration FROM service_staff WHERE company_id = {uow.tenant.company_id} ORDER BY 1"
    )
    return [(row[0], row[1]) for row in rows]


class TestTwoWritersAtOnce:
    @pytest.mark.parametrize("rows", [40, 400])
    def test_both_succeed_and_each_row_is_stored_once(
        self, salon: DataLayer, new_company: Callable[..., DataLayer], rows: int
    ) -> None:
        def batch(name: str, order: int) -> list[Row]:
            return [ClientRow(yclients_id=n, name=name) for n in range(1, rows + 1)][::order]

        batches = batch("first", 1), batch("second", -1)
        reports = at_once([lambda mine=mine: salon.upsert_clients(mine).unwrap() for mine in batches])
        assert [report.total for report in reports] == [rows, rows]
        assert sum(report.inserted for report in reports) == rows
        names = {client.name for client in salon.get_clients(limit=1000).unwrap()}
        assert names <= {"first", "second"}
        assert len(salon.get_clients(limit=1000).unwrap()) == rows

    def test_an_uncommitted_first_row_of_another_writer_is_merged(
        self, salon: DataLayer, desk: Frontdesk, worker_database_url: str
    ) -> None:
        rows = [ClientRow(yclients_id=n, name="many") for n in range(1, 200)]
        with (
            psycopg.connect(worker_database_url, autocommit=True) as watcher,
            ThreadPoolExecutor(1) as pool,
            desk.unit_of_work(salon.company_id) as uow,
        ):
            uow.clients.upsert(ClientRow(yclients_id=100, name="one"))
            writing = pool.submit(
                salon.upsert_clients, rows
            )  # sees no row yet, and waits for the other transaction
            pid = uow.session.connection().exec_driver_sql("SELECT pg_backend_pid()").scalar()
            wait_until(lambda: is_blocking(watcher, pid))
            uow.session.commit()
            report = writing.result().unwrap()
        assert (report.inserted, report.updated) == (198, 1)
        assert salon.get_client_by_id(100).unwrap().name == "many"

    def test_the_newer_row_wins_in_any_order(self, salon: DataLayer) -> None:
        def write(day: int) -> UpsertReport:
            changed = T0 + timedelta(days=day)
            rows = [
                StaffRow(yclients_id=n, name=f"day {day}", source_changed_at=changed) for n in range(1, 80)
            ]
            return salon.upsert_staff(rows).unwrap()

        for _ in range(3):
            reports = at_once([lambda day=day: write(day) for day in range(4)])
            assert [type(report) for report in reports] == [UpsertReport] * 4
        assert {member.name for member in salon.get_staff().unwrap()} == {"day 3"}

    def test_concurrent_writes_of_one_dialogue_succeed(self, salon: DataLayer) -> None:
        def write(stage: str) -> bool:
            return salon.upsert_dialog_context("u", DialogRow(user_id="u", stage=stage)).success

        assert at_once([lambda s=stage: write(s) for stage in "abcdefgh"]) == [True] * 8


def is_blocking(watcher: psycopg.Connection, pid: Any) -> bool:
    """Return True if another session waits for the server process `pid`.

    `watcher` is in autocommit mode: within one transaction, pg_stat_activity never changes.
    """
    waiting = "SELECT FROM pg_stat_activity WHERE %s = ANY(pg_blocking_pids(pid))"
    return watcher.execute(waiting, (pid,)).fetchone() is not None


def versions(settings: Settings, company_id: int) -> list[Any]:
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url.get_secret_value()) as connection:
        return connection.execute(
            "SELECT xmin, ctid, id FROM clients WHERE company_id = %s ORDER BY id", (company_id,)
        ).fetchall()
