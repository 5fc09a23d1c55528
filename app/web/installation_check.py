"""The server and the syncs, for the status page: seen over a connection of its own, at most once a second."""

import logging
from contextlib import closing
from dataclasses import dataclass

from app.database.moving import AnyDatabase
from app.errors import RAW_ERRORS, FrontdeskError, from_driver
from app.repositories.installation import LastRun, ServerFigures, Sessions, server, sessions
from app.web.single_flight import SingleFlight
from app.yclients.sync_status import State, last_syncs

log = logging.getLogger(__name__)

PATIENCE = 1_000  # milliseconds for a statement


@dataclass(frozen=True)
class Installation:
    """What the server tells of itself, and the newest sync of each company."""

    server: ServerFigures
    sessions: list[Sessions]
    syncs: list[tuple[LastRun, State]]


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
                found = Installation(server(connection), list(sessions(connection)), last_syncs(connection))
        except (FrontdeskError, *RAW_ERRORS) as error:
            failure = from_driver(error).message
        if failure != self._failure:  # once when it changes, not with every look
            log.warning("Look at the server: %s", failure or "works again")
        self._failure = failure
        return found
