"""Installations in unusual environments: odd names, other schemas and owners, timeouts of the server."""

from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner, Result

from app import Frontdesk, Settings
from app.cli import main
from app.migrations import runner
from app.migrations.runner import MigrationRefused
from tests.migrations.databases import OLD_ROWS, Database, MakeDatabase
from tests.migrations.test_adoption import remove_revision
from tests.migrations.test_runs import before_each_statement
from tests.servers import Server, execute, url_of
from tests.vacuuming import vacuumed

IN_OWN_SCHEMA = "CREATE SCHEMA salons;" + ";".join(
    f"ALTER TABLE {table} SET SCHEMA salons" for table in OLD_ROWS
)


@pytest.fixture
def installation(old: Database) -> Database:
    """A database in the old schema without an Alembic revision."""
    return remove_revision(old)


@pytest.fixture
def guest(server_url: str) -> Iterator[str]:
    """A role that owns nothing."""
    execute(server_url, "CREATE ROLE guest LOGIN")
    yield "guest"
    execute(server_url, "DROP ROLE guest")


def with_option(database: Database, name: str, value: str) -> Database:
    """Return the database with a URL that sets an option for its sessions."""
    return Database(f"{database.url}&options=-c%20{name}%3D{value}")


def adopted(database: Database, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.setenv("DATABASE_URL", database.url)
    return CliRunner().invoke(main, ["db", "adopt", "--yes"])


def test_odd_indexes_and_names_in_a_schema_from_the_url_are_upgraded(
    installation: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.insert("dialog_contexts", {}, {"user_id": "2"})
    installation.execute(
        'CREATE UNIQUE INDEX a ON dialog_contexts (user_id COLLATE "C", company_id);'
        "CREATE UNIQUE INDEX b ON dialog_contexts (user_id varchar_pattern_ops, company_id);"
        'CREATE UNIQUE INDEX "100% unique" ON staff (yclients_id);'
        'ALTER TABLE clients RENAME CONSTRAINT clients_phone_key TO "by %s :phone";'
        'ALTER SEQUENCE staff_id_seq RENAME TO "staff %d";'
        f"CREATE TABLE clients_of_another (id int); {IN_OWN_SCHEMA}"
    )
    salons = with_option(installation, "search_path", "salons,public")
    assert adopted(salons, monkeypatch).exit_code == 0
    salons.upgrade()
    salons.check()
    assert installation.values("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == [
        "clients_of_another"
    ]
    assert salons.value("SELECT count(*) FROM dialog_contexts") == 2


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "WIN1251"])
def test_databases_in_other_encodings_are_upgraded(
    server_url: str, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    name = f"in_{encoding.lower()}"
    execute(server_url, f"CREATE DATABASE {name} ENCODING {encoding} LOCALE 'C' TEMPLATE template0")
    try:
        database = Database(url_of(server_url, name))
        database.upgrade("baseline")
        remove_revision(database)
        with database.connect(client_encoding="UTF8") as connection:
            connection.execute("INSERT INTO companies (company_id, title) VALUES ('1', 'Студия')")
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")  # must have no effect
        assert adopted(database, monkeypatch).exit_code == 0
        database.upgrade()
        database.check()
        with Frontdesk(Settings(database_url=database.url)) as desk:
            assert desk.company(1).get_company().unwrap().title == "Студия"
        checked = CliRunner().invoke(main, ["doctor"])
        assert f"the database is encoded in {encoding}" in checked.stdout
        assert checked.exit_code == 0
    finally:
        execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("other,public", "schema public has bookings, clients, companies, dialog_contexts, "),
        ("salons,public", "schema public has staff: if these are Frontdesk's tables, put the schema first"),
        ("nowhere", "search_path contains no existing schema: nowhere"),
    ],
)
def test_tables_in_another_schema_are_refused(
    installation: Database, monkeypatch: pytest.MonkeyPatch, path: str, line: str
) -> None:
    """Otherwise new tables would be in the wrong schema, and tables of other programs would be changed."""
    moved = IN_OWN_SCHEMA.replace("ALTER TABLE staff SET SCHEMA salons;", "")
    installation.execute(f"CREATE SCHEMA other; {moved if path.startswith('salons') else ''}")
    by_path = with_option(installation, "search_path", path)
    result = adopted(by_path, monkeypatch)
    assert result.exit_code == 1
    assert f"  {line}" in result.stdout
    assert CliRunner().invoke(main, ["db", "dedupe"]).exit_code == 3
    with pytest.raises(MigrationRefused) as refusal:
        by_path.upgrade()
    assert any(reported.startswith(line) for reported in refusal.value.report)
    created = "SELECT count(*) FROM pg_tables WHERE tablename IN ('alembic_version', 'archived_rows')"
    assert installation.value(created) == 0


def test_missing_privileges_are_reported_with_a_remedy(
    installation: Database, guest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owned = ";".join(f"ALTER TABLE {table} OWNER TO {guest}" for table in OLD_ROWS if table != "staff")
    installation.execute(f"GRANT ALL ON staff TO {guest}; {owned}")
    as_guest = Database(installation.url + f"&user={guest}")
    result = adopted(as_guest, monkeypatch)
    assert result.exit_code == 1
    assert "connect as its owner, or ALTER TABLE staff OWNER TO guest\n" in result.stdout
    assert "  schema public: GRANT CREATE ON SCHEMA public TO guest\n" in result.stdout
    installation.execute(f"GRANT CREATE ON SCHEMA public TO {guest}")
    with pytest.raises(MigrationRefused) as refusal:
        as_guest.upgrade()
    assert len(refusal.value.report) == 1
    assert refusal.value.report[0].startswith("table staff belongs to ")
    assert as_guest.revision is None, "before the first change"
    installation.execute(f"REASSIGN OWNED BY {guest} TO CURRENT_USER; DROP OWNED BY {guest}")


@pytest.mark.parametrize(
    ("made", "line"),
    [
        ("PUBLICATION p FOR TABLE clients (id, yclients_id)", "publication p names columns of clients"),
        (
            "FUNCTION f() RETURNS bigint LANGUAGE sql RETURN (SELECT count(yclients_id) FROM clients)",
            "function f() reads clients",
        ),
        (
            "FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';"
            "CREATE TRIGGER t BEFORE UPDATE OF yclients_id ON clients FOR EACH ROW EXECUTE FUNCTION f()",
            "trigger t on columns of clients",
        ),
        ("POLICY p ON clients USING (company_id = 1)", "policy p on clients"),
        ("RULE r AS ON DELETE TO clients DO INSTEAD NOTHING", "rule r on clients"),
    ],
)
def test_objects_that_depend_on_columns_are_refused_before_the_first_change(
    old: Database, made: str, line: str
) -> None:
    old.execute(f"CREATE {made}")
    with pytest.raises(MigrationRefused) as refusal:
        old.upgrade()
    assert refusal.value.report == (line,)
    assert old.revision == "baseline"


def test_an_index_of_another_table_is_not_dropped_because_of_its_name(
    installation: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.execute(
        "CREATE TABLE notes (id int); CREATE UNIQUE INDEX clients_yclients_company_unique ON notes (id)"
    )
    line = "index clients_yclients_company_unique of notes has a name that the upgrade needs"
    result = adopted(installation, monkeypatch)
    assert result.exit_code == 1
    assert f"  {line}" in result.stdout
    with pytest.raises(MigrationRefused) as refusal:
        installation.upgrade()
    assert refusal.value.report[0].startswith(line)
    installation.execute("ALTER INDEX clients_yclients_company_unique RENAME TO notes_unique")
    installation.upgrade("composite_uniqueness")
    assert installation.value("SELECT count(*) FROM pg_indexes WHERE tablename = 'notes'") == 1


def test_a_trigger_that_names_no_column_is_accepted(old: Database) -> None:
    old.execute(
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';"
        "CREATE TRIGGER t BEFORE UPDATE ON clients FOR EACH ROW EXECUTE FUNCTION f()"
    )
    old.upgrade("wide_ids")


def test_timeouts_set_on_the_database_do_not_apply_to_migrations(old: Database) -> None:
    name, version = old.value("SELECT current_database()"), old.value("SHOW server_version_num")
    limits = ["statement_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout"]
    limits += ["transaction_timeout"] if int(version) >= 170_000 else []
    old.execute(";".join(f"ALTER DATABASE {name} SET {limit} = '50ms'" for limit in limits))
    with runner.migration_engine(old.url) as engine, engine.connect() as connection:
        connection.exec_driver_sql("SELECT pg_sleep(0.1)")
        connection.rollback()
        connection.exec_driver_sql("SELECT pg_sleep(0.1)")


# Duplicates


DUPLICATES = "INSERT INTO staff (yclients_id, company_id, name) VALUES (1, 1, 'A'), (1, 1, 'B');"


@pytest.fixture
def dedupe(installation: Database, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DATABASE_URL", installation.url)
    return lambda *arguments: CliRunner().invoke(main, ["db", "dedupe", *arguments])


def test_additional_columns_are_merged_and_restored(installation: Database, dedupe: Any) -> None:
    installation.execute(
        'ALTER TABLE staff ADD "order" text, ADD "is:VIP %" text,'
        " ADD initial text GENERATED ALWAYS AS (nullif(name, 'A')) STORED;"
        f"""{DUPLICATES} UPDATE staff SET "order" = 'x', "is:VIP %" = 'y' WHERE id = 2;"""
        'CREATE TABLE "photos :a %" ("member :b" int REFERENCES staff (id));'
        'INSERT INTO "photos :a %" VALUES (2)'
    )
    before = installation.rows("SELECT * FROM staff WHERE id = 2")
    planned = dedupe("--dry-run")
    assert (planned.exit_code, dedupe().exit_code) == (0, 0), planned.output
    (kept,) = installation.rows("SELECT * FROM staff")
    assert (kept["order"], kept["is:VIP %"], kept["initial"]) == ("x", "y", None)
    assert installation.values('SELECT * FROM "photos :a %"') == [1]
    assert dedupe("--restore", "1").exit_code == 0
    assert installation.rows("SELECT * FROM staff WHERE id = 2") == before


def test_json_null_is_restored_unchanged(installation: Database, dedupe: Any) -> None:
    installation.execute(
        "INSERT INTO dialog_contexts (user_id, company_id, context) VALUES ('1', 1, '{}'), ('1', 1, 'null')"
    )
    assert dedupe().exit_code == 0
    assert dedupe("--restore", "1").stdout == "1: row 2 of dialog_contexts is restored\n"
    assert installation.values("SELECT context::text FROM dialog_contexts ORDER BY id") == ["{}", "null"]


@pytest.mark.parametrize(
    "made",
    [
        "RULE r AS ON DELETE TO staff DO INSTEAD NOTHING",
        "FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER t BEFORE DELETE ON staff FOR EACH ROW EXECUTE FUNCTION f()",
    ],
)
def test_rows_that_a_trigger_or_rule_protects_are_not_archived(
    installation: Database, dedupe: Any, made: str
) -> None:
    installation.execute(f"{DUPLICATES} CREATE {made}")
    refused = dedupe()
    assert refused.exit_code == 3
    assert "A trigger or rule on staff prevents the deletion of rows" in refused.stderr
    assert installation.value("SELECT count(*) FROM archived_rows") == 0


# Concurrent sessions


def test_rows_inserted_behind_a_backfill_are_converted_too(old: Database) -> None:
    """Backfills go company by company; old code may add rows to a company that is already done."""
    old.insert("companies", {"company_id": 1})
    old.insert("clients", {"company_id": 2, "yclients_id": 1})
    late = {"company_id": 1, "yclients_id": 2, "phone": "8 968 648 44 89"}

    def insert_once(_: int, statement: str, __: Any) -> None:
        if statement.startswith("UPDATE clients SET search_name") and late:
            old.insert("clients", dict(late))
            late.clear()

    with before_each_statement(insert_once):
        old.upgrade("clients")
    assert late == {}
    assert old.values("SELECT search_name FROM clients") == ["анна", "анна"]


@pytest.mark.full
def test_autovacuum_is_cancelled_for_a_migration(
    make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL cancels autovacuum only for sessions that wait for 1 s; a vacuum can take hours."""
    monkeypatch.setattr(runner, "LOCK_ATTEMPTS", 4)
    server = Server()
    try:
        execute(server.url, "CREATE DATABASE busy")
        busy = Database(url_of(server.url, "busy"))
        busy.upgrade("baseline")
        busy.execute(
            "INSERT INTO services (yclients_id, company_id, title)"
            " SELECT n, 1, 'S' FROM generate_series(1, 20000) AS n"
        )
        with vacuumed(busy.url, "services"):
            busy.upgrade("alignment")
        assert busy.revision == "alignment"
    finally:
        server.delete()
