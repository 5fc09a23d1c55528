"""The health of all WhatsApp sessions, for probes: quick even where there are a million keys."""

import logging
from datetime import UTC, datetime, timedelta

from app.config import Settings
from app.database.live_database import AnyDatabase
from app.errors import RAW_ERRORS, DeadlineError, FrontdeskError, from_driver
from app.web.health.single_flight import DEADLINE, SingleFlight
from app.whatsapp.health import Overview
from app.whatsapp.health_monitor import observe

log = logging.getLogger(__name__)

# A look at a million keys takes longer than a probe should: then the last one is shown, with its time.
QUICK = 0.1  # seconds
RECENT = timedelta(minutes=1)


class WhatsAppCheck:
    """Looks at most once a second; a probe waits for it a moment, and longer only where nothing is known."""

    def __init__(self, database: AnyDatabase, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._last: Overview | None = None
        self._failure = ""
        self._single_flight: SingleFlight[Overview | None] = SingleFlight(self._look, too_late=None)
        self.start = self._single_flight.start

    def __call__(self) -> Overview:
        """All sessions, now or a moment ago. Raises FrontdeskError."""
        last = self._last
        recent = last if last is not None and datetime.now(UTC) - last.at < RECENT else None
        found = self._single_flight(QUICK if recent is not None else DEADLINE) or recent
        if found is None:
            raise DeadlineError
        return found

    def _look(self) -> Overview:
        failure: FrontdeskError | None = None
        try:
            self._last = observe(self._database, self._settings)
        except (FrontdeskError, *RAW_ERRORS) as error:
            failure = from_driver(error)
            raise failure from error
        finally:
            self._log(failure.message if failure else "")
        return self._last

    def _log(self, failure: str) -> None:
        """Say it once when it changes, not with every probe."""
        if failure != self._failure:
            log.warning("WhatsApp check: %s", failure or "works again")
        self._failure = failure
