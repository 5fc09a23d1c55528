"""Validation of libpq URLs. They contain passwords, so no part of a URL may appear in a log or an error."""

from typing import Any

import psycopg.conninfo
from pydantic import SecretStr
from pydantic_core import PydanticCustomError

_FORM = "is not a PostgreSQL URL like postgresql://user:password@host:5432/name (percent-encode the password)"
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_LARGEST_PORT = 65535
_LOCAL_HOSTS = ("", "localhost", "::1")  # without a host, libpq uses the local socket


def validate_database_url(given: str) -> str:
    """Return the URL in libpq's form. Raises PydanticCustomError if it is invalid."""
    url = _to_libpq_url(given)
    # libpq's reason is not shown, because it quotes the invalid part, which may be the password.
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise PydanticCustomError("database_url", _FORM) from None
    port = str(parts.get("port") or "5432")
    # If a password contains an unencoded @, libpq reads the rest of it as the host, which errors would show.
    has_unencoded_at = "@" in str(parts.get("host", "")).lstrip("@") or "@" in str(parts.get("dbname", ""))
    if has_unencoded_at or not url.startswith(("postgresql://", "postgres://")) or not port.isdecimal():
        raise PydanticCustomError("database_url", _FORM)
    if not 0 < int(port) <= _LARGEST_PORT:
        raise PydanticCustomError("database_url", "has an invalid port (valid: 1 to 65535)")
    if parts.get("sslmode", "prefer") not in _SSL_MODES:
        modes = ", ".join(_SSL_MODES)
        raise PydanticCustomError("database_url", "has an invalid sslmode (valid: {modes})", {"modes": modes})
    return url


def name_same_database(*urls: Any) -> bool:
    """Return True if all URLs name the same database, and False if one of them is invalid."""
    databases = []
    for url in urls:
        text = url.get_secret_value() if isinstance(url, SecretStr) else str(url or "")
        try:
            parts = psycopg.conninfo.conninfo_to_dict(_to_libpq_url(text))
        except psycopg.ProgrammingError:
            return False
        databases.append(
            (parts.get("host"), parts.get("hostaddr"), str(parts.get("port") or 5432), parts.get("dbname"))
        )
    return len(set(databases)) == 1


def is_remote_without_verification(url: str) -> bool:
    """Return True if the server is remote and its identity is not verified (sslmode is not verify-full)."""
    parts = psycopg.conninfo.conninfo_to_dict(url)
    hosts = str(parts.get("host") or parts.get("hostaddr") or "").split(",")
    is_remote = any(not (host.startswith(("/", "@", "127.")) or host in _LOCAL_HOSTS) for host in hosts)
    return is_remote and parts.get("sslmode") != "verify-full"


def _to_libpq_url(url: str) -> str:
    return url.replace("postgresql+psycopg://", "postgresql://", 1)
