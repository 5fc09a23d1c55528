"""WhatsApp rules that need no database: retention, encryption, health levels, names of key files."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.fernet import Fernet
from pydantic import SecretStr, ValidationError

from app.config import Settings
from app.observability.severity import Severity
from app.repositories.whatsapp_all_companies import SessionState
from app.whatsapp.encryption import Cipher
from app.whatsapp.errors import UnreadableValueError
from app.whatsapp.health import SalonHealth, Thresholds, assess_session
from app.whatsapp.import_folder import parse_key_name
from app.whatsapp.retention import Retention
from app.whatsapp.session_store import KeyTypeStatistics

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
NEVER = ("pre-key", "identity-key", "app-state-sync-key", "app-state-sync-version", "lid-mapping", "session")


def settings(**fields: Any) -> Settings:
    return Settings(database_url="postgresql://localhost/none", **fields)


class TestRetention:
    @pytest.mark.parametrize(
        ("key_type", "days"),
        [
            *((name, None) for name in (*NEVER, "sender-key", "unknown-type")),
            *(("tctoken", 28), ("device-list", 14), ("sender-key-memory", 14)),
        ],
    )
    def test_the_default_profile_is_safe(self, key_type: str, days: int | None) -> None:
        retention = Retention.from_settings(settings())
        expected = None if days is None else NOW + timedelta(days=days)
        assert retention.expires_at(key_type, NOW) == expected

    @pytest.mark.parametrize(
        ("key_type", "days"),
        [
            ("lid-mapping", 7),
            ("pre-key", 7),
            ("session", 7),
            ("identity-key", 14),
            ("tctoken", 14),
            ("x", 14),
        ],
    )
    def test_the_classic_profile_has_the_durations_of_the_legacy_system(
        self, key_type: str, days: int
    ) -> None:
        assert Retention.from_settings(settings(whatsapp_retention="classic")).days(key_type) == days

    def test_a_setting_overrides_single_types(self) -> None:
        retention = Retention.from_settings(
            settings(whatsapp_retention_days="device-list=30, tctoken = never,x=1")
        )
        assert [retention.days(name) for name in ("device-list", "tctoken", "x", "sender-key-memory")] == [
            30,
            None,
            1,
            14,
        ]

    @pytest.mark.parametrize("table", ["device-list", "device-list=", "a=-1", "a=1 b=2", "a=soon", "=1", ","])
    def test_an_invalid_override_is_refused_with_the_name_of_the_setting(self, table: str) -> None:
        with pytest.raises(ValidationError, match="whatsapp_retention_days"):
            settings(whatsapp_retention_days=table)

    @pytest.mark.parametrize("profile", ["safe", "classic"])
    def test_protected_types_are_deleted_only_if_requested(self, profile: Any) -> None:
        retention = Retention.from_settings(settings(whatsapp_retention=profile))
        for key_type in (*NEVER, "sender-key"):
            assert not retention.is_deletable(key_type, frozenset())
            assert not retention.is_deletable(key_type, frozenset({"device-list"}))
            assert retention.is_deletable(key_type, frozenset({key_type}))
        assert retention.is_deletable("device-list", frozenset())


class TestEncryption:
    def test_the_first_key_encrypts_and_all_keys_decrypt(self) -> None:
        old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
        stored = Cipher([old]).encrypt(b"{}")
        assert stored != b"{}"
        assert Cipher([new, old]).decrypt(stored) == b"{}"
        assert not Cipher([new, old]).is_current(stored)
        assert Cipher([new, old]).is_current(Cipher([new, old]).encrypt(b"{}"))
        with pytest.raises(UnreadableValueError):
            Cipher([new]).decrypt(stored)
        with pytest.raises(UnreadableValueError):
            Cipher([]).decrypt(stored)

    def test_unencrypted_values_stay_readable(self) -> None:
        assert Cipher([Fernet.generate_key().decode()]).decrypt(b'{"a":1}') == b'{"a":1}'

    def test_spaces_around_keys_in_the_setting_are_ignored(self) -> None:
        keys = [Fernet.generate_key().decode() for _ in range(2)]
        cipher = Cipher.from_settings(settings(whatsapp_encryption_keys=SecretStr(f" {keys[0]} , {keys[1]}")))
        assert cipher.is_current(Cipher(keys).encrypt(b"1"))
        assert Cipher.from_settings(settings()).is_disabled


def salon(
    total: int = 1000,
    expired: int = 0,
    sessions: int = 50,
    hours: float = 1,
    paired: bool = True,
    **known: Any,
) -> SalonHealth:
    last = NOW - timedelta(hours=hours)
    fields = {"owner": None, "contested_at": None, "contested_by": None, "most_sessions": 50}
    keys = {
        "session": KeyTypeStatistics(sessions, 0),
        "device-list": KeyTypeStatistics(total - sessions, expired),
    }
    state = SessionState(1, last if paired else None, critical_since=None, **{**fields, **known})
    return assess_session(state, keys, last, Thresholds.from_settings(settings()), NOW)


class TestHealthLevels:
    @pytest.mark.parametrize(
        ("changes", "level", "reason"),
        [
            ({}, Severity.HEALTHY, None),
            ({"paired": False}, Severity.CRITICAL, "no credentials"),
            ({"expired": 99}, Severity.HEALTHY, None),
            ({"expired": 100}, Severity.WARNING, "100 expired keys"),
            ({"expired": 249}, Severity.WARNING, "249 expired keys"),
            ({"expired": 250}, Severity.CRITICAL, "250 expired keys"),
            ({"total": 120, "expired": 60}, Severity.HEALTHY, None),
            ({"total": 120, "expired": 61}, Severity.WARNING, "61 of 120 keys are expired"),
            ({"sessions": 9}, Severity.WARNING, "9 sessions, down from 50"),
            ({"sessions": 10}, Severity.HEALTHY, None),
            ({"sessions": 9, "most_sessions": 9}, Severity.HEALTHY, None),
            ({"hours": 23.9}, Severity.HEALTHY, None),
            ({"hours": 24}, Severity.WARNING, "no key written for 24 hours"),
            ({"hours": 48}, Severity.CRITICAL, "no key written for 48 hours"),
            ({"contested_at": NOW, "owner": "a", "contested_by": "b"}, Severity.WARNING, "two workers hold"),
            ({"contested_at": NOW - timedelta(hours=2)}, Severity.HEALTHY, None),
        ],
        ids=str,
    )
    def test_thresholds_determine_level_and_reason(
        self, changes: dict[str, Any], level: Severity, reason: str | None
    ) -> None:
        found = salon(**changes)
        assert found.level is level
        assert (reason or "") in " ".join(found.as_dict()["reasons"])
        assert bool(found.problems) == (level is not Severity.HEALTHY)
        assert found.as_dict()["recommendation"]

    def test_thresholds_come_from_the_settings(self) -> None:
        limits = Thresholds.from_settings(settings(whatsapp_expired_warning=5, whatsapp_silent_critical=100))
        assert (limits.expired_warning, limits.silent_critical) == (5, 100)

    def test_a_warning_threshold_above_the_critical_one_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="greater than WHATSAPP_EXPIRED_CRITICAL"):
            settings(whatsapp_expired_warning=300)


@pytest.mark.parametrize(
    ("stem", "key"),
    [
        ("pre-key-12", ("pre-key", "12")),
        ("session-79680000001.0", ("session", "79680000001.0")),
        ("session-79680000001_1.12", ("session", "79680000001_1.12")),
        ("sender-key-12-34@g.us--79680000001_1--5", ("sender-key", "12-34@g.us::79680000001_1::5")),
        ("sender-key-memory-12-34@g.us", ("sender-key-memory", "12-34@g.us")),
        ("app-state-sync-key-AAAA__+A=", ("app-state-sync-key", "AAAA/+A=")),
        ("app-state-sync-version-critical_block", ("app-state-sync-version", "critical_block")),
        ("lid-mapping-123_reverse", ("lid-mapping", "123_reverse")),
        ("device-list-7968", ("device-list", "7968")),
        ("tctoken-7968@lid", ("tctoken", "7968@lid")),
        ("tctoken-7968-3@s.whatsapp.net", ("tctoken", "7968:3@s.whatsapp.net")),
        ("identity-key-7968.0", ("identity-key", "7968.0")),
        ("creds", None),
        ("package", None),
    ],
)
def test_file_names_of_baileys_are_parsed(stem: str, key: tuple[str, str] | None) -> None:
    assert parse_key_name(stem) == key
