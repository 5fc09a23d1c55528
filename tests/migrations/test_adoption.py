"""Adoption of databases without an Alembic revision, and their upgrade afterwards."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app.adoption import adopt
from app.adoption.adopt import AdoptionReport
from app.cli import main
from app.migrations import runner
from app.migrations.runner import MigrationRefused
from tests.migrations.databases import Database
from tests.migrations.test_schema import catalog

# Changes that installations made by hand before Alembic was used, and the revision to stamp.
COMPOSITE = "ALTER TABLE {0} ADD CONSTRAINT {1} UNIQUE ({2}, company_id)"
BY_HAND = {
    "nothing": ("", "baseline"),
    "a composite constraint": (
        COMPOSITE.format("clients", "clients_yclients_company_unique", "yclients_id"),
        "baseline",
    ),
    "composite constraints instead of the old indexes": (
        "DROP INDEX clients_yclients_id_key; ALTER TABLE clients DROP CONSTRAINT clients_phone_key;"
        + COMPOSITE.format("clients", '"UQ_clients"', "yclients_id")
        + ";"
        + COMPOSITE.format("bookings", "bookings_unique", "yclients_id"),
        "baseline",
    ),
    "a composite index, the company first": (
        "CREATE UNIQUE INDEX staff_unique ON staff (company_id, yclients_id)",
        "baseline",
    ),
    "the constraint's name on other columns, deferrable": (
        "ALTER TABLE staff ADD CONSTRAINT staff_yclients_company_unique"
        " UNIQUE (company_id, yclients_id) DEFERRABLE",
        "baseline",
    ),
    "the constraint's name on a plain index": (
        "DROP INDEX staff_yclients_id_idx; CREATE INDEX staff_yclients_company_unique ON staff (yclients_id)",
        "baseline",
    ),
    "unique indexes of other names": (
        "ALTER INDEX clients_yclients_id_key RENAME TO clients_by_id;"
        'ALTER TABLE clients RENAME CONSTRAINT clients_phone_key TO "UQ-phone";'
        "DROP INDEX services_yclients_id_key; DROP INDEX staff_yclients_id_idx;"
        "ALTER TABLE services ADD CONSTRAINT one_service UNIQUE (yclients_id);"
        "CREATE UNIQUE INDEX one_member ON staff (yclients_id);"
        "CREATE UNIQUE INDEX one_booking ON bookings (yclients_id);"
        "CREATE UNIQUE INDEX one_dialog ON dialog_contexts (user_id);"
        "ALTER TABLE staff_schedules ADD CONSTRAINT one_day UNIQUE (staff_id, date)",
        "baseline",
    ),
    "other names of keys and indexes": (
        'ALTER TABLE clients RENAME CONSTRAINT clients_pkey TO "PK_clients";'
        "ALTER INDEX clients_company_idx RENAME TO idx_1; DROP INDEX bookings_client_phone_idx;"
        "ALTER TABLE companies RENAME CONSTRAINT companies_company_id_key TO one_company;"
        "ALTER TABLE whatsapp_keys RENAME CONSTRAINT whatsapp_keys_company_id_key_type_key_id_key TO k;"
        "ALTER TABLE whatsapp_auth DROP CONSTRAINT whatsapp_auth_company_id_key;"
        "CREATE UNIQUE INDEX one_session ON whatsapp_auth (company_id)",
        "baseline",
    ),
    "a column renamed": ("ALTER TABLE services RENAME active TO is_active", "baseline"),
    "columns renamed on some tables, and a constraint": (
        "ALTER TABLE bookings RENAME yclients_id TO yclients_record_id;"
        + COMPOSITE.format("bookings", "b", "yclients_record_id"),
        "baseline",
    ),
    "a mixture": (
        'ALTER INDEX clients_yclients_id_key RENAME TO "Clients-by-id"; DROP INDEX services_yclients_id_key;'
        "ALTER TABLE services RENAME active TO is_active;"
        "CREATE UNIQUE INDEX one_service ON services (company_id, yclients_id);"
        "ALTER TABLE bookings RENAME yclients_id TO yclients_record_id;"
        + COMPOSITE.format("bookings", '"UQ_bookings"', "yclients_record_id")
        + ";CREATE UNIQUE INDEX one_member ON staff (yclients_id);"
        "ALTER TABLE whatsapp_auth DROP CONSTRAINT whatsapp_auth_company_id_key;"
        'ALTER TABLE clients RENAME CONSTRAINT clients_pkey TO "PK_clients"',
        "baseline",
    ),
    "all columns renamed": (
        "ALTER TABLE bookings RENAME yclients_id TO yclients_record_id;"
        "ALTER TABLE services RENAME active TO is_active; ALTER TABLE staff RENAME fired TO is_active;"
        "ALTER TABLE staff ALTER is_active SET DEFAULT true",
        "alignment",
    ),
}


def remove_revision(database: Database) -> Database:
    """Drop Alembic's table, so that the database has no revision; return the database."""
    database.execute("DROP TABLE IF EXISTS alembic_version")
    return database


def inspect(database: Database) -> AdoptionReport:
    with runner.migration_engine(database.url) as engine, engine.connect() as connection:
        return adopt.inspect_schema(connection)


def frontdesk(monkeypatch: pytest.MonkeyPatch, database: Database, *arguments: str) -> Result:
    monkeypatch.setenv("DATABASE_URL", database.url)
    return CliRunner().invoke(main, ["db", *arguments])


@pytest.fixture(scope="module")
def head_catalog(head_template: Database) -> dict[str, set[tuple[Any, ...]]]:
    return catalog(head_template)


@pytest.mark.parametrize("by_hand", BY_HAND)
def test_manual_changes_are_recognised(old: Database, by_hand: str) -> None:
    statements, revision = BY_HAND[by_hand]
    remove_revision(old).execute(statements or "SELECT")
    report = inspect(old)
    assert (report.revision, report.differences) == (revision, ())
    assert report.state == ("matches" if report.later == () else "partly")


# The tests marked `full` upgrade all of them. These two always run: together they cover every code path.
ALWAYS_TESTED = ("a mixture", "the constraint's name on other columns, deferrable")


@pytest.mark.parametrize(
    "by_hand",
    [pytest.param(name, marks=[] if name in ALWAYS_TESTED else pytest.mark.full) for name in BY_HAND],
)
def test_the_upgrade_completes_manual_changes(
    old: Database,
    by_hand: str,
    head_catalog: dict[str, set[tuple[Any, ...]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old.insert("clients", {}, {"yclients_id": 2, "phone": "89686484400"})
    old.insert("staff", {"fired": False}, {"yclients_id": 2, "fired": False})
    statements, revision = BY_HAND[by_hand]
    old.execute(f"DROP TABLE alembic_version; {statements}")
    before = catalog(old)

    result = frontdesk(monkeypatch, old, "adopt", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["revision"], report["differences"]) == (0, revision, [])
    assert catalog(old) == before, "a check changes nothing"
    assert old.revision is None

    assert frontdesk(monkeypatch, old, "adopt", "--yes").exit_code == 0
    assert old.revision == revision
    assert catalog(old) == before, "a stamp changes no other table"
    old.upgrade()
    old.check()
    assert catalog(old) == head_catalog
    assert old.values("SELECT count(*) FROM clients") == [2]


def test_each_revision_is_recognised_by_its_schema(fresh: Database) -> None:
    reports = []
    for revision in ("composite_uniqueness", "instants", "booking_slots", "phones", runner.head()):
        fresh.upgrade(revision)
        fresh.execute("ALTER TABLE alembic_version RENAME TO kept")
        report = inspect(fresh)
        reports.append((report.state, report.revision, report.same))
        fresh.execute("ALTER TABLE kept RENAME TO alembic_version")
    assert reports == [
        ("matches", "composite_uniqueness", ()),
        ("matches", "instants", ()),
        ("matches", "booking_slots", ("phones",)),
        ("matches", "booking_slots", ("phones",)),
        ("matches", runner.head(), ()),
    ]


DIFFERENCES = {
    "ALTER TABLE clients ADD vip boolean": "column clients.vip: unexpected (boolean)",
    "ALTER TABLE clients DROP email": "column clients.email: missing (character varying(255))",
    "ALTER TABLE clients ALTER name TYPE text": (
        "column clients.name: is text NOT NULL, should be character varying(255) NOT NULL"
    ),
    "ALTER TABLE staff RENAME fired TO is_active": (
        "column staff.is_active: is boolean NOT NULL DEFAULT false, should be boolean NOT NULL DEFAULT true"
    ),
    "ALTER TABLE services ADD is_active boolean NOT NULL DEFAULT true": (
        "column services.active: unexpected (boolean NOT NULL DEFAULT true)"
    ),
    "ALTER TABLE services DROP active": "column services.is_active: missing (boolean NOT NULL DEFAULT true)",
    "DROP TABLE staff": "table staff: missing",
    "CREATE TABLE sync_runs (id int)": "table sync_runs: unexpected",
    "ALTER TABLE clients ADD CONSTRAINT adult CHECK (visit_count > 0)": (
        "check clients (visit_count > 0): unexpected (adult)"
    ),
    "ALTER TABLE clients ADD FOREIGN KEY (company_id) REFERENCES companies (company_id)": (
        "reference clients FOREIGN KEY (company_id) REFERENCES companies(company_id):"
        " unexpected (clients_company_id_fkey)"
    ),
    "CREATE UNIQUE INDEX x ON clients (email)": "unique clients (email): unexpected (x (an index))",
    "CREATE INDEX x ON clients (lower(name))": (
        "index clients USING btree (lower((name)::text)): unexpected (x)"
    ),
    "ALTER TABLE companies DROP CONSTRAINT companies_company_id_key": (
        "unique companies (company_id): missing (companies_company_id_key)"
    ),
    "ALTER TABLE clients DROP CONSTRAINT clients_pkey": "primary key clients (id): missing (clients_pkey)",
    "CREATE VIEW names AS SELECT name FROM clients": (
        "view names reads clients: drop it, and create it again after the upgrade"
    ),
    "CREATE TABLE photos (member int REFERENCES staff (id))": (
        "foreign key photos_member_fkey of photos points at staff:"
        " drop it, and create it again after the upgrade"
    ),
    "ALTER TABLE clients ENABLE ROW LEVEL SECURITY": (
        "row level security on clients: drop it, and create it again after the upgrade"
    ),
}


@pytest.mark.parametrize("change", DIFFERENCES)
def test_a_difference_is_reported_and_nothing_is_stamped(
    old: Database, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_revision(old).execute(change)
    result = frontdesk(monkeypatch, old, "adopt", "--yes")
    assert result.exit_code == 1
    assert f"  {DIFFERENCES[change]}\n" in result.stdout
    assert old.revision is None
    assert old.values("SELECT to_regclass('alembic_version')") == [None]


def test_a_difference_is_reported_relative_to_the_closest_revision(at_head: Database) -> None:
    remove_revision(at_head).execute("DROP INDEX ix_clients_company_id_phone; CREATE TABLE notes (id int)")
    report = inspect(at_head)
    assert (report.state, report.revision, report.left_alone) == ("differs", runner.head(), ("notes",))
    assert report.differences == ("index clients (company_id, phone): missing (ix_clients_company_id_phone)",)


def test_an_unrelated_database_is_refused(fresh: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh.execute("CREATE TABLE orders (id int)")
    result = frontdesk(monkeypatch, fresh, "adopt", "--yes")
    assert result.exit_code == 1
    assert "none of Frontdesk's tables" in result.stdout
    assert "orders" in result.stdout
    assert fresh.revision is None


def test_an_empty_database_has_nothing_to_adopt(fresh: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    result = frontdesk(monkeypatch, fresh, "adopt", "--yes")
    assert (result.exit_code, fresh.revision) == (0, None)
    assert "nothing to adopt" in result.stdout


def test_a_database_with_a_revision_is_reported_as_adopted(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = frontdesk(monkeypatch, old, "adopt", "--yes")
    assert (result.exit_code, old.revision) == (0, "baseline")
    assert "already: it is at revision baseline" in result.stdout


def test_tables_of_other_programs_are_ignored_by_adoption_and_check(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_revision(old).execute("CREATE TABLE notes (id int); CREATE TABLE orders (id int)")
    result = frontdesk(monkeypatch, old, "adopt", "--yes")
    assert result.exit_code == 0
    assert "not changed: notes, orders." in result.stdout
    old.upgrade()
    old.check()
    assert old.values("SELECT count(*) FROM notes") == [0]


def test_a_database_that_is_being_migrated_is_not_stamped(
    old: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    remove_revision(old)
    with runner.migration_engine(old.url) as engine, runner.migration_lock(engine):
        result = frontdesk(monkeypatch, old, "adopt", "--yes")
    assert result.exit_code == 3
    assert "running on this database" in result.stderr
    assert old.revision is None


def test_an_upgrade_with_dependent_objects_is_refused_before_the_first_change(old: Database) -> None:
    old.execute(
        "CREATE VIEW names AS SELECT name FROM clients;CREATE TABLE photos (member int REFERENCES staff (id))"
    )
    with pytest.raises(MigrationRefused) as refusal:
        old.upgrade()
    assert refusal.value.report == (
        "foreign key photos_member_fkey of photos points at staff",
        "view names reads clients",
    )
    assert old.revision == "baseline"
