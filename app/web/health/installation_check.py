"""The server, the syncs and the backups, for the status page: over a connection of its own, once a second."""

import logging
from contextlib import closing
from dataclasses import dataclass

from app.backup.run_log import BackupSummary
from app.backup.run_log import query_summary as last_backups
from app.database.live_database import AnyDatabase
from app.errors import DRIVER_ERRORS, FrontdeskError, to_frontdesk_error
from app.observability import metrics
from app.repositories.server_activity import (
    LastSyncRun,
    ProgramConnections,
    ServerStatistics,
    read_connections,
    read_server_statistics,
)
from app.web.health.single_flight import SingleFlight
from app.yclients.syncing.status import SyncState, last_syncs

log = logging.getLogger(__name__)

STATEMENT_TIMEOUT_MS = 1_000  # milliseconds for a statement


@dataclass(frozen=True)
class Installation:
    """What the server tells of itself, the newest sync of each company, and the last backup."""

    server: ServerStatistics
    sessions: list[ProgramConnections]
    syncs: list[tuple[LastSyncRun, SyncState]]
    backups: BackupSummary


class InstallationCheck:
    """None where the database does not answer in time; the database check says why, in the log as well."""

    def __init__(self, database: AnyDatabase) -> None:
        self._database = database
        self._failure = ""
        self._single_flight: SingleFlight[Installation | None] = SingleFlight(
            self._query, timeout_result=None
        )
        self.start = self._single_flight.start

    def __call__(self) -> Installation | None:
        """At most a second old, within the deadline of a probe."""
        return self._single_flight()

    def _query(self) -> Installation | None:
        found, failure = None, ""
        try:
            with closing(self._database.connect_outside_pool(STATEMENT_TIMEOUT_MS)) as connection:
                found = Installation(
                    read_server_statistics(connection),
                    list(read_connections(connection)),
                    last_syncs(connection),
                    last_backups(connection),
                )
            _set_backup_gauges(found.backups)
        except (FrontdeskError, *DRIVER_ERRORS) as error:
            failure = to_frontdesk_error(error).message
        if failure != self._failure:  # once when it changes, not with every look
            log.warning("Look at the server: %s", failure or "works again")
        self._failure = failure
        return found


def _set_backup_gauges(backups: BackupSummary) -> None:
    """Let Prometheus see the backups' age; the page looks every few seconds, whoever watches it."""
    for gauge, moment in (
        (metrics.BACKUP_TIMESTAMP, backups.taken_at),
        (metrics.BACKUP_DRILL_TIMESTAMP, backups.drilled_at),
    ):
        gauge.set(moment.timestamp() if moment else 0)
