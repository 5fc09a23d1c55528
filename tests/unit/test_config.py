"""The environment is validated as a whole, and no secret is shown."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from app import Frontdesk, Settings
from app.database import embedded_server
from app.errors import ConfigurationError

URL = "postgresql://me:Trillian@db.example:5432/salon?sslmode=verify-full"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Loads settings from these variables alone."""
    monkeypatch.chdir(tmp_path)
    for name in (*Settings.model_fields, "secrets_dir"):
        monkeypatch.delenv(name.upper(), raising=False)

    def load(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return Settings.load()

    return load


def test_the_defaults_are_those_of_a_development_run(load: Any) -> None:
    settings = load()
    assert settings.environment == "development"
    assert (settings.postgres_min_connections, settings.postgres_max_connections) == (1, 3)
    assert (settings.postgres_connection_timeout, settings.postgres_idle_timeout) == (10_000, 30_000)
    assert (settings.postgres_max_lifetime, settings.postgres_query_timeout) == (3_600_000, 60_000)
    assert (settings.postgres_statement_timeout, settings.postgres_lock_timeout) == (30_000, 30_000)
    assert (settings.service_count, settings.sentry_traces_sample_rate) == (7, 0.1)


def test_every_problem_is_named_at_once_and_no_value(load: Any) -> None:
    with pytest.raises(ConfigurationError) as error:
        load(
            ENVIRONMENT="production",
            POSTGRES_MAX_CONNECTIONS="Trillian",
            POSTGRES_LOCK_TIMEOUT="-1",
            LEGACY_DATABASE_URL="mysql://me:Trillian@db/x",
            WHATSAPP_ENCRYPTION_KEYS=f"{Fernet.generate_key().decode()},Trillian",
            POSTGRES_POOLER="transaction",
        )
    for name in (
        "DATABASE_URL",
        "SENTRY_DSN",
        "POSTGRES_MAX_CONNECTIONS",
        "POSTGRES_LOCK_TIMEOUT",
        "LEGACY_DATABASE_URL",
        "WHATSAPP_ENCRYPTION_KEYS",
        "DIRECT_DATABASE_URL",
    ):
        assert f"\n{name}: " in error.value.message
    assert "Trillian" not in error.value.message + repr(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "postgresql://me:Tril lian@db:5432:1/x",
        "postgresql://db:port/x",
        "postgresql://me:100%@db/x",
        "mysql://db/x",
        "host=db dbname=x",
        "postgresql://db/x?nonsense=1",
    ],
)
def test_what_is_no_postgresql_url_is_refused_in_production(load: Any, url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"\nDATABASE_URL: ") as error:
        load(ENVIRONMENT="production", SENTRY_ENABLED="false", DATABASE_URL=url)
    assert "lian" not in error.value.message


@pytest.mark.parametrize(
    "url", [URL, "postgres://db/x", "postgresql+psycopg://me@db/x", "postgresql:///x?host=/tmp/socket"]
)
def test_a_postgresql_url_is_accepted(load: Any, url: str) -> None:
    assert embedded_server.resolve_database_url(
        load(ENVIRONMENT="production", SENTRY_ENABLED="false", DATABASE_URL=url)
    ).startswith("postgres")


def test_sentry_may_be_off_in_production_only_on_purpose(load: Any) -> None:
    assert load(ENVIRONMENT="production", DATABASE_URL=URL, SENTRY_ENABLED="false").is_production
    with pytest.raises(ConfigurationError, match="SENTRY_DSN"):
        load(SENTRY_ENABLED="true")


def test_no_secret_is_shown(load: Any) -> None:
    settings = load(DATABASE_URL=URL, HEALTH_TOKEN="Trillian", YCLIENTS_USER_TOKEN="Trillian")
    assert "Trillian" not in repr(settings) + str(settings) + repr(settings.model_dump())
    assert "Trillian" in embedded_server.resolve_database_url(settings)


def test_an_env_file_is_read_in_development_only(load: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SERVICE_NAME=from-file\nUNKNOWN=1\n")
    assert load().service_name == "from-file"
    assert load(ENVIRONMENT="test").service_name == "frontdesk"
    assert load(ENVIRONMENT="development", SERVICE_NAME="variable").service_name == "variable"


def test_secrets_may_come_from_files(load: Any, tmp_path: Path) -> None:
    (tmp_path / "database_url").write_text(URL)
    assert embedded_server.resolve_database_url(load(SECRETS_DIR=str(tmp_path))) == URL
    with pytest.raises(ConfigurationError, match="SECRETS_DIR"):
        load(SECRETS_DIR=str(tmp_path / "missing"))


def test_more_idle_connections_than_connections_are_refused(load: Any) -> None:
    with pytest.raises(ConfigurationError, match="POSTGRES_MIN_CONNECTIONS"):
        load(POSTGRES_MIN_CONNECTIONS="4")


@pytest.mark.parametrize(
    "name", [name for name in Settings.model_fields if name.endswith(("timeout", "lifetime"))]
)
def test_a_time_that_postgresql_cannot_count_is_refused(load: Any, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name.upper()):
        load(**{name.upper(): str(2**31)})


def test_the_settings_of_a_move_that_contradict_each_other_are_refused_with_the_reason(load: Any) -> None:
    for name, value in (
        ("TRANSFER_PIN", "legacy"),
        ("TRANSFER_CAPTURE", "off"),
        ("TRANSFER_COMPARE_READS", "0.01"),
    ):
        with pytest.raises(ConfigurationError, match=rf"\n{name}: requires LEGACY_DATABASE_URL"):
            load(**{name: value})
        os.environ.pop(name)
    legacy = {"LEGACY_DATABASE_URL": URL.replace("salon", "old"), "DATABASE_URL": URL}
    load(**legacy, TRANSFER_PIN="primary", TRANSFER_CAPTURE="off", TRANSFER_COMPARE_READS="0")
    with pytest.raises(ConfigurationError, match=r"TRANSFER_COMPARE_READS: .*TRANSFER_PIN.*\n.*CAPTURE=off"):
        load(TRANSFER_COMPARE_READS="1")
    for value in ("both", "standby"):
        with pytest.raises(ConfigurationError, match="TRANSFER_PIN"):
            load(TRANSFER_PIN=value)


def test_a_database_cannot_be_moved_to_itself(load: Any) -> None:
    other_writing = URL.replace(":5432", "").replace("postgresql://me", "postgresql+psycopg://you")
    with pytest.raises(ConfigurationError, match="LEGACY_DATABASE_URL: is the same database"):
        load(DATABASE_URL=URL, LEGACY_DATABASE_URL=other_writing)


def test_nothing_but_the_configuration_reads_the_environment() -> None:
    app = Path(__file__).parents[2] / "app"
    readers = {
        str(path.relative_to(app))
        for path in app.rglob("*.py")
        # prometheus_client has a variable of its own, which it reads itself.
        if re.search(r"os\.environ|getenv", re.sub(r".*PROMETHEUS_MULTIPROC_DIR.*", "", path.read_text()))
    }
    assert readers == {"config/settings.py"}


def test_a_service_made_from_a_wrong_environment_names_the_problem(load: Any) -> None:
    os.environ["SERVICE_COUNT"] = "0"
    try:
        with pytest.raises(ConfigurationError, match="SERVICE_COUNT"):
            Frontdesk.from_env()
    finally:
        del os.environ["SERVICE_COUNT"]


def _make(path: Path, how: bytes | str) -> None:
    if isinstance(how, bytes):
        path.write_bytes(how)
    elif how == "directory":
        path.mkdir()
    else:
        path.symlink_to(how)


@pytest.mark.parametrize(
    "how", [b"", b" \r\n", b"Trillian\xff", b"Trillian\nx", b"Tr\0x", "directory", "/nowhere"]
)
def test_a_file_that_holds_no_secret_is_named(load: Any, tmp_path: Path, how: bytes | str) -> None:
    _make(tmp_path / "health_token", how)
    _make(tmp_path / "postgres_max_connections", b"Trillian")
    with pytest.raises(ConfigurationError) as error:
        load(SECRETS_DIR=str(tmp_path))
    assert error.value.message.count("HEALTH_TOKEN: ") == 1
    assert "POSTGRES_MAX_CONNECTIONS: " in error.value.message
    assert "Tr" not in error.value.message


def test_a_secret_may_be_a_link_and_end_in_any_line_end(load: Any, tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"\xef\xbb\xbfTrillian\r\n")
    (tmp_path / "secrets" / "health_token").symlink_to(tmp_path / "elsewhere")
    assert load(SECRETS_DIR=str(tmp_path / "secrets")).health_token.get_secret_value() == "Trillian"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:Tril@lian@db/x",
        "postgresql://me:1/Tril@lian/x",
        "postgresql://me:Trillian@db:99999/x",
        "postgresql://me:Trillian@db/x?sslmode=Trillian",
    ],
)
def test_an_address_that_would_show_its_password_or_cannot_work_is_refused(load: Any, url: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL: ") as error:
        load(DATABASE_URL=url)
    assert "lian" not in error.value.message


@pytest.mark.parametrize(
    "name", ["WHATSAPP_SILENT_CRITICAL", "BACKUP_MAX_HOURS", "BACKUP_DRILL_MAX_DAYS", "SERVICE_COUNT"]
)
def test_a_number_that_nothing_can_count_with_is_refused(load: Any, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        load(**{name: "99999999999999999999"})


def test_a_token_that_cannot_be_sent_is_refused(load: Any) -> None:
    with pytest.raises(ConfigurationError, match="HEALTH_TOKEN: is empty"):
        load(HEALTH_TOKEN="  ")
