"""Connections to PostgreSQL: session settings, and a client-side deadline for a server that does not
respond."""

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


# Set regardless of the database's encoding and PGCLIENTENCODING: other encodings lack characters that the
# statements contain, and from a database in SQL_ASCII psycopg would return bytes instead of text.
CLIENT_ENCODING = "UTF8"

# Detect a network that drops packets within half a minute; TCP alone waits for hours. The server needs the
# same
# settings: it keeps the locks, the transaction and the connection of a lost client until it detects the loss.
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
def query_timeout(seconds: float, connection: psycopg.Connection[Any]) -> Iterator[None]:
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


def connect_directly(settings: Settings) -> psycopg.Connection[Any]:
    """Open a connection to the server itself, not through the pool or a pooler, in autocommit mode.

    For session locks and long-running work. The caller closes the connection. Raises psycopg's errors.
    """
    direct = settings.model_copy(update={"postgres_pooler": None})
    parameters = connection_parameters(direct, embedded_server.resolve_migration_url(settings))
    return connection_class(direct).connect(**parameters, autocommit=True)


def connection_parameters(settings: Settings, url: str) -> dict[str, Any]:
    """Return keyword arguments for `psycopg.connect`: the URL's parameters and the session's settings.

    The settings are sent as connection options, which cost no round trip. A pooler in transaction mode
    supports
    neither connection options nor prepared statements; with a pooler, every transaction therefore begins with
    `set_transaction_settings`.
    """
    parameters: dict[str, Any] = KEEPALIVES | psycopg.conninfo.conninfo_to_dict(url)
    parameters["application_name"] = settings.service_name
    parameters["client_encoding"] = CLIENT_ENCODING
    parameters.setdefault("connect_timeout", max(2, settings.postgres_connection_timeout // 1000))
    if settings.postgres_pooler:
        parameters["prepare_threshold"] = None
        return parameters
    wanted = session_settings(settings) | SERVER_KEEPALIVES
    options = " ".join(f"-c {name}={value}" for name, value in wanted.items())
    parameters["options"] = append_connection_options(url, options)
    return parameters


def append_connection_options(url: str, options: str) -> str:
    """Return the connection options of the URL (such as `-c search_path=salons`) followed by `options`."""
    given = psycopg.conninfo.conninfo_to_dict(url).get("options") or ""
    return f"{given} {options}".strip()


def disable_transaction_timeout(connection: psycopg.Connection[Any]) -> None:
    """Remove a transaction_timeout that the server, the database or the role sets.

    PostgreSQL has this setting since version 17. It is not set as a connection option, because older servers
    refuse a connection with an unknown option.
    """
    if connection.info.server_version >= 170_000:
        connection.execute("SET transaction_timeout = 0")
        connection.commit()  # otherwise the first rollback reverts the setting


def session_settings(settings: Settings) -> dict[str, str]:
    """Return the timeouts (milliseconds) and the time zone of every session, by setting name."""
    return {
        "statement_timeout": str(settings.postgres_statement_timeout),
        "lock_timeout": str(settings.postgres_lock_timeout),
        "idle_in_transaction_session_timeout": str(settings.postgres_query_timeout),
        "TimeZone": "UTC",
    }


def set_transaction_settings(connection: psycopg.Connection[Any], settings: Settings) -> None:
    """Apply the session settings to the current transaction only; begins one if none is open."""
    values = session_settings(settings)
    connection.execute(
        "SELECT set_config(name, value, true)"
        " FROM unnest(%(names)s::text[], %(values)s::text[]) AS setting (name, value)",
        {"names": [*values], "values": [*values.values()]},
    )
