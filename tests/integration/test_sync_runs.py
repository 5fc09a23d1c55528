"""One sync of a company at a time, each recorded, each failure reported once."""

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from app import Frontdesk, Settings
from app.data_layer import DataLayer
from app.demo.fake_yclients.salon import FIRST_CLIENT, FakeSalon, RowCounts
from app.demo.fake_yclients.server import Fault
from app.errors import FrontdeskError, UnavailableError
from app.observability import sentry
from app.repositories.sync_runs import SyncRunLog
from app.yclients.errors import ForbiddenError, SyncRunningError, UnauthorizedError, YClientsNotFoundError
from app.yclients.syncing.lock import hold_sync_lock
from app.yclients.syncing.run import SyncProgress, sync
from app.yclients.syncing.status import SyncRunStatus, SyncState, sync_status
from tests.upstream import SMALL, Upstream, upstream_of


@pytest.fixture
def upstream(settings: Settings, company_id: int) -> Iterator[Upstream]:
    with upstream_of(settings, FakeSalon(company_id, SMALL)) as upstream:
        yield upstream


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """The events that were sent to Sentry."""
    errors: list[BaseException] = []
    monkeypatch.setattr(sentry, "capture_exception", lambda error, **tags: errors.append(error))
    return errors


def status_of(upstream: Upstream) -> list[SyncRunStatus]:
    return sync_status(upstream.desk, upstream.company_id)[upstream.company_id]


class TestRunRecords:
    def test_a_run_is_recorded_with_its_counts(self, upstream: Upstream) -> None:
        upstream.sync()
        upstream.salon.put("clients", FIRST_CLIENT, name="Ариадна")
        upstream.salon.delete("clients", FIRST_CLIENT + 1)
        upstream.sync(full=True, only=["clients"])
        last, first = status_of(upstream)
        assert (first.state, first.run.mode, last.state, last.run.mode) == (
            SyncState.DONE,
            "incremental",
            SyncState.DONE,
            "full",
        )
        assert last.run.kinds == ["clients"]
        assert (last.written, last.run.requests) == (2, 2)
        assert last.run.finished_at is not None
        assert last.run.finished_at > last.run.started_at
        assert first.run.counts["bookings"]["inserted"] == SMALL.records
        assert last.as_dict()["error"] is None

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [(Fault("status", status=403), ForbiddenError), (Fault("status", status=401), UnauthorizedError)],
    )
    def test_a_failed_run_is_recorded_with_its_error_even_for_a_new_company(
        self, upstream: Upstream, captured: list[BaseException], fault: Fault, kind: type[Exception]
    ) -> None:
        upstream.fake.faults.append(fault)
        with pytest.raises(kind):
            upstream.sync()
        (status,) = status_of(upstream)
        assert (status.state, status.run.error_code) == (SyncState.FAILED, "unavailable")
        assert str(fault.status) in (status.run.error_message or "")
        assert [type(error) for error in captured] == [kind]

    def test_a_stopped_run_is_recorded_with_the_rows_stored_before(
        self, upstream: Upstream, captured: list[BaseException]
    ) -> None:
        upstream.fake.faults.append(Fault("status", "/records/", status=403))
        with pytest.raises(ForbiddenError):
            upstream.sync()
        (status,) = status_of(upstream)
        assert status.run.counts["clients"]["inserted"] == SMALL.clients
        assert upstream.sync().kinds["clients"].unchanged == SMALL.clients
        assert len(captured) == 1

    def test_an_incomplete_run_names_the_kinds_with_missing_rows(self, upstream: Upstream) -> None:
        upstream.sync()
        upstream.fake.faults.append(Fault("empty", "services/"))
        upstream.sync()
        status = status_of(upstream)[0]
        assert status.state is SyncState.INCOMPLETE
        assert "services" in (status.run.error_message or "")

    def test_a_failed_run_of_an_unknown_salon_is_not_recorded(
        self, upstream: Upstream, captured: list[BaseException]
    ) -> None:
        upstream.salon.company_id += 1
        with pytest.raises(YClientsNotFoundError, match="company id"):
            upstream.sync()
        assert upstream.data_layer.get_company().unwrap() is None
        assert status_of(upstream) == []
        assert len(captured) == 1

    def test_a_run_stopped_by_the_operator_is_interrupted(
        self, upstream: Upstream, captured: list[BaseException]
    ) -> None:
        def stop(state: SyncProgress) -> None:
            if state.kind == "clients":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            upstream.sync(on_progress=stop)
        assert status_of(upstream)[0].state is SyncState.INTERRUPTED
        assert captured == []
        assert upstream.sync().succeeded

    def test_an_unexpected_error_is_recorded_as_an_internal_failure(
        self, upstream: Upstream, captured: list[BaseException]
    ) -> None:
        def stumble(state: SyncProgress) -> None:
            raise RuntimeError("+79686484488")

        with pytest.raises(FrontdeskError) as raised:
            upstream.sync(on_progress=stumble)
        (status,) = status_of(upstream)
        assert status.run.error_code == raised.value.code == "internal"
        assert "9686484488" not in str(raised.value) + str(status.run.error_message)
        assert len(captured) == 1

    def test_a_run_whose_process_has_ended_is_interrupted(self, upstream: Upstream) -> None:
        upstream.data_layer.upsert_company({"title": "Salon"}).unwrap()
        with upstream.desk.unit_of_work(upstream.company_id) as uow:
            SyncRunLog(uow.session, upstream.company_id).start("full", ["clients"], datetime.now(UTC), None)
        assert status_of(upstream)[0].state is SyncState.INTERRUPTED
        with hold_sync_lock(upstream.desk.settings, upstream.company_id):
            assert status_of(upstream)[0].state is SyncState.RUNNING
        upstream.sync()
        last, before = status_of(upstream)
        assert (last.state, before.state, before.run.error_code) == (
            SyncState.DONE,
            SyncState.INTERRUPTED,
            "interrupted",
        )

    def test_a_dry_run_is_not_recorded(self, upstream: Upstream) -> None:
        upstream.sync(dry_run=True)
        assert status_of(upstream) == []

    def test_each_company_has_its_own_runs(
        self, upstream: Upstream, new_company: Callable[..., DataLayer]
    ) -> None:
        upstream.sync(only=["staff"])
        salon = new_company()
        with upstream.desk.unit_of_work(salon.company_id) as uow:
            runs = SyncRunLog(uow.session, salon.company_id)
            assert (list(runs.latest(10)), runs.complete_until()) == ([], None)
            theirs = status_of(upstream)[0].run
            runs.finish(theirs.id, {}, 0, error_code="x", error_message="x")
            runs.start("full", [], datetime.now(UTC), None)
        assert status_of(upstream)[0].state is SyncState.DONE
        assert {upstream.company_id, salon.company_id} <= set(sync_status(upstream.desk))


class TestConcurrentSyncs:
    def test_a_second_sync_of_the_company_is_refused(
        self, upstream: Upstream, captured: list[BaseException]
    ) -> None:
        with (
            hold_sync_lock(upstream.desk.settings, upstream.company_id),
            pytest.raises(SyncRunningError, match="already running"),
        ):
            upstream.sync()
        assert upstream.fake.request_log == []
        assert captured == []
        assert upstream.sync().succeeded

    def test_of_many_concurrent_syncs_one_runs(self, upstream: Upstream) -> None:
        upstream.fake.faults.append(Fault("slow", seconds=0.5))
        outcomes: list[str] = []

        def run() -> None:
            try:
                upstream.sync(only=["staff"])
                outcomes.append("done")
            except SyncRunningError:
                outcomes.append("running")

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["done", "running", "running", "running"]

    def test_another_company_can_be_synced_at_the_same_time(self, upstream: Upstream) -> None:
        with hold_sync_lock(upstream.desk.settings, upstream.company_id + 10_000):
            assert upstream.sync(only=["staff"]).succeeded

    def test_a_lost_connection_frees_the_lock(self, upstream: Upstream, settings: Settings) -> None:
        url = settings.database_url
        assert url is not None
        with (
            hold_sync_lock(upstream.desk.settings, upstream.company_id),
            psycopg.connect(url.get_secret_value(), autocommit=True) as killer,
        ):
            killed = killer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1"
                " AND (classid::bigint << 32) | objid::bigint"
                " = hashtextextended('yclients sync of company ' || %s::text, 0)",
                (upstream.company_id,),
            )
            assert killed.fetchall() == [(True,)]
            assert upstream.sync(only=["staff"]).succeeded

    def test_an_unreachable_database_is_reported(self, desk: Frontdesk) -> None:
        nowhere = Settings(database_url="postgresql://someone@127.0.0.1:1/nowhere")
        with pytest.raises(UnavailableError), hold_sync_lock(nowhere, 1):
            pass


class TestConcurrentWrites:
    def test_a_row_stored_by_a_webhook_during_the_run_is_not_marked_as_deleted(
        self, settings: Settings, company_id: int
    ) -> None:
        """A client that is created in YClients after the list was read, and reported by the webhook."""
        with upstream_of(settings, FakeSalon(company_id, RowCounts(300, 2, 2, 1, 10))) as upstream:
            upstream.sync()
            told: list[int] = []

            def tell(state: SyncProgress) -> None:
                if state.kind == "clients" and not told:
                    told.append(1)
                    upstream.data_layer.upsert_client({"yclients_id": 1, "name": "Ира"}).unwrap()

            assert upstream.sync(on_progress=tell).kinds["clients"].deleted == 0
            assert upstream.sync().kinds["clients"].deleted == 1  # it is not there now, either

    def test_a_list_that_shrinks_while_it_is_read_marks_no_wrong_row(
        self, settings: Settings, company_id: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with upstream_of(settings, FakeSalon(company_id, RowCounts(450, 2, 2, 1, 10))) as upstream:
            upstream.sync()
            page: Callable[..., Any] = upstream.fake._page

            def shrinking(rows: list[Any], number: int, size: int) -> Any:
                answer = page(rows, number, size)
                if number == 1 and len(upstream.salon.collections["clients"]) == 450:
                    upstream.salon.delete("clients", FIRST_CLIENT)
                return answer

            monkeypatch.setattr(upstream.fake, "_page", shrinking)
            summary = upstream.sync(only=["clients"])
            assert summary.kinds["clients"].deleted == 0  # it had been seen when it was deleted
            assert upstream.sync(only=["clients"]).kinds["clients"].deleted == 1


def test_the_python_function_creates_its_own_client(upstream: Upstream) -> None:
    assert sync(upstream.desk, upstream.company_id, only=["staff"]).succeeded
