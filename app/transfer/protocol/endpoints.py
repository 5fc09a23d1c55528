"""The two databases of a move, and the sessions that carry it out."""

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
from app.database.connection import KEEPALIVES, SERVER_KEEPALIVES, DeadlineConnection
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

APPLICATION_NAME = "frontdesk-transfer"  # of every session of a move, so that they can be told from services'

# Seconds without an answer after which a server has to show that it is there. Something on the way may take
# whatever is sent, and pass nothing on: TCP then sees nothing wrong.
PROBE_AFTER_SECONDS = 20.0
CONNECT_TIMEOUT_SECONDS = 10.0  # seconds for a new session
POOLER_TIMEOUT_SECONDS = 3.0  # seconds for a second session through a pooler

# Nothing that a server or a role sets by default may cut the work short, or change what it means.
_SESSION_SETTINGS = {
    "statement_timeout": "0",
    "lock_timeout": "10s",
    # A process that was frozen in the middle of a transaction lets go of its locks.
    "idle_in_transaction_session_timeout": "15s",
    "idle_session_timeout": "0",
    # A change of the fence that a crash takes back would open both sides.
    "synchronous_commit": "on",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "client_encoding": "UTF8",
} | SERVER_KEEPALIVES


class TransferConnection(DeadlineConnection):
    """A session of a move. `deadline` (of `time.monotonic`) ends whatever waits for the server."""

    deadline: float | None = None
    side: "Side"

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for the server until `deadline`; without one for as long as the server is there.

        Raises SideLostError, and the connection is closed: what the server did is unknown; NoSpaceError.
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
                    " Make room there; the same command goes on."
                ) from error
            raise

    def _wait_while_responding(self, gen: PQGen[T], interval: float) -> T:
        going_on = gen
        while True:
            try:
                return psycopg.Connection.wait(self, going_on, interval, PROBE_AFTER_SECONDS)
            except psycopg.errors._WaitTimeout as error:  # psycopg has no public name for it
                if not self.side.is_responding():
                    self.pgconn.finish()
                    raise ClientDeadlineExceeded from error
                going_on = _resume_wait(gen)


def _resume_wait(gen: PQGen[T]) -> PQGen[T]:
    """One that was waited for in vain, to be waited for again; psycopg begins with `next`."""
    ready: int = READY_NONE
    while True:
        try:
            wanted = gen.send(ready)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return] # a T
        ready = yield wanted


@dataclass(frozen=True)
class Side:
    """One of the two databases. The URL holds the password: never log it."""

    name: SideName
    url: str

    def __repr__(self) -> str:
        return f"Side({self.name})"

    def connect(self, timeout: float = CONNECT_TIMEOUT_SECONDS) -> TransferConnection:
        """A new session in autocommit; the caller closes it. `timeout`: seconds for connecting.

        Values are written in the canonical form (see app/database/checksum.py), and tables must be named
        with their schema. Raises UnavailableError in libpq's words: host, user and reason.
        """
        try:
            connection = self._connect(timeout)
        except psycopg.OperationalError as error:
            # A refused password comes without a SQLSTATE's class of its own when libpq gives up.
            kind = PermanentlyUnavailableError if _is_permanent_failure(error) else UnavailableError
            reason = " ".join(str(error).split())
            raise kind(f"Cannot reach {self.name} ({URL_VARIABLES[self.name]}): {reason}") from None
        connection.deadline = monotonic() + timeout
        try:
            self._require_dedicated_session(connection)
            # As statements, not as connection options, which poolers refuse.
            connection.execute(
                "SELECT pg_catalog.set_config(name, value, false)"
                " FROM unnest(%(names)s::text[], %(values)s::text[]) AS setting (name, value)",
                {"names": [*_SESSION_SETTINGS], "values": [*_SESSION_SETTINGS.values()]},
            )
            use_canonical_form(connection)
        except BaseException as error:  # nobody else knows of the session yet
            connection.close()
            if isinstance(error, SideLostError):
                raise UnavailableError(
                    f"Cannot reach {self.name} ({URL_VARIABLES[self.name]}): {error}"
                ) from error
            raise
        connection.deadline = None
        return connection

    def is_responding(self) -> bool:
        """Whether somebody is there who answers, be it with a refusal."""
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
        # Never prepared: a plan that was made for ten rows would be used for a million.
        connection = TransferConnection.connect(**parameters, autocommit=True, prepare_threshold=None)
        connection.side = self
        return connection

    def _require_dedicated_session(self, connection: TransferConnection) -> None:
        """Raise ConfigurationError behind a pooler that lends its sessions for a transaction at a time.

        Settings made there would hit whoever comes next: the services. A pooler answers for no process of
        the server's own; one that shares has the same process for two clients.
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
                    return  # it keeps the one session that there is for its first client
                if is_shared:
                    raise ConfigurationError(
                        f"{URL_VARIABLES[self.name]} leads to a pooler that shares its sessions between clients:"
                        " use the server's own address, or the pooler's port for sessions."
                    )


@dataclass(frozen=True)
class Sides:
    """Both databases of a move."""

    legacy: Side
    primary: Side

    @classmethod
    def from_settings(cls, settings: Settings) -> "Sides":
        """The databases that the settings name, past a pooler. Raises ConfigurationError without a legacy."""
        if settings.legacy_database_url is None:
            raise ConfigurationError(
                "LEGACY_DATABASE_URL is not set: a transfer needs the database that is moved away from."
            )
        legacy = Side("legacy", settings.legacy_database_url.get_secret_value())
        return cls(legacy, Side("primary", embedded_server.resolve_migration_url(settings)))

    def __iter__(self) -> Any:
        return iter((self.legacy, self.primary))

    def named(self, name: SideName) -> Side:
        """The side of that name."""
        return self.legacy if name == "legacy" else self.primary

    def other(self, side: Side) -> Side:
        """The side across."""
        return self.primary if side.name == "legacy" else self.legacy


def _is_permanent_failure(error: psycopg.OperationalError) -> bool:
    return error.sqlstate is not None and error.sqlstate[:2] in ("28", "3D")


def require_different_databases(legacy: psycopg.Connection[Any], primary: psycopg.Connection[Any]) -> None:
    """Raise ConfigurationError where both URLs lead to one database."""
    identity = (
        "SELECT pg_catalog.pg_postmaster_start_time(), pg_catalog.current_database(),"
        " pg_catalog.current_setting('data_directory_mode'), pg_catalog.inet_server_port()"
    )
    if legacy.execute(identity).fetchone() == primary.execute(identity).fetchone():
        raise ConfigurationError("LEGACY_DATABASE_URL and DATABASE_URL lead to one and the same database.")
