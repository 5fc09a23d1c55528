"""The health of all WhatsApp sessions, for probes: quick even where there are a million keys."""

import logging
from datetime import UTC, datetime, timedelta

from app.config import Settings
from app.database.live_database import AnyDatabase
from app.errors import DRIVER_ERRORS, DeadlineError, FrontdeskError, to_frontdesk_error
from app.web.health.single_flight import CHECK_TIMEOUT_SECONDS, SingleFlight
from app.whatsapp.health import WhatsAppHealth
from app.whatsapp.health_monitor import check_health

log = logging.getLogger(__name__)

# A look at a million keys takes longer than a probe should: then the last one is shown, with its time.
CACHED_CHECK_TIMEOUT_SECONDS = 0.1  # seconds
MAX_RESULT_AGE = timedelta(minutes=1)


class WhatsAppCheck:
    """Looks at most once a second; a probe waits for it a moment, and longer only where nothing is known."""

    def __init__(self, database: AnyDatabase, settings: Settings) -> None:
        self._database = database
        self._settings = settings
        self._last: WhatsAppHealth | None = None
        self._failure = ""
        self._single_flight: SingleFlight[WhatsAppHealth | None] = SingleFlight(
            self._query_overview, timeout_result=None
        )
        self.start = self._single_flight.start

    def __call__(self) -> WhatsAppHealth:
        """All sessions, now or a moment ago. Raises FrontdeskError."""
        last = self._last
        recent = last if last is not None and datetime.now(UTC) - last.checked_at < MAX_RESULT_AGE else None
        found = (
            self._single_flight(CACHED_CHECK_TIMEOUT_SECONDS if recent is not None else CHECK_TIMEOUT_SECONDS)
            or recent
        )
        if found is None:
            raise DeadlineError
        return found

    def _query_overview(self) -> WhatsAppHealth:
        failure: FrontdeskError | None = None
        try:
            self._last = check_health(self._database, self._settings)
        except (FrontdeskError, *DRIVER_ERRORS) as error:
            failure = to_frontdesk_error(error)
            raise failure from error
        finally:
            self._log(failure.message if failure else "")
        return self._last

    def _log(self, failure: str) -> None:
        """Say it once when it changes, not with every probe."""
        if failure != self._failure:
            log.warning("WhatsApp check: %s", failure or "works again")
        self._failure = failure
