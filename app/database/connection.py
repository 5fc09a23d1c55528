"""How a connection is made: session settings, and a deadline for a server that cannot time itself out."""

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


# Whatever the database is encoded in, and PGCLIENTENCODING says: other encodings have no letters for our own
# statements, and from a database in SQL_ASCII psycopg would hand out bytes.
CLIENT_ENCODING = "UTF8"

# A network that swallows what is sent is noticed within half a minute, where TCP alone waits for hours: here,
# and on the server, which keeps the locks, the transaction and the place of a client that is gone.
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
    """A connection that gives up on a silent server.

    A frozen server cannot honour `statement_timeout`, and TCP alone waits for minutes. What the server
    did with the statement is unknown then, so the connection is closed.
    """

    query_timeout: float = 60.0  # seconds

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cursor_factory = MeasuredCursor

    def close(self) -> None:
        """Give the connection back to its pool, or close it where it has none.

        psycopg does not give back one that is lost, and its pool counts it as taken for ever.
        """
        pool = getattr(self, "_pool", None)
        if pool is not None and self.closed:
            pool.putconn(self)
        else:
            super().close()

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the server at most `query_timeout` seconds, or raise ClientDeadlineExceeded."""
        try:
            return super().wait(gen, interval, self.query_timeout if timeout is None else timeout)
        except psycopg.errors._WaitTimeout as error:  # psycopg has no public name for it
            self.pgconn.finish()
            raise ClientDeadlineExceeded("the server did not answer in time") from error


@contextmanager
def query_timeout(seconds: float, connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Let a connection of ours give up on a silent server so soon, for as long as the block takes."""
    assert isinstance(connection, DeadlineConnection)  # noqa: S101 - all that a pool of ours makes
    usual, connection.query_timeout = connection.query_timeout, seconds
    try:
        yield
    finally:
        connection.query_timeout = usual


def connection_class(settings: Settings) -> type[DeadlineConnection]:
    """DeadlineConnection with POSTGRES_QUERY_TIMEOUT."""
    return type(
        "Connection", (DeadlineConnection,), {"query_timeout": settings.postgres_query_timeout / 1000}
    )


def connect_directly(settings: Settings) -> psycopg.Connection[Any]:
    """A connection past the pool and past a pooler, in autocommit: for session locks and long work.

    Raises psycopg's errors.
    """
    direct = settings.model_copy(update={"postgres_pooler": None})
    parameters = connection_parameters(direct, embedded_server.resolve_migration_url(settings))
    return connection_class(direct).connect(**parameters, autocommit=True)


def connection_parameters(settings: Settings, url: str) -> dict[str, Any]:
    """Keyword arguments for `psycopg.connect`: the URL's, and the session's settings as connection options.

    As options they cost no round trip. A pooler in transaction mode refuses them and prepared
    statements: there every transaction begins with `set_transaction_settings`.
    """
    parameters: dict[str, Any] = KEEPALIVES | psycopg.conninfo.conninfo_to_dict(url)
    parameters["application_name"] = settings.service_name
    parameters["client_encoding"] = CLIENT_ENCODING
    parameters.setdefault("connect_timeout", max(2, settings.postgres_connection_timeout // 1000))
    if settings.postgres_pooler:
        parameters["prepare_threshold"] = None
        return parameters
    wanted = session_settings(settings) | SERVER_KEEPALIVES
    ours = " ".join(f"-c {name}={value}" for name, value in wanted.items())
    parameters["options"] = append_connection_options(url, ours)
    return parameters


def append_connection_options(url: str, options: str) -> str:
    """Connection options: those of the URL (libpq), as `-c search_path=salons`, and after them ours."""
    given = psycopg.conninfo.conninfo_to_dict(url).get("options") or ""
    return f"{given} {options}".strip()


def disable_transaction_timeout(connection: psycopg.Connection[Any]) -> None:
    """Lift a limit that the server, the database or the role sets; servers before 17 know none.

    Not as a connection option, which those refuse.
    """
    if connection.info.server_version >= 170_000:
        connection.execute("SET transaction_timeout = 0")
        connection.commit()  # or the setting goes with the first rollback


def session_settings(settings: Settings) -> dict[str, str]:
    """Timeouts (milliseconds) and the time zone of every session."""
    return {
        "statement_timeout": str(settings.postgres_statement_timeout),
        "lock_timeout": str(settings.postgres_lock_timeout),
        "idle_in_transaction_session_timeout": str(settings.postgres_query_timeout),
        "TimeZone": "UTC",
    }


def set_transaction_settings(connection: psycopg.Connection[Any], settings: Settings) -> None:
    """Give the transaction that is open, or begins with it, what `options` give a session."""
    values = session_settings(settings)
    connection.execute(
        "SELECT set_config(name, value, true)"
        " FROM unnest(%(names)s::text[], %(values)s::text[]) AS setting (name, value)",
        {"names": [*values], "values": [*values.values()]},
    )
