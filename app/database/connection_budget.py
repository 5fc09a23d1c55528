"""Whether the connections of all services fit the server: the sum of what is promised, beside its limits."""

import logging
from contextlib import closing
from dataclasses import dataclass

import psycopg

from app.config import Settings
from app.database.database import Connection
from app.database.live_database import AnyDatabase
from app.errors import FencedError, UnavailableError

log = logging.getLogger(__name__)

CHECK_TIMEOUT_MS = 2_000  # milliseconds for the check at start

# Without special rights the server hides the kind of other people's sessions, so NULL counts as a client.
_LIMITS = """
    SELECT current_setting('max_connections')::int,
        current_setting('superuser_reserved_connections')::int
            + COALESCE(current_setting('reserved_connections', true), '0')::int,
        (SELECT datconnlimit FROM pg_database WHERE datname = current_database()),
        (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user),
        count(*) FILTER (WHERE is_ours), count(*) FILTER (WHERE NOT is_ours)
    FROM (
        SELECT datname = current_database() AND usename = current_user AND application_name <> '' AS is_ours
        FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND usename IS NOT NULL
            AND COALESCE(backend_type, 'client backend') = 'client backend'
    ) AS session
"""


@dataclass(frozen=True)
class ConnectionBudget:
    """Connections, counted. `limit` is the least of what server, database and role allow."""

    services: int
    workers: int
    connections_per_worker: int
    max_connections: int
    reserved: int
    limit: int
    held_by_others: int

    @property
    def max_demand(self) -> int:
        """What all services may open."""
        return self.services * self.workers * self.connections_per_worker

    @property
    def remaining(self) -> int:
        """What the server has left when all services have opened what they may; negative if too little."""
        return self.limit - self.held_by_others - self.max_demand

    @property
    def fits(self) -> bool:
        """Whether every service can open what it may."""
        return self.remaining >= 0

    def __str__(self) -> str:
        limits = f"max_connections {self.max_connections}, {self.reserved} reserved"
        if self.limit < self.max_connections - self.reserved:
            limits += f", {self.limit} for this role or database"
        rest = f"{self.remaining} left" if self.fits else f"{-self.remaining} too many"
        return (
            f"{self.services} services x {self.workers} workers x {self.connections_per_worker} connections = {self.max_demand};"
            f" others hold {self.held_by_others}; {limits}: {rest}"
        )


def measure(connection: Connection, settings: Settings, workers: int = 1) -> ConnectionBudget:
    """Count against the live server. `workers` are the processes of each service."""
    row = connection.execute(_LIMITS).fetchone()
    assert row is not None, "an aggregate always answers"  # noqa: S101
    max_connections, reserved, of_database, of_role, ours, others = row
    limits = [max_connections - reserved, *(each for each in (of_database, of_role) if each >= 0)]
    promised = settings.service_count * workers * settings.postgres_max_connections
    # Sessions of our role and database are the other services', as long as there are not too many.
    return ConnectionBudget(
        services=settings.service_count,
        workers=workers,
        connections_per_worker=settings.postgres_max_connections,
        max_connections=max_connections,
        reserved=reserved,
        limit=min(limits),
        held_by_others=others + max(0, ours - promised),
    )


def log_budget(database: AnyDatabase, workers: int = 1) -> None:
    """Log at start how the connections of all services fit the server."""
    if database.settings.postgres_pooler:
        return  # the server's connections are the pooler's; `frontdesk doctor` says more
    try:
        with closing(database.connect_outside_pool(CHECK_TIMEOUT_MS)) as connection:
            found = measure(connection, database.settings, workers)
    except psycopg.Error as error:
        log.warning("The connection budget could not be checked (%s)", error.sqlstate or "no connection")
        return
    except (UnavailableError, FencedError) as error:  # no side of a move can be asked now
        log.warning("The connection budget could not be checked: %s", error.message)
        return
    log.log(logging.INFO if found.fits else logging.WARNING, "Connection budget: %s", found)
