"""What libpq's URLs say. They hold passwords: none of it is for a log or an error."""

from typing import Any

import psycopg.conninfo
from pydantic import SecretStr
from pydantic_core import PydanticCustomError

_FORM = "is not a PostgreSQL URL like postgresql://user:password@host:5432/name (percent-encode the password)"
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_LARGEST_PORT = 65535
_LOCAL_HOSTS = ("", "localhost", "::1")  # without a host libpq takes the machine's own socket


def validate_database_url(given: str) -> str:
    """The URL as libpq takes it. Raises PydanticCustomError."""
    url = _plain(given)
    # The reason is dropped on purpose: libpq quotes the part it cannot read, which may be the password.
    try:
        parts = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise PydanticCustomError("database_url", _FORM) from None
    port = str(parts.get("port") or "5432")
    # After an @ in the password that is not encoded, the rest of it is taken for the host, which errors name.
    is_torn = "@" in str(parts.get("host", "")).lstrip("@") or "@" in str(parts.get("dbname", ""))
    if is_torn or not url.startswith(("postgresql://", "postgres://")) or not port.isdecimal():
        raise PydanticCustomError("database_url", _FORM)
    if not 0 < int(port) <= _LARGEST_PORT:
        raise PydanticCustomError("database_url", "names a port that is none (1 to 65535)")
    if parts.get("sslmode", "prefer") not in _SSL_MODES:
        modes = ", ".join(_SSL_MODES)
        raise PydanticCustomError("database_url", "has an sslmode that is none of {modes}", {"modes": modes})
    return url


def name_same_database(*urls: Any) -> bool:
    """Whether the URLs name one database; those that cannot be read are reported by their own check."""
    places = []
    for url in urls:
        text = url.get_secret_value() if isinstance(url, SecretStr) else str(url or "")
        try:
            parts = psycopg.conninfo.conninfo_to_dict(_plain(text))
        except psycopg.ProgrammingError:
            return False
        places.append(
            (parts.get("host"), parts.get("hostaddr"), str(parts.get("port") or 5432), parts.get("dbname"))
        )
    return len(set(places)) == 1


def is_remote_without_verification(url: str) -> bool:
    """Whether the way to the database leaves this machine and somebody on it could pose as the server."""
    parts = psycopg.conninfo.conninfo_to_dict(url)
    hosts = str(parts.get("host") or parts.get("hostaddr") or "").split(",")
    is_remote = any(not (each.startswith(("/", "@", "127.")) or each in _LOCAL_HOSTS) for each in hosts)
    return is_remote and parts.get("sslmode") != "verify-full"


def _plain(url: str) -> str:
    """The URL as libpq takes it."""
    return url.replace("postgresql+psycopg://", "postgresql://", 1)
