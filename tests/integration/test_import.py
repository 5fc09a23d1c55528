"""Files of every kind come in, in any order, and the same files again change nothing."""

import json
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app import Frontdesk, Settings
from app.data_layer import DataLayer
from app.database import embedded_server
from app.errors import InvalidInputError, UnavailableError
from app.yclients.importing import import_files as import_files_module
from app.yclients.importing.import_files import import_files
from app.yclients.importing.summary import ImportSummary
from app.yclients.mapping.entities import KINDS
from app.yclients.sample import COMPANY_ID, DAYS_BACK, ZONE, write_sample

TODAY = date(2026, 11, 20)
COUNTED = ("inserted", "updated", "unchanged", "stale", "superseded", "rejected")


@pytest.fixture
def sample(tmp_path: Path, company_id: int) -> list[Path]:
    """Files of the sample salon for a company that no other test uses."""
    paths = write_sample(tmp_path, TODAY)
    for path in paths:
        text = path.read_text("utf-8").replace(f'"company_id": {COMPANY_ID}', f'"company_id": {company_id}')
        path.write_text(text.replace(f'"id": {COMPANY_ID}', f'"id": {company_id}'), "utf-8")
    return paths


@pytest.fixture
def clients_file(tmp_path: Path) -> Any:
    def write(rows: list[Any], name: str = "clients.json") -> Path:
        path = tmp_path / name
        path.write_text(json.dumps({"success": True, "data": rows, "meta": {}}), "utf-8")
        return path

    return write


def client(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": number, "name": f"Анна {number}", "phone": f"8 (968) {number:03}-44-88", **fields}


def counts(summary: ImportSummary) -> dict[str, int]:
    """How many rows of all kinds met which fate."""
    total = {name: sum(getattr(kind, name) for kind in summary.kinds.values()) for name in COUNTED}
    assert sum(total.values()) == sum(kind.rows for kind in summary.kinds.values())
    return {name: number for name, number in total.items() if number}


class TestSampleSalon:
    def test_all_rows_are_stored_in_any_order_of_the_files(
        self, desk: Frontdesk, company_id: int, sample: list[Path]
    ) -> None:
        summary = import_files(desk, company_id, reversed(sample))
        assert list(summary.kinds) == [kind.name for kind in KINDS]
        assert summary.succeeded
        assert not summary.made_company
        assert not summary.problems
        assert counts(summary) == {"inserted": sum(kind.rows for kind in summary.kinds.values())}

        salon = desk.company(company_id)
        company = salon.get_company().unwrap()
        assert company is not None
        assert (company.country, company.timezone) == ("RU", "Europe/Moscow")
        assert {member.yclients_id: member.is_bookable for member in salon.get_staff().unwrap()}[11] is False
        assert len(salon.get_services().unwrap()) == 12
        phones = [found.phone for found in salon.get_clients().unwrap() if found.phone]
        assert phones
        assert all(phone.startswith("+7900") for phone in phones)

    def test_a_second_import_changes_nothing(
        self, desk: Frontdesk, company_id: int, sample: list[Path]
    ) -> None:
        first = import_files(desk, company_id, sample)
        again = import_files(desk, company_id, sample)
        assert first.has_changes
        assert not again.has_changes
        assert counts(again) == {"unchanged": counts(first)["inserted"]}

    def test_an_imported_salon_can_be_booked(
        self, desk: Frontdesk, company_id: int, sample: list[Path]
    ) -> None:
        import_files(desk, company_id, sample)
        salon = desk.company(company_id)
        slots = salon.find_free_slots(TODAY + timedelta(days=1), 3600).unwrap()
        assert slots
        assert 11 not in {slot.staff_id for slot in slots}  # hidden
        start = datetime.combine(TODAY - timedelta(days=DAYS_BACK), datetime.min.time(), ZONE)
        booked = salon.get_bookings(start, start + timedelta(days=60)).unwrap()
        deleted = [b for b in desk.unit_of_work(company_id).bookings.find_many() if b.deleted_at is not None]
        assert {b.status for b in deleted} == {"cancelled"}
        assert len(booked) + len(deleted) > 200
        assert all(b.price == sum(s.cost for s in b.services) for b in booked)
        taken = next(b for b in booked if b.status == "active")
        where = {"staff_id": taken.staff_id, "starts_at": taken.starts_at, "duration": 900}
        refused = salon.create_booking({"name": "Анна", "phone": "+79686484488"}, where)
        assert refused.error is not None
        assert refused.error.code == "slot_taken"


class TestCompanies:
    def test_an_unknown_company_is_created_with_default_settings(
        self, desk: Frontdesk, company_id: int, clients_file: Any
    ) -> None:
        summary = import_files(desk, company_id, [clients_file([client(1)])])
        company = desk.company(company_id).get_company().unwrap()
        assert summary.made_company
        assert company is not None
        assert (company.title, company.country) == (f"Company {company_id}", "RU")
        assert not import_files(desk, company_id, [clients_file([client(1)])]).made_company

    def test_phones_and_times_are_read_with_the_country_and_time_zone_of_the_imported_company(
        self, desk: Frontdesk, salon: DataLayer, tmp_path: Path
    ) -> None:
        assert salon.get_client_by_phone("+995 555 12 34 56").unwrap() is None  # Moscow is remembered by now
        company = {
            "id": salon.company_id,
            "title": "თბილისი",
            "country": "Грузия",
            "timezone": "Asia/Tbilisi",
        }
        booking = {
            "id": 5,
            "date": "2026-11-21 10:00:00",
            "client": {"id": 1, "name": "Ნინო", "phone": "555123456"},
        }
        for name, data in (("b.json", [booking]), ("a.json", company)):
            (tmp_path / name).write_text(json.dumps({"success": True, "data": data}))
        for dry_run in (True, False):
            assert import_files(desk, salon.company_id, tmp_path.glob("*.json"), dry_run=dry_run).succeeded
        (appointment,) = salon.get_client_appointments("555 12-34-56").unwrap()
        assert appointment.client_phone == "+995555123456"
        assert appointment.starts_at.astimezone(ZONE).hour == 9

    def test_an_unknown_country_is_stored_with_a_warning(
        self, desk: Frontdesk, company_id: int, tmp_path: Path
    ) -> None:
        path = tmp_path / "company.json"
        path.write_text(json.dumps({"data": {"id": company_id, "title": "Салон", "country": "Нарния"}}))
        summary = import_files(desk, company_id, [path])
        company = desk.company(company_id).get_company().unwrap()
        assert company is not None
        assert company.country == "Нарния"
        assert [finding.reasons.keys() for finding in summary.problems] == [{"country"}]
        assert desk.company(company_id).upsert_clients([client_row(1)]).unwrap().inserted == 1

    def test_a_payload_of_another_company_is_refused_before_the_first_write(
        self, desk: Frontdesk, company_id: int, sample: list[Path]
    ) -> None:
        with pytest.raises(InvalidInputError, match=f"is a payload of company {company_id}, not of company"):
            import_files(desk, company_id + 10**9, sample)
        assert desk.company(company_id + 10**9).get_company().unwrap() is None

    def test_bookings_of_another_company_are_rejected(
        self, desk: Frontdesk, company_id: int, sample: list[Path]
    ) -> None:
        bookings = [path for path in sample if path.stem == "bookings"]
        summary = import_files(desk, company_id + 10**9, bookings)
        assert counts(summary).keys() == {"rejected"}
        assert summary.problems[0].reasons == {"company_id": "names another company"}
        assert not summary.succeeded


class TestRows:
    def test_rows_in_our_format_are_imported_line_by_line(
        self, desk: Frontdesk, salon: DataLayer, tmp_path: Path
    ) -> None:
        path = tmp_path / "rows.ndjson"
        rows = [
            {"yclients_record_id": 7, "staff_id": 7, "starts_at": "2026-11-21T10:00:00Z", "comment": "x"}
            | {"ends_at": "2026-11-21T11:00:00Z", "services": [1, {"service_id": 2, "cost": "100.50"}]},
            {"yclients_record_id": 8, "starts_at": "2026-11-21T10:00:00Z", "ends_at": "2026-11-21T09:00:00Z"},
        ]
        path.write_text("\n".join(map(json.dumps, rows)))
        summary = import_files(desk, salon.company_id, [path])
        assert counts(summary) == {"inserted": 1, "rejected": 1}
        booking = salon.get_booking_by_id(7).unwrap()
        assert booking is not None
        assert [service.cost for service in booking.services] == [None, Decimal("100.5")]

    def test_invalid_rows_are_reported_and_the_others_are_stored(
        self, desk: Frontdesk, salon: DataLayer, clients_file: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(import_files_module, "ROWS_PER_TRANSACTION", 3)
        rows = [client(n) for n in range(1, 11)]
        rows[4] = client(5, phone="secret-phone")
        rows[6] = client(7) | {"id": "abc"}
        rows[9] = client(10) | {"name": " "}
        heard: list[Any] = []
        summary = import_files(desk, salon.company_id, [clients_file(rows)], on_problem=heard.append)
        assert counts(summary) == {"inserted": 8, "rejected": 2}
        assert [(f.position, f.key, f.outcome, list(f.reasons)) for f in heard] == [
            (4, (5,), "warning", ["phone"]),
            (6, None, "rejected", ["yclients_id"]),
            (9, (10,), "rejected", ["name"]),
        ]
        assert summary.problems == heard
        assert "secret" not in str(summary.as_dict())
        found = salon.get_client_by_id(5).unwrap()
        assert found is not None
        assert found.phone is None

    def test_older_rows_do_not_replace_newer_ones(
        self, desk: Frontdesk, salon: DataLayer, clients_file: Any
    ) -> None:
        new = client(1, comment="new", last_change_date="2026-02-02T12:00:00+0300")
        old = client(1, comment="old", last_change_date="2026-01-01T12:00:00+0300")
        files = [clients_file([new], "clients_1.json"), clients_file([old], "clients_2.json")]
        assert counts(import_files(desk, salon.company_id, files)) == {"inserted": 1, "stale": 1}
        found = salon.get_client_by_id(1).unwrap()
        assert found is not None
        assert found.comment == "new"

    def test_a_record_that_carries_our_id_confirms_our_booking(
        self, desk: Frontdesk, salon: DataLayer, tmp_path: Path
    ) -> None:
        start = datetime(2026, 12, 1, 10, tzinfo=ZONE)
        ours = salon.create_booking(
            {"name": "Анна", "phone": "+79686484488"}, {"staff_id": 7, "starts_at": start, "duration": 3600}
        ).unwrap()
        record = {
            "id": 555,
            "api_id": str(ours.id),
            "staff_id": 7,
            "datetime": start.isoformat(),
            "services": [],
        }
        record |= {"seance_length": 3600, "client": {"id": 9, "name": "Анна", "phone": "79686484488"}}
        path = tmp_path / "bookings.json"
        path.write_text(json.dumps([record]))
        import_files(desk, salon.company_id, [path])
        confirmed = salon.get_booking(ours.id).unwrap()
        assert confirmed is not None
        assert confirmed.yclients_record_id == 555
        assert desk.transact(salon.company_id, lambda uow: uow.bookings.count()) == 1


class TestRuns:
    def test_a_dry_run_reports_everything_and_changes_nothing(
        self, desk: Frontdesk, company_id: int, sample: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(import_files_module, "ROWS_PER_TRANSACTION", 50)
        dry = import_files(desk, company_id, sample, dry_run=True)
        assert desk.company(company_id).get_company().unwrap() is None
        wet = import_files(desk, company_id, sample)
        assert counts(dry) == counts(wet)
        unknown = import_files(
            desk, company_id + 10**9, [p for p in sample if p.stem == "clients"], dry_run=True
        )
        assert unknown.made_company
        assert desk.company(company_id + 10**9).get_company().unwrap() is None

    def test_an_interrupted_import_continues_when_it_is_run_again(
        self, desk: Frontdesk, salon: DataLayer, clients_file: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(import_files_module, "ROWS_PER_TRANSACTION", 10)
        path = clients_file([client(n) for n in range(1, 101)])

        def stop(kind: str, done: int, total: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            import_files(desk, salon.company_id, [path], on_progress=stop)
        assert counts(import_files(desk, salon.company_id, [path])) == {"inserted": 90, "unchanged": 10}

    def test_a_connection_lost_in_a_chunk_is_released_and_the_error_names_the_rows(
        self, settings: Settings, salon: DataLayer, clients_file: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = clients_file([client(n) for n in range(1, 101)])
        write_row = psycopg.Copy.write_row

        def lose_the_connection(copy: psycopg.Copy, row: Any) -> None:
            with psycopg.connect(embedded_server.resolve_database_url(settings), autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", (copy.connection.info.backend_pid,))
            write_row(copy, row)

        two = settings.model_copy(
            update={"postgres_max_connections": 2, "postgres_connection_timeout": 5_000}
        )
        with Frontdesk(two) as desk:
            for _ in range(3):
                with monkeypatch.context() as patch:
                    patch.setattr(psycopg.Copy, "write_row", lose_the_connection)
                    with pytest.raises(UnavailableError) as caught:
                        import_files(desk, salon.company_id, [path])
                assert "clients.json, rows 0 to 99: The database cannot be reached" in caught.value.message
            assert counts(import_files(desk, salon.company_id, [path])) == {"inserted": 100}

    def test_progress_goes_from_the_first_byte_to_the_last(
        self, desk: Frontdesk, company_id: int, sample: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(import_files_module, "ROWS_PER_TRANSACTION", 20)
        seen: list[tuple[str, int, int]] = []
        import_files(desk, company_id, sample, on_progress=lambda *step: seen.append(step))
        done = [step[1] for step in seen]
        size = sum(path.stat().st_size for path in sample)
        assert done == sorted(done)
        assert {step[2] for step in seen} == {size}
        assert 0 < done[0] < done[-1] == size

    def test_the_rows_before_a_truncation_and_the_other_files_are_stored(
        self, desk: Frontdesk, salon: DataLayer, clients_file: Any, tmp_path: Path
    ) -> None:
        whole = clients_file([client(n) for n in range(1, 101)]).read_bytes()
        (tmp_path / "clients.json").write_bytes(whole[: len(whole) // 2])
        other = clients_file([client(500)], "clients_2.json")
        summary = import_files(desk, salon.company_id, [tmp_path / "clients.json", other])
        (error,) = summary.broken
        assert "truncated" in error.reason
        assert not summary.succeeded
        inserted = counts(summary)["inserted"]
        assert 40 < inserted < 60
        assert desk.transact(salon.company_id, lambda uow: uow.clients.count()) == inserted

    def test_all_unusable_files_are_reported_before_the_first_write(
        self, desk: Frontdesk, company_id: int, clients_file: Any, tmp_path: Path
    ) -> None:
        (tmp_path / "empty.json").touch()
        (tmp_path / "text.json").write_text("hello")
        (tmp_path / "schedule.json").write_text('[{"date": "2026-11-21", "slots": []}]')
        (tmp_path / "what.json").write_text('[{"id": 1}]')
        names = ["empty.json", "text.json", "schedule.json", "what.json", "missing.json", "."]
        paths = [clients_file([client(1)]), *(tmp_path / name for name in names)]
        with pytest.raises(InvalidInputError) as caught:
            import_files(desk, company_id, paths)
        for reason in ("is empty", "is not JSON", "--staff", "--kind", "does not exist", "is not a file"):
            assert reason in caught.value.message
        assert "\n" not in caught.value.message
        assert desk.company(company_id).get_company().unwrap() is None


def client_row(number: int) -> dict[str, Any]:
    return {"yclients_id": number, "name": "Анна", "phone": "8 (968) 648-44-88"}
