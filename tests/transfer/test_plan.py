"""Tests of `frontdesk transfer plan`: it reports every schema difference and every blocker of a transfer."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from app import Settings
from app.cli import main
from app.errors import InvalidInputError
from app.transfer.planning import plan
from app.transfer.planning.server_checks import NEEDED_CONNECTIONS
from app.transfer.protocol.endpoints import Side, Sides
from tests.servers import execute

Examine = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def shared_sides(new_database: Callable[[], str]) -> tuple[str, str]:
    """URLs of a legacy and a primary database at head, which the tests of this module share."""
    return new_database(), new_database()


@pytest.fixture
def run(shared_sides: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs `transfer plan` on the shared sides.

    Keyword arguments are environment variables, which may name other databases.
    """

    def invoke(*arguments: str, **environment: str) -> Result:
        legacy, primary = shared_sides
        for name, value in {"LEGACY_DATABASE_URL": legacy, "DATABASE_URL": primary, **environment}.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(main, ["transfer", "plan", *arguments])

    return invoke


@pytest.fixture
def examine(run: Callable[..., Result]) -> Examine:
    """Return a function that runs `transfer plan --json` and returns its exit code and JSON document."""

    def invoke(*arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
        result = run("--json", *arguments, **environment)
        assert result.exit_code in (0, 1), result.output
        document = json.loads(result.stdout)
        assert document["ready"] == (result.exit_code == 0)
        return result.exit_code, document

    return invoke


def blockers(document: dict[str, Any]) -> set[tuple[str, str, str]]:
    """Return (kind, name, side) of each blocking finding."""
    return {(item["kind"], item["name"], item["side"]) for item in document["in_the_way"]}


def test_two_databases_at_head_are_ready(examine: Examine, run: Callable[..., Result]) -> None:
    code, document = examine()
    assert (code, document["in_the_way"]) == (0, [])
    tables = [table["name"] for table in document["tables"]]
    assert tables.index("public.companies") < tables.index("public.bookings")
    assert tables.index("public.bookings") < tables.index("public.booking_slots")
    assert "public.alembic_version" not in tables
    assert [side["name"] for side in document["sides"]] == ["legacy", "primary"]
    text_output = run()
    assert text_output.exit_code == 0
    assert "Ready." in text_output.stdout
    assert "public.booking_slots" in text_output.stdout


# Statements that create a blocker on either side, with kind and name of the finding.
OBSTACLES = {
    "CREATE RULE none AS ON DELETE TO staff DO INSTEAD NOTHING": "rule|public.staff.none",
    "CREATE TABLE extra1 (id int)": "table|public.extra1",
    "CREATE TABLE extra2 (id int PRIMARY KEY, company_id bigint"
    " REFERENCES companies ON DELETE CASCADE DEFERRABLE)": "table|public.extra2",
    "CREATE TABLE extra3 (id int PRIMARY KEY) PARTITION BY RANGE (id)": "table|public.extra3",
    "CREATE UNLOGGED TABLE extra4 (id int PRIMARY KEY)": "table|public.extra4",
    "CREATE TABLE others (id int PRIMARY KEY, company_id bigint REFERENCES companies DEFERRABLE)": (
        "constraint|public.others.others_company_id_fkey"
    ),
    "ALTER TABLE clients ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY": "row security|public.clients",
    "SELECT lo_create(0)": "table|large objects",
}

# Statements that change one side, with kind, name and side of the finding. `{side}` is the changed side.
DRIFT = {
    "ALTER TABLE clients ADD COLUMN tmp text": "column|public.clients.tmp|{side}",
    'ALTER TABLE staff ALTER COLUMN "position" TYPE varchar(80)': "column|public.staff.position|both",
    "ALTER TABLE companies ALTER COLUMN country SET DEFAULT 'KZ'": "column|public.companies.country|both",
    "ALTER TABLE clients ALTER COLUMN name DROP NOT NULL": "column|public.clients.name|both",
    'ALTER TABLE clients ALTER COLUMN email TYPE text COLLATE "C"': "column|public.clients.email|both",
    "ALTER TABLE staff ADD COLUMN g int GENERATED ALWAYS AS (weight + 1) STORED": (
        "column|public.staff.g|{side}"
    ),
    "ALTER TABLE clients ADD CONSTRAINT tall CHECK (visit_count >= 0)": (
        "constraint|public.clients.tall|{side}"
    ),
    "ALTER TABLE bookings DROP CONSTRAINT ck_bookings_status": (
        "constraint|public.bookings.ck_bookings_status|{other}"
    ),
    "ALTER TABLE bookings RENAME CONSTRAINT ck_bookings_source TO s": "constraint|public.bookings.s|{side}",
    "ALTER TABLE clients ADD CONSTRAINT half CHECK (id > 0) NOT VALID": (
        "constraint|public.clients.half|{side}"
    ),
    "CREATE INDEX mine ON clients (name)": "index|public.clients.mine|{side}",
    "ALTER SEQUENCE clients_id_seq INCREMENT 2": "sequence|public.clients.id|both",
    "CREATE SEQUENCE numbers": "sequence|public.numbers|{side}",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'": "function|public.f()|{side}",
    "CREATE VIEW v AS SELECT 1 AS one": "view|public.v|{side}",
    "CREATE TYPE color AS ENUM ('red', 'blue')": "type|public.color|{side}",
    "CREATE DOMAIN phone AS text CHECK (VALUE <> '')": "type|public.phone|{side}",
    "CREATE COLLATION mine (provider = libc, locale = 'C')": "collation|public.mine|{side}",
    "CREATE POLICY mine ON clients USING (company_id = 1)": "policy|public.clients.mine|{side}",
    "ALTER TABLE clients ENABLE ROW LEVEL SECURITY": "row security|public.clients|{side}",
    "GRANT SELECT ON clients TO PUBLIC": "role|public|{side}",
    "CREATE TABLE extra (id int PRIMARY KEY)": "table|public.extra|{side}",
    "CREATE SCHEMA auth; CREATE TABLE auth.users (id int PRIMARY KEY)": "table|auth.users|{side}",
    "DROP TABLE dialog_contexts": "moved table|public.dialog_contexts|{other}",
    "UPDATE alembic_version SET version_num = 'older'": "revision|public.alembic_version|both",
}


@contextmanager
def changed(urls: tuple[str, str], side: str, *statements: str) -> Iterator[Callable[..., plan.Plan]]:
    """Yield a function that plans the transfer while one side is changed; roll the change back at the end."""
    sides = Sides(Side("legacy", urls[0]), Side("primary", urls[1]))
    with closing(sides.legacy.connect()) as legacy, closing(sides.primary.connect()) as primary:
        connection = legacy if side == "legacy" else primary
        with connection.transaction(force_rollback=True):
            connection.execute("SET LOCAL search_path = public")
            for statement in statements:
                connection.execute(statement)
            connection.execute("SET LOCAL search_path = pg_catalog")
            yield lambda *names: plan.make_plan_on_sessions(legacy, primary, Settings(), *names)


@pytest.mark.parametrize("side", ["legacy", "primary"])
def test_every_kind_of_drift_is_reported_with_its_side(side: str, shared_sides: tuple[str, str]) -> None:
    other = "primary" if side == "legacy" else "legacy"
    expected = {tuple(text.format(side=side, other=other).split("|")) for text in DRIFT.values()}
    with changed(shared_sides, side, *DRIFT) as examine:
        found = examine()
    assert expected - {(item.kind, item.name, item.side) for item in found.blocking_findings} == set()
    assert all(item.advice for item in found.findings)


@pytest.mark.parametrize("side", ["legacy", "primary"])
def test_objects_that_cannot_be_transferred_are_reported_with_their_side(
    side: str, shared_sides: tuple[str, str]
) -> None:
    with changed(shared_sides, side, *OBSTACLES) as examine:
        found = examine([f"public.extra{number}" for number in range(1, 5)])
    expected = {(*text.split("|"), side) for text in OBSTACLES.values()}
    assert expected - {(item.kind, item.name, item.side) for item in found.blocking_findings} == set()


def test_a_user_defined_trigger_is_a_notice_and_a_difference_if_only_one_side_has_it(
    shared_sides: tuple[str, str],
) -> None:
    statements = (
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "CREATE TRIGGER touch BEFORE UPDATE ON clients FOR EACH ROW EXECUTE FUNCTION touch()",
    )
    with changed(shared_sides, "primary", *statements) as examine:
        found = [item for item in examine().findings if item.name == "public.clients.touch"]
    # The difference blocks, because only primary has the trigger. The notice says that the relay disables it.
    assert [item.in_the_way for item in found] == [True, False]


def test_rows_block_the_transfer_on_primary_and_not_on_legacy(shared_sides: tuple[str, str]) -> None:
    row = "INSERT INTO companies (company_id, title) VALUES (1, 'A')"
    with changed(shared_sides, "legacy", row) as examine:
        assert examine().blocking_findings == []
    with changed(shared_sides, "primary", row) as examine:
        (found,) = examine().blocking_findings
    assert (found.kind, found.name, found.side) == ("table", "public.companies", "primary")


def test_objects_outside_the_models_can_be_left_out_by_name(shared_sides: tuple[str, str]) -> None:
    statements = (
        "CREATE SCHEMA auth",
        "CREATE TABLE auth.users (id int)",
        "CREATE FUNCTION auth.uid() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE VIEW v AS SELECT 1 AS one",
        "GRANT SELECT ON clients TO PUBLIC",
    )
    with changed(shared_sides, "legacy", *statements) as examine:
        assert len(examine().blocking_findings) == 4
        found = examine((), ("auth.*", "public.v", "public"))
        assert found.blocking_findings == []
        assert sorted(found.left_out) == ["auth.uid()", "auth.users", "public", "public.v"]


def test_parts_of_moved_tables_cannot_be_left_out(shared_sides: tuple[str, str]) -> None:
    statement = "ALTER TABLE clients ADD COLUMN tmp text"
    with (
        changed(shared_sides, "legacy", statement) as examine,
        pytest.raises(InvalidInputError, match=r"no object named public\.clients\.tmp"),
    ):
        examine((), ("public.clients.tmp",))


def test_an_included_table_is_compared_and_transferred(shared_sides: tuple[str, str]) -> None:
    statement = "CREATE TABLE extra (id int PRIMARY KEY, note text)"
    with changed(shared_sides, "legacy", statement) as examine:
        found = examine(["public.extra"])
        assert [(item.kind, item.name) for item in found.blocking_findings] == [
            ("moved table", "public.extra")
        ]
        assert "public.extra" in [table.name for table in found.tables]
        with pytest.raises(InvalidInputError, match=r"public\.nothing"):
            examine(["public.nothing"])


def test_missing_privileges_are_reported_with_the_required_grants(
    examine: Examine, shared_sides: tuple[str, str], server_url: str
) -> None:
    legacy, _ = shared_sides
    execute(server_url, "CREATE ROLE poor LOGIN")
    try:
        code, document = examine(LEGACY_DATABASE_URL=re.sub("//[^@]*@", "//poor@", legacy))
    finally:
        execute(server_url, "DROP ROLE poor")
    assert code == 1
    assert ("privilege", "public.clients", "legacy") in blockers(document)
    assert any(kind == "privilege" and "CREATE ON DATABASE" in advice for kind, advice in advices(document))


def test_a_server_with_too_few_connections_is_reported_with_the_numbers(examine: Examine) -> None:
    code, document = examine(POSTGRES_MAX_CONNECTIONS="200")
    assert code == 1
    assert {("connections", "pool", "legacy"), ("connections", "pool", "primary")} <= blockers(document)
    (problem, _) = [item["problem"] for item in document["in_the_way"]]
    assert "7 services x 1 workers x 200 connections" in problem
    assert f"the transfer needs {NEEDED_CONNECTIONS}" in problem


def test_the_plan_changes_nothing(shared_sides: tuple[str, str], examine: Examine) -> None:
    def state(url: str) -> Any:
        with psycopg.connect(url) as connection:
            return connection.execute(
                "SELECT (SELECT count(*) FROM pg_class), (SELECT count(*) FROM pg_namespace),"
                " (SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_user_tables)"
            ).fetchone()

    before = [state(url) for url in shared_sides]
    examine()
    assert [state(url) for url in shared_sides] == before


def test_for_an_empty_primary_the_only_problem_is_the_missing_revision(
    run: Callable[..., Result], server_url: str
) -> None:
    document = json.loads(run("--json", DATABASE_URL=server_url).stdout)
    assert [(item["kind"], item["name"]) for item in document["in_the_way"]] == [
        ("revision", "public.alembic_version")
    ]


def test_the_plan_contains_table_sizes_and_the_estimated_time(
    run: Callable[..., Result], new_database: Callable[[], str]
) -> None:
    legacy = new_database()
    execute(
        legacy,
        "INSERT INTO companies (company_id, title) VALUES (1, 'A')",
        "INSERT INTO clients (company_id, yclients_id, name)"
        " SELECT 1, n, 'Ира' FROM generate_series(1, 20000) AS n",
        "ANALYZE clients",
    )
    document = json.loads(run("--json", LEGACY_DATABASE_URL=legacy).stdout)
    (clients,) = [table for table in document["tables"] if table["name"] == "public.clients"]
    assert clients["rows"] == 20_000
    assert clients["total_bytes"] > clients["bytes"] > 100_000
    assert document["seconds"] > 0


def test_the_same_database_for_both_sides_is_rejected(
    run: Callable[..., Result], shared_sides: tuple[str, str]
) -> None:
    result = run(LEGACY_DATABASE_URL=shared_sides[1])
    assert result.exit_code == 2
    assert "same database" in result.stderr


def test_without_a_legacy_database_the_error_names_the_variable(run: Callable[..., Result]) -> None:
    result = run(LEGACY_DATABASE_URL="")
    assert result.exit_code == 2
    assert "LEGACY_DATABASE_URL" in result.stderr


def test_an_unreachable_side_is_named_without_its_password(run: Callable[..., Result]) -> None:
    result = run(LEGACY_DATABASE_URL="postgresql://someone:s3cret@127.0.0.1:1/nowhere")
    assert result.exit_code == 3
    assert "legacy" in result.stderr
    assert "s3cret" not in result.output


def advices(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Return (kind, advice) of each blocking finding."""
    return [(item["kind"], item["advice"]) for item in document["in_the_way"]]
