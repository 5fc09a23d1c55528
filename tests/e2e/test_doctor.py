"""`frontdesk doctor`: every problem is detected and reported with a remedy."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from psycopg.conninfo import conninfo_to_dict

from app.cli import main
from app.migrations import runner
from tests.servers import execute

Examine = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def doctor(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs the command: `doctor("--json", DATABASE_URL=…)`."""

    def run(*options: str, **environment: str) -> Result:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return CliRunner().invoke(main, ["doctor", *options])

    return run


@pytest.fixture
def examine(doctor: Callable[..., Result]) -> Examine:
    """Return a function that runs the command and returns its exit code and its checks by name.

    Example: `code, checks = examine(DATABASE_URL=…)`.
    """

    def run(**environment: str) -> tuple[int, dict[str, Any]]:
        result = doctor("--json", **environment)
        document = json.loads(result.stdout)
        assert (document["verdict"] == "wrong") == (result.exit_code != 0)
        return result.exit_code, {check["name"]: check for check in document["checks"]}

    return run


def test_a_database_at_head_has_no_problems(examine: Examine, database_url: str) -> None:
    code, checks = examine(DATABASE_URL=database_url)
    assert code == 0
    assert {check["verdict"] for check in checks.values()} == {"ok", "skipped"}
    assert checks["backup"]["verdict"] == "skipped"


def test_the_text_output_has_a_line_for_each_check(doctor: Callable[..., Result], database_url: str) -> None:
    result = doctor(DATABASE_URL=database_url)
    assert result.exit_code == 0
    for name in ("connection", "writes", "pool budget", "schema", "constraints", "indexes", "sequences"):
        assert name in result.stdout
    assert "backup" in result.stdout
    assert result.stderr == ""


def test_an_outdated_schema_is_wrong_and_the_advice_names_the_command(
    examine: Examine, database_url: str
) -> None:
    execute(database_url, f"UPDATE alembic_version SET version_num = '{runner.revisions()[1]}'")
    code, checks = examine(DATABASE_URL=database_url)
    assert (code, checks["schema"]["verdict"]) == (1, "wrong")
    assert "alembic upgrade head" in checks["schema"]["advice"]


def test_a_revision_unknown_to_the_code_is_shown(examine: Examine, database_url: str) -> None:
    execute(database_url, "UPDATE alembic_version SET version_num = 'future'")
    assert "future" in examine(DATABASE_URL=database_url)[1]["schema"]["found"]


def test_a_read_only_database_is_wrong(examine: Examine, database_url: str) -> None:
    name = conninfo_to_dict(database_url)["dbname"]
    execute(database_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    code, checks = examine(DATABASE_URL=database_url)
    assert (code, checks["writes"]["verdict"]) == (1, "wrong")
    assert "read-only" in checks["writes"]["found"]


def test_a_constraint_that_is_not_validated_is_wrong(examine: Examine, database_url: str) -> None:
    execute(database_url, "ALTER TABLE clients ADD CONSTRAINT half CHECK (id > 0) NOT VALID")
    code, checks = examine(DATABASE_URL=database_url)
    assert code == 1
    assert "half of clients" in checks["constraints"]["found"]


def test_an_index_whose_build_failed_is_wrong(examine: Examine, database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO companies (company_id, title) VALUES (1, 'A')",
        "INSERT INTO clients (company_id, yclients_id, name) VALUES (1, 1, 'O'), (1, 2, 'O')",
    )
    with pytest.raises(psycopg.errors.UniqueViolation):
        execute(database_url, "CREATE UNIQUE INDEX CONCURRENTLY unfinished ON clients (name)")
    code, checks = examine(DATABASE_URL=database_url)
    assert code == 1
    assert "unfinished of clients" in checks["indexes"]["found"]


def test_a_sequence_behind_its_table_is_wrong(examine: Examine, database_url: str) -> None:
    execute(
        database_url,
        "INSERT INTO companies (id, company_id, title) OVERRIDING SYSTEM VALUE VALUES (41, 1, 'A')",
    )
    code, checks = examine(DATABASE_URL=database_url)
    assert code == 1
    assert "by 41 for companies.id" in checks["sequences"]["found"]
    execute(database_url, "SELECT setval(pg_get_serial_sequence('companies', 'id'), 41)")
    assert examine(DATABASE_URL=database_url)[0] == 0


def test_a_pool_budget_above_max_connections_is_reported_with_the_numbers(
    examine: Examine, database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SHOW max_connections").fetchone()
    assert row is not None
    limit = int(row[0])
    code, checks = examine(DATABASE_URL=database_url, POSTGRES_MAX_CONNECTIONS=str(limit))
    budget = checks["pool budget"]
    assert (code, budget["verdict"]) == (1, "wrong")
    assert f"7 services x 1 workers x {limit} connections = {7 * limit}" in budget["found"]
    assert f"max_connections {limit}" in budget["found"]
    assert "too many" in budget["found"]


def test_the_pool_budget_counts_connections_of_other_applications(
    examine: Examine, database_url: str, server_url: str
) -> None:
    def held() -> int:
        found = examine(DATABASE_URL=database_url)[1]["pool budget"]["found"]
        return int(found.partition("other programs use ")[2].partition(";")[0])

    before = held()
    with psycopg.connect(server_url), psycopg.connect(server_url):
        assert held() >= before + 1  # parallel tests may close connections meanwhile


def test_an_unreachable_database_exits_with_code_3_and_hides_the_password(examine: Examine) -> None:
    code, checks = examine(DATABASE_URL="postgresql://someone:s3cret@127.0.0.1:1/nowhere")
    assert (code, checks["connection"]["verdict"]) == (3, "wrong")
    assert checks["connection"]["advice"]
    assert "s3cret" not in json.dumps(checks)


def test_a_wrong_configuration_exits_with_code_2_and_names_every_problem(
    doctor: Callable[..., Result],
) -> None:
    result = doctor("--json", ENVIRONMENT="production", POSTGRES_MAX_CONNECTIONS="many")
    assert result.exit_code == 2
    findings = [check["found"] for check in json.loads(result.stdout)["checks"]]
    for name in ("POSTGRES_MAX_CONNECTIONS", "DATABASE_URL", "SENTRY_DSN"):
        assert any(finding.startswith(name) for finding in findings)


def test_unsafe_settings_in_production_are_warnings_with_exit_code_0(
    examine: Examine, database_url: str
) -> None:
    code, checks = examine(
        ENVIRONMENT="production",
        SENTRY_ENABLED="false",
        DATABASE_URL=database_url,
        LEGACY_DATABASE_URL="postgresql://u:s3cret@db.example.com/x?sslmode=require",
    )
    assert code == 0
    for name in ("LEGACY_DATABASE_URL", "WHATSAPP_ENCRYPTION_KEYS", "HEALTH_TOKEN"):
        assert checks[name]["verdict"] == "warning"
        assert checks[name]["advice"]
    assert "s3cret" not in json.dumps(checks)
    _, checks = examine(LEGACY_DATABASE_URL="postgresql://u:s3cret@db.example.com/x?sslmode=verify-full")
    assert "LEGACY_DATABASE_URL" not in checks
