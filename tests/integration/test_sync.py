"""Rows that a sync stores, keeps, and marks as deleted."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from app import Settings
from app.demo.fake_yclients.salon import (
    FIRST_CLIENT,
    FIRST_RECORD,
    FIRST_SERVICE,
    FIRST_STAFF,
    FakeSalon,
    format_timestamp,
)
from app.demo.fake_yclients.server import Fault
from app.errors import InvalidInputError
from app.yclients.errors import ForbiddenError
from app.yclients.syncing.run import SCHEDULE_DAYS, SyncProgress
from app.yclients.syncing.run_record import OVERLAP
from tests.factories import NewBookingRow, NewClientRow
from tests.upstream import SMALL, Upstream, upstream_of

SOON = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(days=400)


@pytest.fixture
def upstream(settings: Settings, company_id: int) -> Iterator[Upstream]:
    with upstream_of(settings, FakeSalon(company_id, SMALL)) as upstream:
        yield upstream


@pytest.fixture
def synced(upstream: Upstream) -> Upstream:
    """A salon that is here already."""
    assert upstream.sync().succeeded
    return upstream


def record(**values: Any) -> dict[str, Any]:
    """A record of YClients as little as it can be: an hour with staff member 7."""
    return {
        "staff_id": 7,
        "client": None,
        "services": [],
        "datetime": SOON.isoformat(),
        "seance_length": 3600,
        "attendance": 0,
        "deleted": False,
        **values,
    }


class TestFirstSync:
    def test_all_rows_are_stored(self, upstream: Upstream) -> None:
        summary = upstream.sync()
        assert summary.succeeded
        assert {name: kind.inserted for name, kind in summary.kinds.items()} == {
            "company": 1,
            "service_categories": SMALL.categories,
            "services": SMALL.services,
            "staff": SMALL.staff,
            "clients": SMALL.clients,
            "schedules": SMALL.staff * (SCHEDULE_DAYS + 1),
            "bookings": SMALL.records,
        }
        company = upstream.data_layer.get_company().unwrap()
        assert company is not None
        assert (company.title, company.country) == ("Салон «Пример»", "RU")
        assert summary.requests == len(upstream.fake.request_log) == 4 + 2 + SMALL.staff + 2

    def test_a_second_sync_writes_nothing(self, synced: Upstream) -> None:
        before = written_rows(synced)
        summary = synced.sync()
        assert not summary.has_changes
        assert summary.kinds["bookings"].rows == 0
        assert not synced.sync(full=True).has_changes
        assert written_rows(synced) == before

    def test_progress_is_reported(self, upstream: Upstream) -> None:
        states: list[SyncProgress] = []
        upstream.sync(on_progress=states.append)
        assert [(state.done, state.total) for state in states if state.kind == "clients"] == [
            (200, 250),
            (250, 250),
        ]

    def test_a_dry_run_changes_nothing(self, upstream: Upstream) -> None:
        summary = upstream.sync(dry_run=True)
        assert summary.kinds["bookings"].inserted == SMALL.records
        assert upstream.data_layer.get_company().unwrap() is None
        assert not any(upstream.rows().values())
        assert upstream.sync().kinds["bookings"].inserted == SMALL.records

    def test_a_sync_of_some_kinds_also_creates_an_unknown_company(self, upstream: Upstream) -> None:
        assert list(upstream.sync(only=["staff"]).kinds) == ["company", "staff"]
        assert list(upstream.sync(only=["staff", "services"]).kinds) == ["services", "staff"]

    @pytest.mark.parametrize(
        "options",
        [
            {"only": []},
            {"only": ["records"]},
            {"full": True, "since": SOON},
            {"since": datetime(2026, 1, 1)},  # noqa: DTZ001 - that is what is wrong with it
            {"since": datetime(1, 1, 1, tzinfo=UTC)},
        ],
    )
    def test_invalid_options_are_refused_before_the_first_request(
        self, upstream: Upstream, options: dict[str, Any]
    ) -> None:
        with pytest.raises(InvalidInputError):
            upstream.sync(**options)
        assert upstream.fake.request_log == []


class TestUpstreamChanges:
    def test_a_change_is_stored_by_the_next_sync(self, synced: Upstream) -> None:
        synced.salon.put("clients", FIRST_CLIENT + 5, name="Ариадна", phone="8 (968) 648-44-88")
        synced.salon.put("staff", FIRST_STAFF + 1, name="Ольга", fired=1)
        synced.salon.put("records", FIRST_RECORD + 1, datetime=SOON.isoformat(), seance_length="5400")
        synced.salon.put("records", 1, **record(staff_id=9))
        summary = synced.sync()
        changed = {name: (kind.inserted, kind.updated) for name, kind in summary.kinds.items()}
        assert (changed["clients"], changed["staff"], changed["bookings"]) == ((0, 1), (0, 1), (1, 1))
        client = synced.data_layer.get_client_by_phone("+79686484488").unwrap()
        assert client is not None
        assert client.name == "Ариадна"
        booking = synced.data_layer.get_booking_by_id(FIRST_RECORD + 1).unwrap()
        assert booking is not None
        assert (booking.starts_at, booking.ends_at) == (SOON, SOON + timedelta(minutes=90))

    def test_only_changed_bookings_are_read_again(self, synced: Upstream) -> None:
        synced.salon.put("records", 1, **record())
        assert synced.sync().kinds["bookings"].rows == 1
        assert len(synced.requests("/records/")) == 3
        assert "changed_after" in synced.requests("/records/")[-1]
        assert synced.sync(full=True).kinds["bookings"].rows == SMALL.records + 1
        assert "changed_after" not in synced.requests("/records/")[-1]

    def test_a_dismissed_staff_member_has_no_schedule(self, synced: Upstream) -> None:
        synced.salon.put("staff", FIRST_STAFF + 1, fired="1")
        assert synced.sync().kinds["schedules"].deleted == SCHEDULE_DAYS + 1
        assert len(synced.requests(f"/{FIRST_STAFF + 1}/")) == 1
        today = datetime.now(UTC).date()
        left = synced.data_layer.get_staff_schedules(today, today + timedelta(days=3)).unwrap()
        assert {each.staff_id for each in left} == {FIRST_STAFF + n for n in (0, 2, 3, 4)}

    def test_a_staff_member_deleted_during_the_sync_does_not_stop_it(self, synced: Upstream) -> None:
        synced.fake.faults.append(Fault("status", "schedule/", status=404))
        summary = synced.sync()
        assert len(summary.notes) == 1
        assert summary.kinds["schedules"].deleted == 0
        assert "bookings" in summary.kinds

    def test_invalid_rows_are_reported_with_reasons_and_the_others_are_stored(
        self, upstream: Upstream
    ) -> None:
        upstream.salon.put("clients", FIRST_CLIENT + 3, id=0)
        upstream.salon.put("clients", FIRST_CLIENT + 4, name="")
        upstream.salon.put("clients", FIRST_CLIENT + 5, phone="none", birth_date="31.12.1999")
        upstream.salon.put("records", 1, **record(datetime="soon"))
        upstream.salon.collections["staff"][5] = ["no", "object"]  # type: ignore[assignment]
        summary = upstream.sync()
        assert not summary.succeeded
        assert {name: kind.rejected for name, kind in summary.kinds.items() if kind.rejected} == {
            "clients": 2,
            "staff": 1,
            "bookings": 1,
        }
        assert summary.kinds["clients"].inserted == SMALL.clients - 2
        assert summary.kinds["clients"].warnings == 1
        assert {(kind, *sorted(fault.reasons)) for kind, fault in summary.problems} == {
            ("clients", "yclients_id"),
            ("clients", "name"),
            ("clients", "birth_date", "phone"),
            ("staff", "row"),
            ("bookings", "ends_at", "starts_at"),
        }


class TestUpstreamDeletions:
    def test_a_booking_marked_as_deleted_frees_its_slot(self, synced: Upstream) -> None:
        synced.salon.put("records", 1, **record())
        synced.sync()
        refused = synced.data_layer.create_booking(NewClientRow(), NewBookingRow(starts_at=SOON)).error
        assert refused is not None
        assert refused.code == "slot_taken"
        synced.salon.delete("records", 1)
        synced.sync()
        booking = synced.data_layer.get_booking_by_id(1).unwrap()
        assert booking is not None
        assert (booking.status, booking.deleted_at is None) == ("cancelled", False)
        assert synced.data_layer.create_booking(NewClientRow(), NewBookingRow(starts_at=SOON)).success

    def test_other_missing_rows_are_marked_as_deleted_and_kept(self, synced: Upstream) -> None:
        synced.salon.delete("clients", FIRST_CLIENT + 7)
        synced.salon.delete("services", FIRST_SERVICE + 2)
        synced.salon.delete("staff", FIRST_STAFF + 3)
        synced.salon.delete("service_categories", 7_000)
        summary = synced.sync()
        assert {name: kind.deleted for name, kind in summary.kinds.items() if kind.deleted} == {
            "clients": 1,
            "services": 1,
            "staff": 1,
            "service_categories": 1,
            "schedules": SCHEDULE_DAYS + 1,  # of the former member of staff
        }
        client = synced.data_layer.get_client_by_id(FIRST_CLIENT + 7).unwrap()
        assert client is not None
        assert client.deleted_at is not None
        assert not synced.sync().has_changes

    def test_a_row_that_reappears_is_no_longer_marked_as_deleted(self, synced: Upstream) -> None:
        row = synced.salon.collections["clients"].pop(FIRST_CLIENT + 7)
        synced.sync()
        synced.salon.collections["clients"][FIRST_CLIENT + 7] = row
        assert synced.sync().kinds["clients"].updated == 1
        client = synced.data_layer.get_client_by_id(FIRST_CLIENT + 7).unwrap()
        assert client is not None
        assert client.deleted_at is None

    def test_a_deleted_working_day_has_no_free_slots(self, synced: Upstream, monkeypatch: Any) -> None:
        usual = synced.salon.schedule
        monkeypatch.setattr(synced.salon, "schedule", lambda *given: usual(*given)[1:])
        assert synced.sync().kinds["schedules"].deleted == SMALL.staff
        assert synced.sync().kinds["schedules"].deleted == 0

    @pytest.mark.parametrize("options", [{}, {"full": True}])
    def test_no_row_is_marked_as_deleted_if_all_are_missing(
        self, synced: Upstream, options: dict[str, Any]
    ) -> None:
        for path in ("clients/search", "services/", "staff/", "service_categories/"):
            synced.fake.faults.append(Fault("empty", path, times=9))
        summary = synced.sync(**options)
        assert not summary.has_changes
        assert len(summary.notes) == 5  # without staff, there are no schedules either
        assert all("nothing is marked as deleted" in note for note in summary.notes)

    def test_more_than_half_of_the_rows_are_marked_as_deleted_only_by_a_full_sync(
        self, synced: Upstream
    ) -> None:
        for number in range(150):
            synced.salon.delete("clients", FIRST_CLIENT + number)
        summary = synced.sync()
        assert (summary.kinds["clients"].deleted, summary.succeeded) == (0, False)
        assert "--full" in summary.notes[0]
        assert synced.sync(full=True).kinds["clients"].deleted == 150

    def test_an_incomplete_list_marks_no_row_as_deleted(self, synced: Upstream) -> None:
        """Pages after the first come empty, and the count still promises them."""
        rows = synced.fake._page
        synced.fake._page = lambda rows_, number, size: (  # type: ignore[method-assign]
            rows(rows_, number, size)[0] if number == 1 else [],
            len(rows_),
        )
        summary = synced.sync()
        assert summary.kinds["clients"].deleted == 0
        assert any(note.startswith("clients: the list changed") for note in summary.notes)

    def test_rows_that_yclients_does_not_have_yet_are_kept(self, synced: Upstream) -> None:
        booking = synced.data_layer.create_booking(
            NewClientRow(phone="+79686484488"), NewBookingRow(starts_at=SOON)
        ).unwrap()
        synced.sync(full=True)
        client = synced.data_layer.get_client_by_phone("+79686484488").unwrap()
        assert client is not None
        assert client.deleted_at is None
        kept = synced.data_layer.get_booking(booking.id).unwrap()
        assert kept is not None
        assert (kept.deleted_at, kept.updated_at) == (None, booking.updated_at)


class TestOurOwnBookings:
    def test_a_booking_returned_with_our_id_is_confirmed_and_not_duplicated(self, synced: Upstream) -> None:
        booking = synced.data_layer.create_booking(
            NewClientRow(phone="+79686484488"), NewBookingRow(starts_at=SOON)
        ).unwrap()
        synced.salon.put("clients", 5, name="Анна", phone="+7 968 648-44-88")
        synced.salon.put(
            "records",
            77,
            **record(api_id=str(booking.id), client={"id": 5, "name": "Анна", "phone": "79686484488"}),
        )
        synced.sync()
        confirmed = synced.data_layer.get_booking(booking.id).unwrap()
        assert confirmed is not None
        assert (confirmed.yclients_record_id, confirmed.pending_since) == (77, None)
        assert len(synced.data_layer.get_bookings(SOON, SOON + timedelta(hours=1)).unwrap()) == 1
        client = synced.data_layer.get_client_by_phone("+79686484488").unwrap()
        assert client is not None
        assert client.yclients_id == 5
        assert not synced.sync().has_changes

    def test_a_local_change_that_yclients_does_not_have_yet_is_kept(self, synced: Upstream) -> None:
        synced.salon.put("records", 1, **record())
        synced.sync()
        mirrored = synced.data_layer.get_booking_by_id(1).unwrap()
        assert mirrored is not None
        later = SOON + timedelta(hours=3)
        synced.data_layer.reschedule_booking(mirrored.id, later).unwrap()
        synced.sync(full=True)
        ours = synced.data_layer.get_booking(mirrored.id).unwrap()
        assert ours is not None
        assert (ours.starts_at, ours.pending_since is None) == (later, False)
        # YClients' times have no fractions, so the change must be a second later to be a later one.
        changed = format_timestamp(datetime.now(UTC) + timedelta(seconds=1))
        synced.salon.put("records", 1, datetime=later.isoformat(), last_change_date=changed)
        synced.sync()
        ours = synced.data_layer.get_booking(mirrored.id).unwrap()
        assert ours is not None
        assert (ours.starts_at, ours.pending_since) == (later, None)


class TestStartOfTheNextSync:
    """`changed_after` of the next incremental run."""

    def test_a_sync_continues_from_the_start_of_the_last_one_with_an_overlap(self, synced: Upstream) -> None:
        first, second = synced.sync(), synced.sync()
        assert first.changed_after is not None
        assert second.changed_after is not None
        assert first.changed_after < second.changed_after < datetime.now(UTC) - OVERLAP

    def test_a_run_without_bookings_does_not_move_their_start(self, synced: Upstream) -> None:
        before = synced.sync(dry_run=True).changed_after
        synced.sync(only=["clients"])
        synced.sync(dry_run=True)
        assert synced.sync(dry_run=True).changed_after == before

    def test_a_failed_run_does_not_move_the_start(self, synced: Upstream) -> None:
        before = synced.sync(dry_run=True).changed_after
        synced.fake.faults.append(Fault("status", "/records/", status=403))
        with pytest.raises(ForbiddenError, match="403"):
            synced.sync()
        assert synced.sync(dry_run=True).changed_after == before

    def test_the_first_sync_can_start_at_a_given_time(self, upstream: Upstream) -> None:
        upstream.sync(since=datetime.now(UTC) - timedelta(days=3))
        assert upstream.sync().mode == "incremental"
        assert "changed_after" in upstream.requests("/records/")[-1]

    def test_a_later_given_time_leaves_no_gap(self, synced: Upstream) -> None:
        before = synced.sync(dry_run=True).changed_after
        synced.sync(since=datetime.now(UTC) + timedelta(minutes=1))
        assert synced.sync(dry_run=True).changed_after == before


def written_rows(upstream: Upstream) -> list[Any]:
    """The versions of all rows: another one for each that was written again."""
    with psycopg.connect(upstream.desk.database._url) as connection:
        return [
            connection.execute(
                f"SELECT xmin, ctid FROM {table} WHERE company_id = %s ORDER BY id",  # type: ignore[arg-type]
                (upstream.company_id,),
            ).fetchall()
            for table in upstream.rows()
        ]
