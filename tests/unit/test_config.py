"""Settings: all variables are validated together, and no error message contains a secret."""

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
    """Return a function that loads settings from the given variables only."""
    monkeypatch.chdir(tmp_path)
    for name in (*Settings.model_fields, "secrets_dir"):
        monkeypatch.delenv(name.upper(), raising=False)

    def load(**variables: str) -> Settings:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return Settings.load()

    return load


def test_the_defaults_are_for_development(load: Any) -> None:
    settings = load()
    assert settings.environment == "development"
    assert (settings.postgres_min_connections, settings.postgres_max_connections) == (1, 3)
    assert (settings.postgres_connection_timeout, settings.postgres_idle_timeout) == (10_000, 30_000)
    assert (settings.postgres_max_lifetime, settings.postgres_query_timeout) == (3_600_000, 60_000)
    assert (settings.postgres_statement_timeout, settings.postgres_lock_timeout) == (30_000, 30_000)
    assert (settings.service_count, settings.sentry_traces_sample_rate) == (7, 0.1)


def test_one_error_names_every_invalid_variable_and_no_value(load: Any) -> None:
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
def test_an_invalid_database_url_is_refused_in_production(load: Any, url: str) -> None:
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


def test_production_requires_a_sentry_dsn_unless_sentry_is_disabled(load: Any) -> None:
    assert load(ENVIRONMENT="production", DATABASE_URL=URL, SENTRY_ENABLED="false").is_production
    with pytest.raises(ConfigurationError, match="SENTRY_DSN"):
        load(SENTRY_ENABLED="true")


def test_repr_and_dump_of_the_settings_hide_secrets(load: Any) -> None:
    settings = load(DATABASE_URL=URL, HEALTH_TOKEN="Trillian", YCLIENTS_USER_TOKEN="Trillian")
    assert "Trillian" not in repr(settings) + str(settings) + repr(settings.model_dump())
    assert "Trillian" in embedded_server.resolve_database_url(settings)


def test_an_env_file_is_read_in_development_only(load: Any, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SERVICE_NAME=from-file\nUNKNOWN=1\n")
    assert load().service_name == "from-file"
    assert load(ENVIRONMENT="test").service_name == "frontdesk"
    assert load(ENVIRONMENT="development", SERVICE_NAME="variable").service_name == "variable"


def test_secrets_are_read_from_files(load: Any, tmp_path: Path) -> None:
    (tmp_path / "database_url").write_text(URL)
    assert embedded_server.resolve_database_url(load(SECRETS_DIR=str(tmp_path))) == URL
    with pytest.raises(ConfigurationError, match="SECRETS_DIR"):
        load(SECRETS_DIR=str(tmp_path / "missing"))


def test_a_minimum_of_connections_above_the_maximum_is_refused(load: Any) -> None:
    with pytest.raises(ConfigurationError, match="POSTGRES_MIN_CONNECTIONS"):
        load(POSTGRES_MIN_CONNECTIONS="4")


@pytest.mark.parametrize(
    "name", [name for name in Settings.model_fields if name.endswith(("timeout", "lifetime"))]
)
def test_a_timeout_beyond_the_range_of_postgresql_is_refused(load: Any, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name.upper()):
        load(**{name.upper(): str(2**31)})


def test_contradictory_transfer_settings_are_refused_with_the_reason(load: Any) -> None:
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


def test_both_sides_of_a_transfer_must_be_different_databases(load: Any) -> None:
    other_spelling = URL.replace(":5432", "").replace("postgresql://me", "postgresql+psycopg://you")
    with pytest.raises(ConfigurationError, match="LEGACY_DATABASE_URL: is the same database"):
        load(DATABASE_URL=URL, LEGACY_DATABASE_URL=other_spelling)


def test_only_the_settings_module_reads_environment_variables() -> None:
    app = Path(__file__).parents[2] / "app"
    readers = {
        str(path.relative_to(app))
        for path in app.rglob("*.py")
        # PROMETHEUS_MULTIPROC_DIR belongs to prometheus_client.
        if re.search(r"os\.environ|getenv", re.sub(r".*PROMETHEUS_MULTIPROC_DIR.*", "", path.read_text()))
    }
    assert readers == {"config/settings.py"}


def test_from_env_names_an_invalid_variable(load: Any) -> None:
    os.environ["SERVICE_COUNT"] = "0"
    try:
        with pytest.raises(ConfigurationError, match="SERVICE_COUNT"):
            Frontdesk.from_env()
    finally:
        del os.environ["SERVICE_COUNT"]


def _make(path: Path, content: bytes | str) -> None:
    """Create a file with this content (bytes), a directory ("directory"), or a link to this path (text)."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "directory":
        path.mkdir()
    else:
        path.symlink_to(content)


@pytest.mark.parametrize(
    "content", [b"", b" \r\n", b"Trillian\xff", b"Trillian\nx", b"Tr\0x", "directory", "/nowhere"]
)
def test_a_file_without_a_valid_secret_is_reported_by_its_setting(
    load: Any, tmp_path: Path, content: bytes | str
) -> None:
    _make(tmp_path / "health_token", content)
    _make(tmp_path / "postgres_max_connections", b"Trillian")
    with pytest.raises(ConfigurationError) as error:
        load(SECRETS_DIR=str(tmp_path))
    assert error.value.message.count("HEALTH_TOKEN: ") == 1
    assert "POSTGRES_MAX_CONNECTIONS: " in error.value.message
    assert "Tr" not in error.value.message


def test_a_secret_file_may_be_a_link_with_a_byte_order_mark_and_any_line_end(
    load: Any, tmp_path: Path
) -> None:
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
def test_a_database_url_that_exposes_its_password_or_cannot_work_is_refused(load: Any, url: str) -> None:
    with pytest.raises(ConfigurationError, match="DATABASE_URL: ") as error:
        load(DATABASE_URL=url)
    assert "lian" not in error.value.message


@pytest.mark.parametrize(
    "name", ["WHATSAPP_SILENT_CRITICAL", "BACKUP_MAX_HOURS", "BACKUP_DRILL_MAX_DAYS", "SERVICE_COUNT"]
)
def test_a_number_beyond_the_valid_range_is_refused(load: Any, name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        load(**{name: "99999999999999999999"})


def test_a_blank_token_is_refused(load: Any) -> None:
    with pytest.raises(ConfigurationError, match="HEALTH_TOKEN: is empty"):
        load(HEALTH_TOKEN="  ")
