"""The two databases of a transfer, and the sessions that its commands open on them."""

from contextlib import closing
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, TypeVar

import psycopg
import psycopg.conninfo
from psycopg.abc import PQGen
from psycopg.waiting import READY_NONE

from app.config import Settings
from app.database import embedded_server
from app.database.checksum import use_canonical_form
from app.database.connection import KEEPALIVES, SERVER_KEEPALIVES, Connection, DeadlineConnection
from app.errors import (
    ClientDeadlineExceeded,
    ConfigurationError,
    NoSpaceError,
    PermanentlyUnavailableError,
    SideLostError,
    UnavailableError,
)

T = TypeVar("T")

SideName = Literal["legacy", "primary"]
URL_VARIABLES: dict[SideName, str] = {"legacy": "LEGACY_DATABASE_URL", "primary": "DATABASE_URL"}

APPLICATION_NAME = "frontdesk-transfer"  # distinguishes the transfer's sessions from those of services

# Seconds without an answer after which a second connection checks that the server still responds. A proxy on
# the path may accept packets and forward nothing; TCP cannot detect that.
PROBE_AFTER_SECONDS = 20.0
CONNECT_TIMEOUT_SECONDS = 10.0  # for a new session
POOLER_TIMEOUT_SECONDS = 3.0  # for the first answer on a second session through a pooler

# Settings of every session, so that defaults of the server or the role cannot cancel statements or change
# their meaning.
_SESSION_SETTINGS = {
    "statement_timeout": "0",
    "lock_timeout": "10s",
    # The server ends the session, and so releases the locks, of a process that is frozen in a transaction.
    "idle_in_transaction_session_timeout": "15s",
    "idle_session_timeout": "0",
    # A crash must not undo a committed change of the fence: both sides could be open then.
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "client_encoding": "UTF8",
} | SERVER_KEEPALIVES


class TransferConnection(DeadlineConnection):
    """A session of a transfer. Waiting for the server ends at `deadline`, a value of `time.monotonic()`."""

    deadline: float | None = None
    side: "Side"

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the server until `deadline`; without a deadline, as long as the server responds.

        Raises:
            SideLostError: The server did not answer, or the connection was lost. The connection is closed,
                and it is unknown whether the server executed the statement.
            NoSpaceError: The server's disk is full.
        """
        if timeout is None and self.deadline is not None:
            timeout = max(0.001, self.deadline - monotonic())
        try:
            if timeout is None:
                return self._wait_while_responding(gen, interval)
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError as error:
            if isinstance(error, ClientDeadlineExceeded):
                raise SideLostError(f"{self.side.name} did not answer in time.") from error
            if error.sqlstate is None and self.closed:
                raise SideLostError(f"The connection to {self.side.name} was lost.") from error
            if isinstance(error, psycopg.errors.DiskFull):
                raise NoSpaceError(
                    f"{self.side.name} has no space left on its disk."
                    " Free some space there; the same command then continues."
                ) from error
            raise

    def _wait_while_responding(self, gen: PQGen[T], interval: float) -> T:
        current = gen
        while True:
            try:
                return psycopg.Connection.wait(self, current, interval, PROBE_AFTER_SECONDS)
            except psycopg.errors._WaitTimeout as error:  # psycopg has no public name for it
                if not self.side.is_responding():
                    self.pgconn.finish()
                    raise ClientDeadlineExceeded from error
                current = _resume_wait(gen)


def _resume_wait(gen: PQGen[T]) -> PQGen[T]:
    """Wrap a psycopg generator that timed out, so that it can be waited on again.

    psycopg starts a generator with `next`, which a generator that is already started must not receive.
    """
    ready: int = READY_NONE
    while True:
        try:
            wanted = gen.send(ready)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return] # a T
        ready = yield wanted


@dataclass(frozen=True)
class Side:
    """One of the two databases of a transfer. The URL contains the password: never log it."""

    name: SideName
    url: str

    def __repr__(self) -> str:
        return f"Side({self.name})"

    def connect(self, timeout: float = CONNECT_TIMEOUT_SECONDS) -> TransferConnection:
        """Open a session in autocommit mode; the caller closes it.

        The session writes values in the canonical form (see app/database/checksum.py). Statements must
        qualify table names with the schema.

        Args:
            timeout: Seconds to connect, and then again to set up the session.

        Raises:
            UnavailableError: The server cannot be reached; the message is libpq's (host, user and reason).
            ConfigurationError: The URL leads to a pooler that shares sessions between clients.
        """
        try:
            connection = self._connect(timeout)
        except psycopg.OperationalError as error:
            kind = PermanentlyUnavailableError if _is_permanent_failure(error) else UnavailableError
            reason = " ".join(str(error).split())
            raise kind(f"Cannot reach {self.name} ({URL_VARIABLES[self.name]}): {reason}") from None
        connection.deadline = monotonic() + timeout
        try:
            self._require_dedicated_session(connection)
            # Settings are set by a statement because poolers reject them as connection options.
            connection.execute(
                "SELECT pg_catalog.set_config(name, value, false)"
                " FROM unnest(%(names)s::text[], %(values)s::text[]) AS setting (name, value)",
                {"names": [*_SESSION_SETTINGS], "values": [*_SESSION_SETTINGS.values()]},
            )
            use_canonical_form(connection)
        except BaseException as error:  # the caller does not have the session yet and cannot close it
            connection.close()
            if isinstance(error, SideLostError):
                raise UnavailableError(
                    f"Cannot reach {self.name} ({URL_VARIABLES[self.name]}): {error}"
                ) from error
            raise
        connection.deadline = None
        return connection

    def is_responding(self) -> bool:
        """Return True if the server answers a new connection, even with an error such as a login failure."""
        try:
            with closing(self._connect(CONNECT_TIMEOUT_SECONDS)) as connection:
                connection.deadline = monotonic() + CONNECT_TIMEOUT_SECONDS
                connection.execute("SELECT")
        except (psycopg.errors.ConnectionTimeout, ClientDeadlineExceeded):
            return False
        except psycopg.OperationalError:
            return True
        return True

    def _connect(self, timeout: float) -> TransferConnection:
        parameters: dict[str, Any] = KEEPALIVES | psycopg.conninfo.conninfo_to_dict(self.url)
        parameters |= {"application_name": APPLICATION_NAME, "connect_timeout": max(2, round(timeout))}
        # Prepared statements are off: they would reuse a plan made for ten rows when there are a million.
        connection = TransferConnection.connect(**parameters, autocommit=True, prepare_threshold=None)
        connection.side = self
        return connection

    def _require_dedicated_session(self, connection: TransferConnection) -> None:
        """Raise ConfigurationError if a pooler shares its server sessions between clients.

        Session settings made through such a pooler would affect the services that get the session next. A
        pooler reports a process id of its own instead of the server process's id. A pooler that shares
        sessions serves two clients with the same server process.
        """
        query = "SELECT pg_catalog.pg_backend_pid()"
        if connection.execute(query).fetchone() == (connection.info.backend_pid,):
            return
        with closing(self._connect(CONNECT_TIMEOUT_SECONDS)) as other:
            other.deadline = monotonic() + POOLER_TIMEOUT_SECONDS
            for _ in range(3):
                try:
                    is_shared = connection.execute(query).fetchone() == other.execute(query).fetchone()
                except ClientDeadlineExceeded:
                    return  # the pooler reserves its only session for the first client
                if is_shared:
                    raise ConfigurationError(
                        f"{URL_VARIABLES[self.name]} leads to a pooler that shares its sessions between"
                        " clients: use the address of the server, or the pooler's port for session mode."
                    )


@dataclass(frozen=True)
class Sides:
    """Both databases of a transfer. Iterating yields legacy, then primary."""

    legacy: Side
    primary: Side

    @classmethod
    def from_settings(cls, settings: Settings) -> "Sides":
        """Return the databases of the settings; primary by its direct URL if there is a pooler.

        Raises ConfigurationError if LEGACY_DATABASE_URL is not set.
        """
        if settings.legacy_database_url is None:
            raise ConfigurationError(
                "LEGACY_DATABASE_URL is not set: set it to the database from which data is transferred."
            )
        legacy = Side("legacy", settings.legacy_database_url.get_secret_value())
        return cls(legacy, Side("primary", embedded_server.resolve_migration_url(settings)))

    def __iter__(self) -> Any:
        return iter((self.legacy, self.primary))

    def named(self, name: SideName) -> Side:
        """Return the side with this name."""
        return self.legacy if name == "legacy" else self.primary

    def other(self, side: Side) -> Side:
        """Return the opposite side."""
        return self.primary if side.name == "legacy" else self.legacy


def _is_permanent_failure(error: psycopg.OperationalError) -> bool:
    # SQLSTATE classes 28 (invalid authorization) and 3D (unknown database). When libpq aborts a connection
    # attempt, a rejected password may come without a SQLSTATE; it counts as temporary then.
    return error.sqlstate is not None and error.sqlstate[:2] in ("28", "3D")


def require_different_databases(legacy: Connection, primary: Connection) -> None:
    """Raise ConfigurationError if both URLs lead to the same database."""
    identity = (
        "SELECT pg_catalog.pg_postmaster_start_time(), pg_catalog.current_database(),"
        " pg_catalog.current_setting('data_directory_mode'), pg_catalog.inet_server_port()"
    )
    if legacy.execute(identity).fetchone() == primary.execute(identity).fetchone():
        raise ConfigurationError(
            "LEGACY_DATABASE_URL and DATABASE_URL lead to the same database: a transfer needs two databases."
        )
