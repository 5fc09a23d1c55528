"""The session store on a real database: versions, atomic writes, lock order, leases, encryption."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr

from app import Frontdesk, Settings
from app.errors import UnknownCompanyError
from app.frontdesk import Salon
from app.whatsapp import key_rotation
from app.whatsapp.errors import SessionHeldError, StaleCredentialsError, UnreadableValueError

ARRAY = {"type": "Buffer", "data": [1, 2, 3]}
BASE64 = {"type": "Buffer", "data": "AQID"}


def run(settings: Settings, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    assert settings.database_url is not None
    with psycopg.connect(settings.database_url.get_secret_value(), autocommit=True) as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def insert(settings: Settings, company_id: int, key_type: str, key_id: str, value: str) -> None:
    statement = "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value) VALUES (%s, %s, %s, %s)"
    run(settings, statement, company_id, key_type, key_id, value.encode())


class TestCredentials:
    def test_of_concurrent_writes_based_on_one_version_one_succeeds(self, salon: Salon) -> None:
        store = salon.whatsapp
        assert store.set_creds({"n": 0}, None).unwrap() == 1
        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(lambda n: store.set_creds({"n": n}, 1), range(1, 9)))
        (winner,) = [result for result in results if result.success]
        losers = [result.error for result in results if not result.success]
        assert winner.data == 2
        assert [type(error) for error in losers] == [StaleCredentialsError] * 7

    def test_of_concurrent_first_writes_one_succeeds(self, salon: Salon) -> None:
        with ThreadPoolExecutor(8) as threads:
            results = list(threads.map(lambda n: salon.whatsapp.set_creds({"n": n}, None), range(8)))
        assert sorted(result.success for result in results) == [False] * 7 + [True]

    def test_the_repr_hides_the_values(self, salon: Salon) -> None:
        salon.whatsapp.set_creds({"advSecretKey": "hush"}, None).unwrap()
        assert "hush" not in repr(salon.whatsapp.get_creds())


class TestKeys:
    def test_rows_of_the_legacy_system_are_readable(self, salon: Salon, settings: Settings) -> None:
        insert(
            settings, salon.company_id, "session", "a", json.dumps({"s": [ARRAY, {"0": 1, "1": 2, "2": 3}]})
        )
        insert(settings, salon.company_id, "identity-key", "b", '{"0":1,"1":2,"2":3}')
        assert salon.whatsapp.get_keys("session", ["a"]).unwrap() == {"a": {"s": [BASE64, BASE64]}}
        assert salon.whatsapp.get_keys("identity-key", ["b"]).unwrap() == {"b": BASE64}

    def test_an_expired_key_is_returned_until_it_is_deleted(self, salon: Salon, settings: Settings) -> None:
        salon.whatsapp.set_keys({"device-list": {"a": ["0"]}}).unwrap()
        long_ago = "UPDATE whatsapp_keys SET expires_at = now() - interval '1 year' WHERE company_id = %s"
        run(settings, long_ago, salon.company_id)
        assert salon.whatsapp.get_keys("device-list", ["a"]).unwrap() == {"a": ["0"]}

    def test_only_types_that_expire_get_an_expiry(self, salon: Salon, settings: Settings) -> None:
        salon.whatsapp.set_keys({"device-list": {"a": 1}, "session": {"a": 1}, "pre-key": {"1": 1}}).unwrap()
        rows = dict(
            run(
                settings,
                "SELECT key_type, expires_at FROM whatsapp_keys WHERE company_id = %s",
                salon.company_id,
            )
        )
        assert rows["session"] is rows["pre-key"] is None
        assert timedelta(days=13.9) < rows["device-list"] - datetime.now(UTC) < timedelta(days=14.1)

    def test_one_call_stores_all_keys_of_a_pairing(self, salon: Salon) -> None:
        keys = {str(number): {"private": b"\1" * 32, "public": b"\2" * 32} for number in range(812)}
        salon.whatsapp.set_keys({"pre-key": keys}).unwrap()
        assert len(salon.whatsapp.get_keys("pre-key", list(keys)).unwrap()) == 812

    def test_a_call_with_an_invalid_value_stores_nothing(self, salon: Salon) -> None:
        result = salon.whatsapp.set_keys({"a": {"1": 1}, "b": {"1": float("nan")}})
        assert result.error is not None
        assert result.error.code == "invalid"
        assert salon.whatsapp.get_keys("a", ["1"]).unwrap() == {}

    def test_concurrent_writes_and_deletions_of_the_same_keys_succeed(self, salon: Salon) -> None:
        def flip(number: int) -> bool:
            even = {str(key): None if key % 2 else number for key in range(20)}
            odd = {str(key): number if key % 2 else None for key in range(20)}
            first, second = (even, odd) if number % 2 else (odd, even)
            return salon.whatsapp.set_keys({"session": first, "pre-key": second}).success

        with ThreadPoolExecutor(6) as threads:
            assert all(threads.map(flip, range(60)))
        even = salon.whatsapp.get_keys("session", [str(key) for key in range(20)]).unwrap()
        assert len(even) == 10
        assert len(set(even.values())) == 1, "each write is atomic"

    def test_companies_are_isolated(self, salon: Salon, new_company: Callable[..., Salon]) -> None:
        other = new_company()
        for each, value in ((salon, 1), (other, 2)):
            each.whatsapp.set_keys({"session": {"a": value}}).unwrap()
            each.whatsapp.set_creds({"n": value}, None).unwrap()
            each.whatsapp.take_lease("w").unwrap()
        other.whatsapp.delete_session().unwrap()
        assert salon.whatsapp.get_keys("session", ["a"]).unwrap() == {"a": 1}
        assert salon.whatsapp.get_creds().unwrap().creds == {"n": 1}  # type: ignore[union-attr] # it is there
        assert other.whatsapp.get_creds().unwrap() is None
        assert salon.whatsapp.set_keys({"session": {"a": 3}}, "x").error is not None

    def test_every_operation_fails_for_an_unknown_company(self, desk: Frontdesk, company_id: int) -> None:
        store = desk.company(company_id).whatsapp
        results = [
            store.get_creds(),
            store.set_creds({}, None),
            store.set_creds({}, 1),
            store.get_keys("session", ["a"]),
            store.set_keys({"session": {"a": 1}}),
            store.set_keys({"session": {"a": None}}),
            store.set_keys({}),
            store.delete_session(),
            store.take_lease("w"),
            store.import_session({}, {}),
        ]
        assert [type(result.error) for result in results] == [UnknownCompanyError] * len(results)


class TestLease:
    def test_a_write_of_the_previous_owner_fails_and_is_recorded(
        self, salon: Salon, settings: Settings
    ) -> None:
        store = salon.whatsapp
        assert store.take_lease("old").unwrap().taken_from is None
        assert store.take_lease("new").unwrap().taken_from == "old"
        store.set_keys({"session": {"a": 1}}, "new").unwrap()
        assert isinstance(store.set_keys({"session": {"a": 2}}, "old").error, SessionHeldError)
        assert isinstance(store.set_creds({}, None, "old").error, SessionHeldError)
        assert store.get_keys("session", ["a"]).unwrap() == {"a": 1}
        state = "SELECT owner, contested_by, contested_at FROM whatsapp_states WHERE company_id = %s"
        ((owner, contested_by, contested_at),) = run(settings, state, salon.company_id)
        assert (owner, contested_by) == ("new", "old")
        assert contested_at is not None

    def test_a_restarted_worker_causes_no_conflict(self, salon: Salon, settings: Settings) -> None:
        for worker in ("first", "second"):
            salon.whatsapp.take_lease(worker).unwrap()
            salon.whatsapp.set_keys({"session": {"a": 1}}, worker).unwrap()
        state = "SELECT contested_at FROM whatsapp_states WHERE company_id = %s"
        assert run(settings, state, salon.company_id) == [(None,)]

    def test_an_expired_lease_does_not_prevent_writes(self, salon: Salon, settings: Settings) -> None:
        salon.whatsapp.take_lease("gone").unwrap()
        run(
            settings,
            "UPDATE whatsapp_states SET held_until = now() - interval '1 s' WHERE company_id = %s",
            salon.company_id,
        )
        assert salon.whatsapp.set_keys({"session": {"a": 1}}, "next").success

    def test_releasing_the_lease_of_another_worker_changes_nothing(self, salon: Salon) -> None:
        salon.whatsapp.take_lease("holder").unwrap()
        salon.whatsapp.release_lease("other").unwrap()
        assert not salon.whatsapp.set_keys({"session": {"a": 1}}, "third").success

    def test_a_write_without_owner_ignores_the_lease(self, salon: Salon) -> None:
        salon.whatsapp.take_lease("holder").unwrap()
        assert salon.whatsapp.set_keys({"session": {"a": 1}}).success


class TestEncryption:
    OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()

    @pytest.fixture
    def with_keys(self, database_url: str) -> Iterator[Callable[..., Salon]]:
        """Yield a function that opens a salon, in a database of this test, with these encryption keys."""
        desks: list[Frontdesk] = []

        def open_salon(*keys: str) -> Salon:
            secret = SecretStr(",".join(keys)) if keys else None
            desks.append(
                Frontdesk(Settings(database_url=SecretStr(database_url), whatsapp_encryption_keys=secret))
            )
            salon = desks[-1].company(1)
            salon.upsert_company({"title": "Salon"}).unwrap()
            return salon

        yield open_salon
        for desk in desks:
            desk.close()

    @staticmethod
    def settings_of(salon: Salon) -> Settings:
        return salon._uow_factory.database.settings

    def test_stored_values_are_encrypted(self, with_keys: Callable[..., Salon]) -> None:
        salon = with_keys(self.NEW)
        salon.whatsapp.set_creds({"secret": "hush"}, None).unwrap()
        salon.whatsapp.set_keys({"session": {"a": "hush"}}).unwrap()
        stored = run(
            self.settings_of(salon),
            "SELECT creds FROM whatsapp_auth UNION ALL SELECT value FROM whatsapp_keys",
        )
        assert len(stored) == 2
        assert all(b"hush" not in value and value.startswith(b"gAAAAA") for (value,) in stored)
        assert salon.whatsapp.get_keys("session", ["a"]).unwrap() == {"a": "hush"}

    def test_a_value_without_its_encryption_key_is_an_error_and_not_missing(
        self, with_keys: Callable[..., Salon]
    ) -> None:
        with_keys(self.OLD).whatsapp.set_keys({"session": {"a": 1}}).unwrap()
        with_keys(self.OLD).whatsapp.set_creds({}, None).unwrap()
        for other in (with_keys(self.NEW), with_keys()):
            assert isinstance(other.whatsapp.get_keys("session", ["a"]).error, UnreadableValueError)
            assert isinstance(other.whatsapp.get_creds().error, UnreadableValueError)

    def test_rotation_continues_after_an_interruption_and_encrypts_plain_values(
        self, with_keys: Callable[..., Salon], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_keys().whatsapp.set_keys({"session": {str(number): number for number in range(30)}}).unwrap()
        old = with_keys(self.OLD)
        old.whatsapp.set_creds({"n": 1}, None).unwrap()
        old.whatsapp.set_keys({"pre-key": {str(number): number for number in range(30)}}).unwrap()
        both = with_keys(self.NEW, self.OLD)
        settings = self.settings_of(both)
        before = run(settings, "SELECT id, updated_at FROM whatsapp_keys ORDER BY id")
        monkeypatch.setattr(key_rotation, "VALUES_PER_TRANSACTION", 10)

        def stop(done: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            key_rotation.rotate_keys(settings, on_progress=stop)
        assert key_rotation.rotate_keys(settings, dry_run=True).as_dict() == {
            "rotated": 60,
            "current": 1,
            "changed": 0,
            "unreadable": 0,
        }
        assert key_rotation.rotate_keys(settings).rotated == 60
        assert key_rotation.rotate_keys(settings).current == 61
        new = with_keys(self.NEW).whatsapp
        assert new.get_keys("session", ["7"]).unwrap() == {"7": 7}
        assert new.get_keys("pre-key", ["7"]).unwrap() == {"7": 7}
        assert run(settings, "SELECT id, updated_at FROM whatsapp_keys ORDER BY id") == before

    def test_rotation_counts_unreadable_values(self, with_keys: Callable[..., Salon]) -> None:
        with_keys(self.OLD).whatsapp.set_keys({"session": {"a": 1}}).unwrap()
        assert key_rotation.rotate_keys(self.settings_of(with_keys(self.NEW))).unreadable == 1
