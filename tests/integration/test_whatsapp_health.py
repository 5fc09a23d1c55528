"""Clean-up, health and import of WhatsApp sessions, and their commands."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result
from cryptography.fernet import Fernet
from flask.testing import FlaskClient
from pydantic import SecretStr

from app import Frontdesk, Settings
from app.cli import main
from app.database.advisory_locks import AdvisoryLock
from app.database.connection import connect_directly
from app.observability import sentry
from app.observability.severity import Severity
from app.web import create_app
from app.whatsapp import cleanup
from app.whatsapp.cleanup import clean_up
from app.whatsapp.health_monitor import check_health

SALON, OTHER = 1, 2


@pytest.fixture
def own(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Return settings with an empty database, which the commands use too."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    return Settings(database_url=SecretStr(database_url))


@pytest.fixture
def desk(own: Settings) -> Iterator[Frontdesk]:
    with Frontdesk(own) as desk:
        for company_id in (SALON, OTHER):
            desk.company(company_id).upsert_company({"title": "Salon"}).unwrap()
        yield desk


@pytest.fixture
def client(desk: Frontdesk) -> FlaskClient:
    return create_app(desk).test_client()


def run(settings: Settings, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def fill(
    settings: Settings, key_type: str, count: int, expired: int | None, idle: int = 0, company: int = SALON
) -> None:
    """Insert keys that expired `expired` days ago (None: never expire), last written `idle` days ago."""
    run(
        settings,
        "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value, expires_at, updated_at)"
        " SELECT %s, %s, n || '-' || %s::text, '1', now() - %s * interval '1 day',"
        " now() - %s * interval '1 day' FROM generate_series(1, %s) AS n",
        *(company, key_type, f"{expired} {idle}", expired, idle, count),
    )


def left(settings: Settings) -> dict[str, int]:
    """Return the number of stored keys by type."""
    return dict(run(settings, "SELECT key_type, count(*) FROM whatsapp_keys GROUP BY 1 ORDER BY 1"))


def frontdesk(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["whatsapp", *arguments])


class TestCleanUp:
    def test_keys_are_deleted_after_expiry_and_grace_period(self, own: Settings, desk: Frontdesk) -> None:
        fill(own, "device-list", 3, expired=8)
        fill(own, "device-list", 5, expired=6)
        fill(own, "tctoken", 2, expired=100)
        fill(own, "tctoken", 1, expired=None)
        result = clean_up(own)
        assert result.as_dict()["types"] == {
            "device-list": {"before": 8, "deleted": 3, "after": 5},
            "tctoken": {"before": 3, "deleted": 2, "after": 1},
        }
        assert left(own) == {"device-list": 5, "tctoken": 1}

    @pytest.mark.parametrize("profile", ["safe", "classic"])
    def test_protected_types_are_kept_unless_they_are_requested(
        self, own: Settings, desk: Frontdesk, profile: str
    ) -> None:
        settings = own.model_copy(update={"whatsapp_retention": profile})
        types = ("pre-key", "session", "identity-key", "lid-mapping", "app-state-sync-key", "sender-key")
        for key_type in types:
            fill(own, key_type, 2, expired=500, idle=500)
        assert clean_up(settings).deleted.total() == 0
        assert clean_up(settings, types=["pre-key"]).deleted == {"pre-key": 2}
        assert left(own) == {key_type: 2 for key_type in sorted(types) if key_type != "pre-key"}

    def test_sessions_are_deleted_by_idleness_instead_of_expiry(self, own: Settings, desk: Frontdesk) -> None:
        fill(own, "session", 3, expired=100, idle=100)
        fill(own, "session", 2, expired=None, idle=200)
        assert clean_up(own, types=["session"]).deleted == {"session": 2}

    def test_a_stored_expiry_is_ignored_for_types_that_never_expire(
        self, own: Settings, desk: Frontdesk
    ) -> None:
        fill(own, "unknown-type", 2, expired=100)
        assert clean_up(own).deleted.total() == 0

    def test_the_clean_up_can_be_limited_to_one_company(self, own: Settings, desk: Frontdesk) -> None:
        for company in (SALON, OTHER):
            fill(own, "device-list", 2, expired=10, company=company)
        assert clean_up(own, OTHER).deleted.total() == 2
        assert run(own, "SELECT DISTINCT company_id FROM whatsapp_keys") == [(SALON,)]

    def test_a_dry_run_counts_but_deletes_nothing(self, own: Settings, desk: Frontdesk) -> None:
        fill(own, "device-list", 2, expired=10)
        result = clean_up(own, dry_run=True).as_dict()
        assert (result["due"], result["types"]["device-list"]["after"]) == (2, 0)
        assert left(own) == {"device-list": 2}

    def test_batches_skip_keys_that_a_worker_has_locked(
        self, own: Settings, desk: Frontdesk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cleanup, "KEYS_PER_TRANSACTION", 10)
        fill(own, "device-list", 35, expired=10)
        with desk.unit_of_work(SALON) as uow:
            uow.session.connection().exec_driver_sql(
                "SELECT FROM whatsapp_keys ORDER BY id LIMIT 1 FOR UPDATE"
            )
            assert clean_up(own).deleted.total() == 34
        assert left(own) == {"device-list": 1}

    def test_of_concurrent_runs_one_deletes_and_the_others_report_it(
        self, own: Settings, desk: Frontdesk
    ) -> None:
        fill(own, "device-list", 2, expired=10)
        with connect_directly(own) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (AdvisoryLock.WHATSAPP_CLEANUP,))
            assert clean_up(own).as_dict()["ran"] is False
            assert left(own) == {"device-list": 2}
            skipped = frontdesk("cleanup")
            assert (skipped.exit_code, "Another clean-up is running" in skipped.output) == (0, True)
        assert clean_up(own).deleted.total() == 2

    def test_a_failure_is_reported_once(
        self, own: Settings, desk: Frontdesk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reported: list[BaseException] = []
        monkeypatch.setattr(sentry, "capture_exception", lambda error, **tags: reported.append(error))
        run(own, "ALTER TABLE whatsapp_keys RENAME TO elsewhere")
        failed = frontdesk("cleanup")
        assert failed.exit_code == 3
        assert len(reported) == 1


class TestHealth:
    @pytest.fixture(autouse=True)
    def messages(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Return the list of messages that are sent to Sentry."""
        messages: list[str] = []
        monkeypatch.setattr(sentry, "capture_message", lambda text, **tags: messages.append(text))
        return messages

    def test_health_is_critical_if_no_salon_is_paired(self, client: FlaskClient) -> None:
        response = client.get("/health/whatsapp")
        assert (response.status_code, response.json["status"]) == (503, "critical")
        assert response.json["recommendation"].startswith("No salon is paired")

    def test_the_document_contains_counts_thresholds_and_remedies(
        self, client: FlaskClient, own: Settings, desk: Frontdesk
    ) -> None:
        desk.company(SALON).whatsapp.set_creds({}, None).unwrap()
        fill(own, "device-list", 100, expired=1)
        fill(own, "pre-key", 600, expired=100)
        response = client.get("/health/whatsapp")
        assert response.status_code == 200
        document = response.json
        assert (document["status"], document["auth_records"]) == ("warning", 1)
        assert (document["total_keys"], document["expired_keys"]) == (700, 100)
        assert document["thresholds"] == {"warning": 100, "critical": 250}
        assert document["keys_by_type"]["pre-key"] == {"total": 600, "expired": 0}
        assert document["attention"][0]["reasons"] == ["100 expired keys"]
        assert "cleanup --company 1" in document["recommendation"]
        assert document["last_check"].endswith("Z")
        one = client.get("/health/whatsapp?company_id=1").json
        assert (one["status"], one["total_keys"], one["company_id"]) == ("warning", 700, SALON)

    def test_the_overall_level_is_that_of_the_worst_salon(
        self, client: FlaskClient, own: Settings, desk: Frontdesk
    ) -> None:
        for company in (SALON, OTHER):
            desk.company(company).whatsapp.set_creds({}, None).unwrap()
            fill(own, "session", 20, expired=None, company=company)
        fill(own, "device-list", 250, expired=1, company=OTHER)
        assert client.get("/health/whatsapp").status_code == 503
        assert client.get("/health/whatsapp?company_id=1").status_code == 200
        assert client.get("/health/whatsapp?company_id=2").status_code == 503
        assert client.get("/health/ready").status_code == 200

    @pytest.mark.parametrize(
        ("company", "status"),
        [("abc", 400), ("", 400), ("-1", 400), ("1.0", 400), ("9" * 6000, 400), ("77", 404), ("１", 400)],
    )
    def test_an_invalid_or_unknown_company_is_refused(
        self, client: FlaskClient, company: str, status: int
    ) -> None:
        assert client.get("/health/whatsapp", query_string={"company_id": company}).status_code == status

    def test_without_a_token_the_response_contains_only_the_status(
        self, own: Settings, desk: Frontdesk
    ) -> None:
        guarded = own.model_copy(update={"health_token": SecretStr("t")})
        with Frontdesk(guarded) as desk_:
            client = create_app(desk_).test_client()
            assert client.get("/health/whatsapp").json == {"status": "critical"}
            headers = {"Authorization": "Bearer t"}
            assert "total_keys" in client.get("/health/whatsapp", headers=headers).json

    def test_an_unreachable_database_is_reported_without_its_address(
        self, own: Settings, desk: Frontdesk
    ) -> None:
        nowhere = SecretStr("postgresql://postgres@127.0.0.1:1/nowhere")
        with Frontdesk(own.model_copy(update={"database_url": nowhere})) as gone:
            response = create_app(gone).test_client().get("/health/whatsapp")
        assert (response.status_code, response.json["code"]) == (503, "unavailable")
        assert "127.0.0.1" not in response.text

    def test_each_critical_episode_is_reported_once(
        self, own: Settings, desk: Frontdesk, messages: list[str]
    ) -> None:
        fill(own, "session", 20, expired=None)
        for _ in range(2):
            check_health(desk.database, own)
        assert messages == ["The WhatsApp session of company 1 is critical: no credentials"]
        desk.company(SALON).whatsapp.set_creds({}, None).unwrap()
        assert check_health(desk.database, own).level is Severity.HEALTHY
        run(own, "DELETE FROM whatsapp_auth")
        check_health(desk.database, own)
        assert len(messages) == 2

    def test_concurrent_checks_report_an_episode_once(
        self, own: Settings, desk: Frontdesk, messages: list[str]
    ) -> None:
        fill(own, "session", 20, expired=None)
        threads = [threading.Thread(target=check_health, args=(desk.database, own)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(messages) == 1

    def test_a_drop_in_the_number_of_sessions_is_a_problem(self, own: Settings, desk: Frontdesk) -> None:
        store = desk.company(SALON).whatsapp
        store.set_creds({}, None).unwrap()
        store.set_keys({"session": {str(number): 1 for number in range(20)}}).unwrap()
        store.set_keys({"session": {str(number): None for number in range(15)}}).unwrap()
        (problem,) = check_health(desk.database, own).salons[SALON].problems
        assert problem.reason == "5 sessions, down from 20"

    def test_a_salon_that_has_logged_out_is_ignored(self, own: Settings, desk: Frontdesk) -> None:
        for company in (SALON, OTHER):
            desk.company(company).whatsapp.set_creds({}, None).unwrap()
        desk.company(OTHER).whatsapp.delete_session().unwrap()
        assert check_health(desk.database, own).level is Severity.HEALTHY


class TestCommands:
    def test_status_prints_the_reasons_and_exits_with_1_if_critical(
        self, own: Settings, desk: Frontdesk
    ) -> None:
        desk.company(SALON).whatsapp.set_creds({}, None).unwrap()
        fill(own, "device-list", 300, expired=1)
        shown = frontdesk("status")
        assert shown.exit_code == 1
        assert "300 expired keys" in shown.output
        assert json.loads(frontdesk("status", "--company", "1", "--json").output)["status"] == "critical"
        assert frontdesk("status", "--company", "77").exit_code == 3

    def test_cleanup_prints_the_number_of_deleted_keys(self, own: Settings, desk: Frontdesk) -> None:
        fill(own, "device-list", 3, expired=10)
        assert json.loads(frontdesk("cleanup", "--dry-run", "--json").output)["due"] == 3
        assert "3 keys deleted" in frontdesk("cleanup").output
        assert frontdesk("cleanup", "--company", "77").exit_code == 3
        assert frontdesk("cleanup", "--company", "abc").exit_code == 2

    def test_forget_deletes_a_session(self, own: Settings, desk: Frontdesk) -> None:
        desk.company(SALON).whatsapp.set_keys({"session": {"a": 1}}).unwrap()
        dry = json.loads(frontdesk("forget", "--company", "1", "--dry-run", "--json").output)
        assert dry == {"dry_run": True, "credentials": 0, "keys": 1}
        assert "1 keys deleted" in frontdesk("forget", "--company", "1").output
        assert left(own) == {}
        assert frontdesk("forget", "--company", "77").exit_code == 3

    def test_rotate_keys_needs_a_key(self, own: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        assert frontdesk("rotate-keys").exit_code == 2
        monkeypatch.setenv("WHATSAPP_ENCRYPTION_KEYS", Fernet.generate_key().decode())
        assert frontdesk("rotate-keys").exit_code == 0


class TestImport:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        (tmp_path / "creds.json").write_text('{"noiseKey": {"type": "Buffer", "data": "AQID"}}')
        (tmp_path / "pre-key-1.json").write_text('{"private": {"type": "Buffer", "data": "AQID"}}')
        (tmp_path / "sender-key-1@g.us--79680000001--0.json").write_text('{"0": 1}')
        (tmp_path / "app-state-sync-key-AA__B.json").write_text('{"keyData": "AQID"}')
        return tmp_path

    def test_a_folder_of_baileys_is_imported_once(self, own: Settings, desk: Frontdesk, folder: Path) -> None:
        arguments = ("import", "--company", "1", str(folder))
        assert frontdesk(*arguments, "--dry-run").exit_code == 0
        store = desk.company(SALON).whatsapp
        assert store.get_creds().unwrap() is None
        assert frontdesk(*arguments).exit_code == 0
        creds = store.get_creds().unwrap()
        assert creds is not None
        assert creds.creds == {"noiseKey": {"type": "Buffer", "data": "AQID"}}
        assert store.get_keys("sender-key", ["1@g.us::79680000001::0"]).unwrap() != {}
        assert store.get_keys("app-state-sync-key", ["AA/B"]).unwrap() != {}
        again = frontdesk(*arguments)
        assert (again.exit_code, "already has a session" in again.output) == (1, True)

    def test_an_unreadable_value_is_skipped_and_reported_without_its_phone(
        self, own: Settings, desk: Frontdesk, folder: Path
    ) -> None:
        (folder / "session-79680000001.0.json").write_text("{")
        done = frontdesk("import", "--company", "1", str(folder))
        assert (done.exit_code, "1 keys of type session cannot be read" in done.output) == (1, True)
        assert "7968" not in done.output

    @pytest.mark.parametrize("creds", [None, "", "[]", "{"])
    def test_a_folder_without_credentials_is_refused(
        self, own: Settings, desk: Frontdesk, folder: Path, creds: str | None
    ) -> None:
        (folder / "creds.json").unlink()
        if creds is not None:
            (folder / "creds.json").write_text(creds)
        assert frontdesk("import", "--company", "1", str(folder)).exit_code == 2
        assert left(own) == {}

    def test_the_tables_of_the_legacy_system_are_imported(
        self, own: Settings, desk: Frontdesk, new_database: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        legacy = new_database()
        with psycopg.connect(legacy, autocommit=True) as connection:
            connection.execute("DROP TABLE whatsapp_states, whatsapp_auth, whatsapp_keys")
            connection.execute("CREATE TABLE whatsapp_auth (company_id VARCHAR(64), creds JSONB)")
            connection.execute(
                "CREATE TABLE whatsapp_keys (company_id VARCHAR(64), key_type TEXT, key_id TEXT, value JSONB)"
            )
            connection.execute(
                'INSERT INTO whatsapp_auth VALUES (\'01\', \'{"k": {"type": "Buffer", "data": [1]}}\'),'
                " ('none', '{}'), ('77', '{}')"
            )
            connection.execute("INSERT INTO whatsapp_keys VALUES ('1', 'session', 'a', '{\"0\": 1}')")
        assert frontdesk("import", "--legacy").exit_code == 2
        monkeypatch.setenv("LEGACY_DATABASE_URL", legacy)
        done = frontdesk("import", "--legacy", "--json")
        errors = {each["company_id"]: each["error"] for each in json.loads(done.output)["sessions"]}
        assert errors[1] is None
        assert "unknown" in errors[77]
        creds = desk.company(SALON).whatsapp.get_creds().unwrap()
        assert creds is not None
        assert creds.creds == {"k": {"type": "Buffer", "data": "AQ=="}}
        assert desk.company(SALON).whatsapp.get_keys("session", ["a"]).unwrap() == {
            "a": {"type": "Buffer", "data": "AQ=="}
        }
