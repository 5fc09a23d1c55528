"""Connection budget: compares the connections that all services may open with the limits of the server."""

import logging
from contextlib import closing
from dataclasses import dataclass

import psycopg

from app.config import Settings
from app.database.connection import Connection
from app.database.live_database import AnyDatabase
from app.database.sql_files import read_script
from app.errors import FencedError, UnavailableError

log = logging.getLogger(__name__)

CHECK_TIMEOUT_MS = 2_000  # of the check at start

_LIMITS = read_script(__package__, "connection_budget.sql")


@dataclass(frozen=True)
class ConnectionBudget:
    """Numbers of connections. `limit` is the lowest limit of the server, the database and the role."""

    services: int
    workers: int
    connections_per_worker: int
    max_connections: int
    reserved: int
    limit: int
    held_by_others: int

    @property
    def max_demand(self) -> int:
        """Connections that all services together may open."""
        return self.services * self.workers * self.connections_per_worker

    @property
    def remaining(self) -> int:
        """Connections left on the server when all services have opened `max_demand`; negative if too few."""
        return self.limit - self.held_by_others - self.max_demand

    @property
    def fits(self) -> bool:
        """True if the server has enough connections for all services."""
        return self.remaining >= 0

    def __str__(self) -> str:
        limits = f"max_connections {self.max_connections}, {self.reserved} reserved"
        if self.limit < self.max_connections - self.reserved:
            limits += f", {self.limit} for this role or database"
        rest = f"{self.remaining} left" if self.fits else f"{-self.remaining} too many"
        return (
            f"{self.services} services x {self.workers} workers x {self.connections_per_worker} connections"
            f" = {self.max_demand}; other programs use {self.held_by_others}; {limits}: {rest}"
        )


def measure(connection: Connection, settings: Settings, workers: int = 1) -> ConnectionBudget:
    """Read the server's limits and sessions and return the budget. `workers`: processes of each service."""
    (row,) = connection.execute(_LIMITS)
    max_connections, reserved, of_database, of_role, own_sessions, others = row
    limits = [max_connections - reserved, *(limit for limit in (of_database, of_role) if limit >= 0)]
    promised = settings.service_count * workers * settings.postgres_max_connections
    # Sessions with this role and database are Frontdesk's, up to the number that its services may open. The
    # excess belongs to other programs.
    return ConnectionBudget(
        services=settings.service_count,
        workers=workers,
        connections_per_worker=settings.postgres_max_connections,
        max_connections=max_connections,
        reserved=reserved,
        limit=min(limits),
        held_by_others=others + max(0, own_sessions - promised),
    )


def log_budget(database: AnyDatabase, workers: int = 1) -> None:
    """Log the connection budget; as a warning if the server has too few connections for all services."""
    if database.settings.postgres_pooler:
        return  # the pooler owns the connections to the server; `frontdesk doctor` checks those
    try:
        with closing(database.connect_outside_pool(CHECK_TIMEOUT_MS)) as connection:
            budget = measure(connection, database.settings, workers)
    except psycopg.Error as error:
        log.warning("The connection budget was not checked: %s", error.sqlstate or "no connection")
        return
    except (UnavailableError, FencedError) as error:  # during a cutover, or without a server
        log.warning("The connection budget was not checked: %s", error.message)
        return
    log.log(logging.INFO if budget.fits else logging.WARNING, "Connection budget: %s", budget)
