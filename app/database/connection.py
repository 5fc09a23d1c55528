"""Connections to PostgreSQL: session settings, and a client-side timeout for unresponsive servers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
import psycopg.conninfo
import psycopg.errors
from psycopg.abc import PQGen

from app.config import Settings
from app.database import embedded_server
from app.database.measured_cursor import MeasuredCursor
from app.errors import ClientDeadlineExceeded

T = TypeVar("T")
Connection = psycopg.Connection[Any]

# Set regardless of the database's encoding and PGCLIENTENCODING: other encodings lack characters that the
# statements contain, and from a database in SQL_ASCII psycopg would return bytes instead of text.
CLIENT_ENCODING = "UTF8"

# With these settings, a network that drops packets is detected within half a minute instead of hours. The
# server needs the same settings: until it detects the loss of a client, it keeps the client's connection,
# transaction and locks.
KEEPALIVES = {
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,  # milliseconds
}
SERVER_KEEPALIVES = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30s",
}

# Session settings that let statements and transactions run as long as they need.
UNLIMITED = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection that times out when the server does not respond.

    A frozen server does not apply `statement_timeout`, and TCP alone waits for minutes. After a timeout the
    outcome of the statement is unknown, so the connection is closed.
    """

    query_timeout: float = 60.0  # seconds

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = MeasuredCursor

    def close(self) -> None:
        """Return a lost connection to its pool; otherwise do what psycopg does.

        psycopg does not return a lost connection to the pool, and the pool would count it as in use
        permanently.
        """
        pool = getattr(self, "_pool", None)
        if pool is not None and self.closed:
            pool.putconn(self)
        else:
            super().close()

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the server, for `timeout` or else `query_timeout` seconds at most.

        Raises ClientDeadlineExceeded, after closing the connection, if the server does not respond in time.
        """
        try:
            return super().wait(gen, interval, self.query_timeout if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:  # psycopg has no public name for this error
            self.pgconn.finish()
            raise ClientDeadlineExceeded("the server did not answer in time") from error


@contextmanager
def query_timeout(seconds: float, connection: Connection) -> Iterator[None]:
    """Set the connection's query timeout for the duration of the `with` block.

    The connection must be a DeadlineConnection.
    """
    assert isinstance(connection, DeadlineConnection)  # noqa: S101 - the pool creates only these
    usual, connection.query_timeout = connection.query_timeout, seconds
    try:
        yield
    finally:
        connection.query_timeout = usual


def connection_class(settings: Settings) -> type[DeadlineConnection]:
    """Return a subclass of DeadlineConnection whose timeout is POSTGRES_QUERY_TIMEOUT."""
    return type(
        "Connection", (DeadlineConnection,), {"query_timeout": settings.postgres_query_timeout / 1000}
    )


def connect(
    url: str,
    application_name: str,
    session: dict[str, str],
    *,
    autocommit: bool = True,
    connect_timeout: int = 130,  # psycopg's default
    connection_type: type[Connection] = psycopg.Connection,
) -> Connection:
    """Open a connection to the server at `url`, not through the pool. The caller closes it.

    `application_name` states the purpose. `session` holds the timeouts and other session settings; without
    statement_timeout there is no transaction_timeout either. The URL's parameters override `connect_timeout`,
    in seconds. Raises psycopg's errors.
    """
    parameters = _parameters(url, application_name, connect_timeout)
    parameters["options"] = _connection_options(url, session)
    connection = connection_type.connect(**parameters, autocommit=autocommit)
    # PostgreSQL has transaction_timeout since version 17. Not a connection option, because older servers
    # refuse a connection with an unknown option.
    if session["statement_timeout"] == "0" and connection.info.server_version >= 170_000:
        connection.execute("SET transaction_timeout = 0")
        connection.commit()  # otherwise the first rollback reverts the setting
    return connection


def connect_directly(settings: Settings) -> Connection:
    """Open a connection to the server itself, not through a pooler, with the session settings of the pool.

    For session locks and long-running work; in autocommit mode. The caller closes the connection. Raises
    psycopg's errors.
    """
    return connect(
        embedded_server.resolve_migration_url(settings),
        settings.service_name,
        session_settings(settings),
        connect_timeout=connect_timeout(settings),
        connection_type=connection_class(settings),
    )


def connect_timeout(settings: Settings) -> int:
    """Return POSTGRES_CONNECTION_TIMEOUT in seconds; libpq allows at least two."""
    return max(2, settings.postgres_connection_timeout // 1000)


def connection_parameters(settings: Settings, url: str) -> dict[str, Any]:
    """Return keyword arguments for `psycopg.connect`: the URL's parameters and the session's settings.

    The settings are sent as connection options, which cost no round trip. A pooler in transaction mode
    supports neither connection options nor prepared statements; with a pooler, every transaction therefore
    begins with `set_transaction_settings`.
    """
    parameters = _parameters(url, settings.service_name, connect_timeout(settings))
    if settings.postgres_pooler:
        return parameters | {"prepare_threshold": None}
    return parameters | {"options": _connection_options(url, session_settings(settings))}


def _parameters(url: str, application_name: str, connect_timeout: int) -> dict[str, Any]:
    given = {"connect_timeout": connect_timeout} | psycopg.conninfo.conninfo_to_dict(url)
    return KEEPALIVES | given | {"application_name": application_name, "client_encoding": CLIENT_ENCODING}


def _connection_options(url: str, session: dict[str, str]) -> str:
    """Return the connection options of the URL (such as `-c search_path=salons`) and then the settings."""
    given = psycopg.conninfo.conninfo_to_dict(url).get("options") or ""
    options = " ".join(f"-c {name}={value}" for name, value in (session | SERVER_KEEPALIVES).items())
    return f"{given} {options}".strip()


def session_settings(settings: Settings) -> dict[str, str]:
    """Return the timeouts (milliseconds) and the time zone of every session, by setting name."""
    return {
        "statement_timeout": str(settings.postgres_statement_timeout),
        "lock_timeout": str(settings.postgres_lock_timeout),
        "idle_in_transaction_session_timeout": str(settings.postgres_query_timeout),
        "TimeZone": "UTC",
    }


def set_transaction_settings(connection: Connection, settings: Settings) -> None:
    """Apply the session settings to the current transaction only; begins one if none is open."""
    values = session_settings(settings)
    connection.execute(
        "SELECT set_config(name, value, true)"
        " FROM unnest(%(names)s::text[], %(values)s::text[]) AS setting (name, value)",
        {"names": [*values], "values": [*values.values()]},
    )
