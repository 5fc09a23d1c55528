"""State of the server, the syncs and the backups, for the status page."""

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

STATEMENT_TIMEOUT_MS = 1_000


@dataclass(frozen=True)
class Installation:
    """Server statistics, connections per program, the newest sync of each company, and the last backups."""

    server: ServerStatistics
    sessions: list[ProgramConnections]
    syncs: list[tuple[LastSyncRun, SyncState]]
    backups: BackupSummary


class InstallationCheck:
    """Reads the state of the installation over a connection outside the pool, at most once a second."""

    def __init__(self, database: AnyDatabase) -> None:
        self._database = database
        self._failure = ""
        self._single_flight: SingleFlight[Installation | None] = SingleFlight(
            self._query, timeout_result=None
        )
        self.start = self._single_flight.start

    def __call__(self) -> Installation | None:
        """Return the state of the installation, at most a second old.

        Returns None if the database fails or does not answer within CHECK_TIMEOUT_SECONDS. The reason is in
        the log.
        """
        return self._single_flight()

    def _query(self) -> Installation | None:
        installation, failure = None, ""
        try:
            with closing(self._database.connect_outside_pool(STATEMENT_TIMEOUT_MS)) as connection:
                installation = Installation(
                    read_server_statistics(connection),
                    list(read_connections(connection)),
                    last_syncs(connection),
                    last_backups(connection),
                )
            _set_backup_gauges(installation.backups)
        except (FrontdeskError, *DRIVER_ERRORS) as error:
            failure = to_frontdesk_error(error).message
        if failure != self._failure:  # log a change, not each check
            log.warning("Installation check: %s", failure or "works again")
        self._failure = failure
        return installation


def _set_backup_gauges(backups: BackupSummary) -> None:
    """Export the times of the last backup and the last drill to Prometheus.

    The check runs every few seconds, even if the status page is not open: history.py starts it.
    """
    for gauge, time in (
        (metrics.BACKUP_TIMESTAMP, backups.taken_at),
        (metrics.BACKUP_DRILL_TIMESTAMP, backups.drilled_at),
    ):
        gauge.set(time.timestamp() if time else 0)
