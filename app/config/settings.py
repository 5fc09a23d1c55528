"""Settings. Only this module reads environment variables; all settings are validated together at start."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cryptography.fernet import Fernet
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from app.config.database_urls import is_remote_without_verification, name_same_database, validate_database_url
from app.config.secret_files import SecretFiles, UnreadableSecret
from app.errors import ConfigurationError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
EMBEDDED_DATA_DIRECTORY = PROJECT_ROOT / ".frontdesk"
DEVELOPMENT_BACKUP_DIRECTORY = EMBEDDED_DATA_DIRECTORY / "backups"

# PostgreSQL stores timeouts as 32-bit integers.
Milliseconds = Annotated[int, Field(gt=0, le=2**31 - 1)]

_MAX_DAYS = 100 * 366  # longer durations would exceed the range of dates

# The first setting of each pair must not be greater than the second.
_ORDERED = (
    ("postgres_min_connections", "postgres_max_connections"),
    ("whatsapp_expired_warning", "whatsapp_expired_critical"),
    ("whatsapp_silent_warning", "whatsapp_silent_critical"),
)


@dataclass(frozen=True)
class UnsafeSetting:
    """A setting that is valid but unsafe in production."""

    setting: str
    reason: str
    remedy: str


class Settings(BaseSettings):
    """The settings. Durations are in milliseconds unless the name says another unit.

    The value of a setting comes from the first of these sources that has it: arguments, the environment,
    `.env` (in development only), files in `SECRETS_DIR` named like the variables in lower case. Secrets are
    `SecretStr`, so that no repr, log or error shows them.
    """

    model_config = SettingsConfigDict(
        case_sensitive=False, env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    database_url: SecretStr | None = None
    legacy_database_url: SecretStr | None = None
    transfer_pin: Literal["legacy", "primary"] | None = None
    transfer_capture: bool = True
    transfer_compare_reads: float = Field(0, ge=0, le=1)
    direct_database_url: SecretStr | None = None
    environment: Literal["development", "test", "production"] = "development"
    service_name: str = Field("frontdesk", min_length=1, max_length=63, pattern=r"^[\w.-]+$")
    service_count: int = Field(7, ge=1, le=10_000)
    web_concurrency: int = Field(1, ge=1, le=1000)
    postgres_max_connections: int = Field(3, ge=1, le=1000)
    postgres_min_connections: int = Field(1, ge=0)
    postgres_connection_timeout: Milliseconds = 10_000
    postgres_idle_timeout: Milliseconds = 30_000
    postgres_max_lifetime: Milliseconds = 3_600_000
    postgres_statement_timeout: Milliseconds = 30_000
    postgres_lock_timeout: Milliseconds = 30_000
    postgres_query_timeout: Milliseconds = 60_000
    postgres_pooler: Literal["transaction"] | None = None
    sentry_dsn: SecretStr | None = None
    sentry_enabled: bool = True
    sentry_traces_sample_rate: float = Field(0.1, ge=0, le=1)
    release: str | None = None
    health_token: SecretStr | None = None
    whatsapp_encryption_keys: SecretStr | None = None
    whatsapp_api_token: SecretStr | None = None
    whatsapp_retention: Literal["safe", "classic"] = "safe"
    whatsapp_retention_days: Annotated[dict[str, int | None], NoDecode] = {}
    whatsapp_expired_warning: int = Field(100, ge=1)
    whatsapp_expired_critical: int = Field(250, ge=1)
    whatsapp_expired_percent: int = Field(50, ge=1, le=100)
    whatsapp_min_sessions: int = Field(10, ge=0)
    whatsapp_silent_warning: int = Field(24, ge=1, le=24 * _MAX_DAYS)
    whatsapp_silent_critical: int = Field(48, ge=1, le=24 * _MAX_DAYS)
    backup_address: SecretStr | None = None
    backup_max_hours: int = Field(26, ge=1, le=24 * _MAX_DAYS)
    backup_drill_max_days: int = Field(35, ge=1, le=_MAX_DAYS)
    yclients_base_url: str = Field("https://api.yclients.com/api/v1", pattern=r"^https?://")
    yclients_partner_token: SecretStr | None = None
    yclients_user_token: SecretStr | None = None
    yclients_webhook_secret: SecretStr | None = None
    test_phones: Annotated[tuple[str, ...], NoDecode] = Field((), repr=False)  # in E.164 after validation

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        files = SecretFiles(settings_cls, getattr(file_secret_settings, "secrets_dir", None))
        return init_settings, env_settings, dotenv_settings, files

    @field_validator("database_url", "legacy_database_url", "direct_database_url")
    @classmethod
    def _validate_database_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        return SecretStr(validate_database_url(value.get_secret_value()))

    @field_validator("health_token", "whatsapp_api_token", "yclients_webhook_secret")
    @classmethod
    def _validate_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        text = value.get_secret_value()
        if not text or text != text.strip() or not text.isprintable():
            raise PydanticCustomError(
                "token", "is empty, has spaces at its start or end, or has more than one line"
            )
        return value

    @field_validator("whatsapp_encryption_keys")
    @classmethod
    def _validate_fernet_keys(cls, value: SecretStr | None) -> SecretStr | None:
        for number, key in enumerate(value.get_secret_value().split(",") if value else (), 1):
            try:
                Fernet(key.strip())
            except ValueError:
                raise PydanticCustomError(
                    "fernet_key", "key {number} is not a Fernet key", {"number": number}
                ) from None
        return value

    @field_validator("whatsapp_retention_days", mode="before")
    @classmethod
    def _parse_retention_days(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        days: dict[str, int | None] = {}
        for entry in value.split(","):
            match = re.fullmatch(r"\s*([\w-]+)\s*=\s*(?:(\d{1,4})|never)\s*", entry)
            if match is None:
                raise PydanticCustomError("days", "must be like device-list=30,tctoken=never (in days)")
            days[match[1]] = int(match[2]) if match[2] else None
        return days

    @field_validator("test_phones", mode="before")
    @classmethod
    def _parse_test_phones(cls, value: Any) -> Any:
        from app.phones import to_e164  # imported here because loading takes long and few commands need it

        phones = []
        given = value.split(",") if isinstance(value, str) else value
        for number, text in enumerate(given, 1):
            try:
                phones.append(to_e164(text.strip()))
            except ValueError:
                raise PydanticCustomError(
                    "phone", "phone number {number} is invalid", {"number": number}
                ) from None
        return tuple(dict.fromkeys(phones))

    @model_validator(mode="wrap")
    @classmethod
    def _validate_all(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Check each field and the rules across fields together, so that one error lists all problems."""
        given = values if isinstance(values, dict) else {}
        problems: list[InitErrorDetails] = [
            {"type": PydanticCustomError("setting", value.reason), "loc": (field,), "input": None}
            for field, value in given.items()
            if isinstance(value, UnreadableSecret)
        ]
        settings = None
        try:
            settings = handler(
                {field: value for field, value in values.items() if not isinstance(value, UnreadableSecret)}
                if isinstance(values, dict)
                else values
            )
        except ValidationError as error:
            problems += [
                {
                    "type": PydanticCustomError("setting", "{reason}", {"reason": detail["msg"]}),
                    "loc": detail["loc"],
                    "input": None,
                }
                for detail in error.errors(include_url=False, include_context=False, include_input=False)
            ]
        for field, reason in _cross_field_problems(given):
            problems.append({"type": PydanticCustomError("setting", reason), "loc": (field,), "input": None})
        if problems or settings is None:
            raise ValidationError.from_exception_data(cls.__name__, problems, hide_input=True)
        return settings

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Read the settings from the environment. `overrides` take precedence.

        Raises ConfigurationError, which lists all invalid variables but not their values.
        """
        environment = os.environ.get("ENVIRONMENT") or "development"
        secrets = os.environ.get("SECRETS_DIR") or None
        if secrets and not Path(secrets).is_dir():
            raise ConfigurationError("SECRETS_DIR: is not a directory")
        try:
            return cls(
                _env_file=".env" if environment == "development" else None,
                _secrets_dir=secrets,
                **overrides,
            )
        except ValidationError as error:
            lines = [
                f"{'.'.join(map(str, detail['loc'])).upper() or 'SETTINGS'}: {detail['msg']}"
                for detail in error.errors(include_url=False, include_context=False, include_input=False)
            ]
            raise ConfigurationError("\n".join(["The configuration is wrong:", *lines])) from None

    @property
    def is_production(self) -> bool:
        return self.environment == "production"

    def warnings(self) -> list[UnsafeSetting]:
        """Return the settings that are unsafe in production but do not prevent a start."""
        if not self.is_production:
            return []
        unsafe = [
            UnsafeSetting(
                name.upper(),
                "the database is on another host, and its certificate is not verified",
                "Add sslmode=verify-full (and sslrootcert=system, or the provider's certificate) to the URL.",
            )
            for name in ("database_url", "direct_database_url", "legacy_database_url")
            if (url := getattr(self, name)) is not None
            and is_remote_without_verification(url.get_secret_value())
        ]
        if self.whatsapp_encryption_keys is None:
            unsafe.append(
                UnsafeSetting(
                    "WHATSAPP_ENCRYPTION_KEYS",
                    "WhatsApp keys are stored unencrypted",
                    "Set a key, and encrypt what is stored with `frontdesk whatsapp rotate-keys`.",
                )
            )
        if self.health_token is None:
            unsafe.append(
                UnsafeSetting(
                    "HEALTH_TOKEN", "the health API shows its details without authentication", "Set a token."
                )
            )
        return unsafe

    def backup_storage(self) -> str:
        """Return the directory or fsspec URL of the backups. The URL may contain a password.

        Raises ConfigurationError if it is not configured.
        """
        if self.backup_address is not None:
            return self.backup_address.get_secret_value()
        if self.environment == "development":
            return str(DEVELOPMENT_BACKUP_DIRECTORY)
        raise ConfigurationError(
            "The storage of the backups is not configured: set BACKUP_ADDRESS, or pass --at."
        )


def subprocess_environment(extra: dict[str, str]) -> dict[str, str]:
    """Return the environment for a subprocess: this process's environment and `extra`."""
    return {**os.environ, **extra}


def _cross_field_problems(given: dict[str, Any]) -> list[tuple[str, str]]:
    """Check the rules across settings on the raw values; return (setting, problem) pairs."""
    problems = []
    if given.get("environment") == "production":
        if not given.get("database_url"):
            problems.append(("database_url", "is required in production"))
        if not given.get("sentry_dsn") and not _is_off(given.get("sentry_enabled", True)):
            problems.append(("sentry_dsn", "is required in production unless SENTRY_ENABLED=false"))
    problems += _transfer_problems(given)
    if given.get("postgres_pooler") and not given.get("direct_database_url"):
        problems.append(("direct_database_url", "is required with POSTGRES_POOLER, for migrations and locks"))
    for low, high in _ORDERED:
        try:
            wrong = int(given.get(low, _default(low))) > int(given.get(high, _default(high)))
        except (TypeError, ValueError):
            continue  # the validation of the field reports that it is not a number
        if wrong:
            problems.append((low, f"is greater than {high.upper()}"))
    return problems


def _transfer_problems(given: dict[str, Any]) -> list[tuple[str, str]]:
    """Check the rules for a transfer, which has two databases; return (setting, problem) pairs."""
    legacy = given.get("legacy_database_url")
    pinned = bool(given.get("transfer_pin"))
    is_uncaptured = _is_off(given.get("transfer_capture", True))
    compares = str(given.get("transfer_compare_reads") or "0").strip("0.") != ""
    options = {"transfer_pin": pinned, "transfer_capture": is_uncaptured, "transfer_compare_reads": compares}
    if not legacy:
        reason = "requires LEGACY_DATABASE_URL: without it there is only one database and no transfer"
        return [(name, reason) for name, is_set in options.items() if is_set]
    problems = []
    if name_same_database(legacy, given.get("database_url")):
        problems.append(("legacy_database_url", "is the same database as DATABASE_URL"))
    if compares and pinned:
        reason = "cannot be used with TRANSFER_PIN: a pinned process does not read from the other side"
        problems.append(("transfer_compare_reads", reason))
    if compares and is_uncaptured:
        reason = "cannot be used with TRANSFER_CAPTURE=off: the standby receives no changes, so reads differ"
        problems.append(("transfer_compare_reads", reason))
    return problems


def _is_off(value: Any) -> bool:
    return str(value).lower() in ("false", "0", "no", "off", "f", "n")


def _default(name: str) -> Any:
    return Settings.model_fields[name].default
