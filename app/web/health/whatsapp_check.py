"""WhatsApp check for probes: health of all sessions, fast even with a million keys."""

import logging
from datetime import UTC, datetime, timedelta

from app.config import Settings
from app.database.live_database import AnyDatabase
from app.errors import DRIVER_ERRORS, DeadlineError, FrontdeskError, to_frontdesk_error
from app.web.health.single_flight import CHECK_TIMEOUT_SECONDS, SingleFlight
from app.whatsapp.health import WhatsAppHealth
from app.whatsapp.health_monitor import check_health

log = logging.getLogger(__name__)

# With a million keys a check takes longer than a probe may wait. If there is a recent result, a probe waits
# only this long for a new one; the response contains the time of the check.
CACHED_CHECK_TIMEOUT_SECONDS = 0.1
MAX_RESULT_AGE = timedelta(minutes=1)


class WhatsAppCheck:
    """Checks the WhatsApp sessions at most once a second. Callers get the last result if a check is slow."""

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
        """Return the health of all sessions, at most MAX_RESULT_AGE old.

        Raises DeadlineError if there is no such result in time, and another FrontdeskError if the check
        fails.
        """
        last = self._last
        recent = last if last is not None and datetime.now(UTC) - last.checked_at < MAX_RESULT_AGE else None
        health = (
            self._single_flight(CACHED_CHECK_TIMEOUT_SECONDS if recent is not None else CHECK_TIMEOUT_SECONDS)
            or recent
        )
        if health is None:
            raise DeadlineError
        return health

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
        """Log a change of the failure, not each check."""
        if failure != self._failure:
            log.warning("WhatsApp check: %s", failure or "works again")
        self._failure = failure
