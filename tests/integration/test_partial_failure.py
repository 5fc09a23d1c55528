"""One bad row never costs the good ones."""

import logging
import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from app import Frontdesk, Settings
from app.data_layer import DataLayer
from app.data_layer.unit_of_work import UnitOfWork
from tests.factories.client import ClientRow


@pytest.fixture
def strict_salon(database_url: str) -> Iterator[DataLayer]:
    """A salon in a database that refuses what validation lets pass: clients named Refused or Broken."""
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE clients ADD CONSTRAINT no_nobody CHECK (name <> 'Refused')")
        connection.execute(
            """
            CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF NEW.name = 'Broken' THEN RAISE 'no'; END IF; RETURN NEW; END $$;
            CREATE TRIGGER refuse BEFORE INSERT ON clients FOR EACH ROW EXECUTE FUNCTION refuse()
            """
        )
    with Frontdesk(Settings(database_url=database_url)) as desk:
        salon = desk.company(1)
        salon.upsert_company({"title": "Salon"}).unwrap()
        yield salon


def rows_with(bad: dict[int, dict[str, Any]], count: int) -> list[dict[str, Any]]:
    return [{**ClientRow(yclients_id=n + 1), **bad.get(n, {})} for n in range(count)]


def test_rows_that_the_database_refuses_are_reported_and_the_others_are_stored(
    strict_salon: DataLayer,
) -> None:
    bad = {3: {"name": "Refused"}, 700: {"name": "Broken"}, 701: {"name": "Refused"}, 999: {"name": "Broken"}}
    report = strict_salon.upsert_clients(rows_with(bad, 1000)).unwrap()
    assert (report.inserted, report.total) == (996, 1000)
    assert [(r.position, r.key) for r in report.rejected] == [(n, (n + 1,)) for n in bad]
    assert all("refused" in r.errors["row"] for r in report.rejected)
    stored = strict_salon.get_clients(limit=2000).unwrap()
    assert {client.yclients_id for client in stored} == set(range(1, 1001)) - {n + 1 for n in bad}


def test_reasons_name_the_constraint_and_contain_no_value(strict_salon: DataLayer) -> None:
    rows = rows_with({0: {"name": "Refused", "surname": "Secretova"}}, 2)
    report = strict_salon.upsert_clients(rows).unwrap()
    assert "no_nobody" in report.rejected[0].errors["row"]
    assert "Secretova" not in repr(report.rejected)


def test_refused_and_invalid_rows_are_reported_in_their_order(strict_salon: DataLayer) -> None:
    bad: dict[int, dict[str, Any]] = {
        1: {"name": "Refused"},
        2: {"yclients_id": 0},
        5: {"phone": "nonsense"},
        9: {"name": "Broken"},
    }
    report = strict_salon.upsert_clients(rows_with(bad, 20)).unwrap()
    assert [r.position for r in report.rejected] == [1, 2, 5, 9]
    assert report.inserted == 16


def test_the_number_of_transactions_grows_with_the_logarithm_of_the_batch(
    strict_salon: DataLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    enter = UnitOfWork.__enter__
    monkeypatch.setattr(UnitOfWork, "__enter__", lambda self: (begun.append(1), enter(self))[1])
    rows = rows_with({random.randrange(4096): {"name": "Refused"}}, 4096)
    assert len(strict_salon.upsert_clients(rows).unwrap().rejected) == 1
    assert 12 < len(begun) <= 1 + 2 * 12


def test_an_unknown_company_is_an_error_of_the_call_and_of_no_row(
    strict_salon: DataLayer, caplog: pytest.LogCaptureFixture
) -> None:
    with Frontdesk(strict_salon._uow_factory.database.settings) as desk, caplog.at_level(logging.ERROR):
        result = desk.company(2).upsert_clients(rows_with({}, 100))
    assert result.error is not None
    assert result.error.code == "unknown_company"


BAD_FIELDS: list[dict[str, Any]] = [
    {"yclients_id": 0},
    {"yclients_id": -1},
    {"yclients_id": 2**63},
    {"yclients_id": "abc"},
    {"name": "  "},
    {"name": "a\0b"},
    {"name": "a" * 10_000},
    {"name": "\ud800"},
    {"phone": "letters"},
    {"email": "nonsense"},
    {"total_spent": "1e400"},
    {"source_changed_at": "2026-01-01T00:00:00"},
    {"birth_date": "0000-01-01"},
    {"unheard_of": 1},
    {"company_id": 5},
]


@pytest.mark.full
def test_137_invalid_rows_of_a_hundred_thousand_are_reported_and_the_others_are_stored(
    salon: DataLayer,
) -> None:
    chance = random.Random(137)
    bad = {position: chance.choice(BAD_FIELDS) for position in chance.sample(range(100_000), 137)}
    report = salon.upsert_clients(rows_with(bad, 100_000)).unwrap()
    assert report.inserted == 99_863
    assert {r.position: set(r.errors) for r in report.rejected} == {n: set(bad[n]) for n in sorted(bad)}
