"""The server, the syncs and the backups, for the status page: over a connection of its own, once a second."""

import logging
from contextlib import closing
from dataclasses import dataclass

from app.backup.run_log import Backups
from app.backup.run_log import last as last_backups
from app.database.live_database import AnyDatabase
from app.errors import RAW_ERRORS, FrontdeskError, from_driver
from app.observability import metrics
from app.repositories.server_activity import LastRun, ServerFigures, Sessions, server, sessions
from app.web.health.single_flight import SingleFlight
from app.yclients.syncing.status import State, last_syncs

log = logging.getLogger(__name__)

PATIENCE = 1_000  # milliseconds for a statement


@dataclass(frozen=True)
class Installation:
    """What the server tells of itself, the newest sync of each company, and the last backup."""

    server: ServerFigures
    sessions: list[Sessions]
    syncs: list[tuple[LastRun, State]]
    backups: Backups


class InstallationCheck:
    """None where the database does not answer in time; the database check says why, in the log as well."""

    def __init__(self, database: AnyDatabase) -> None:
        self._database = database
        self._failure = ""
        self._single_flight: SingleFlight[Installation | None] = SingleFlight(self._look, too_late=None)
        self.start = self._single_flight.start

    def __call__(self) -> Installation | None:
        """At most a second old, within the deadline of a probe."""
        return self._single_flight()

    def _look(self) -> Installation | None:
        found, failure = None, ""
        try:
            with closing(self._database.connect_alone(PATIENCE)) as connection:
                found = Installation(
                    server(connection),
                    list(sessions(connection)),
                    last_syncs(connection),
                    last_backups(connection),
                )
            _publish(found.backups)
        except (FrontdeskError, *RAW_ERRORS) as error:
            failure = from_driver(error).message
        if failure != self._failure:  # once when it changes, not with every look
            log.warning("Look at the server: %s", failure or "works again")
        self._failure = failure
        return found


def _publish(backups: Backups) -> None:
    """Let Prometheus see the backups' age; the page looks every few seconds, whoever watches it."""
    for gauge, moment in (
        (metrics.BACKUP_TIME, backups.taken_at),
        (metrics.DRILL_TIME, backups.drilled_at),
    ):
        gauge.set(moment.timestamp() if moment else 0)
