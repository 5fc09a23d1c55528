"""How the move is, for probes: both sides are asked, and neither may hold a probe up."""

import logging
from datetime import UTC, datetime, timedelta

from app.config import Settings
from app.errors import DRIVER_ERRORS, DeadlineError, FrontdeskError, to_frontdesk_error
from app.transfer.health import TransferHealth, assess_health, update_metrics
from app.transfer.protocol.endpoints import Sides
from app.transfer.protocol.status import read_status
from app.transfer.verification.divergence_monitor import shared_monitor
from app.web.health.single_flight import SingleFlight

log = logging.getLogger(__name__)

STATUS_TIMEOUT_SECONDS = 5.0  # seconds for both sides; callers wait less, see single_flight.py
MAX_RESULT_AGE = timedelta(minutes=1)


class TransferCheck:
    """Looks at most once a second. Without LEGACY_DATABASE_URL there is nothing to look at: None."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._last: TransferHealth | None = None
        self._failure = ""
        self._single_flight: SingleFlight[TransferHealth | None] = SingleFlight(
            self._query_status, timeout_result=None
        )

    @property
    def is_configured(self) -> bool:
        """Whether there are two databases."""
        return self._settings.legacy_database_url is not None

    def start(self) -> None:
        """Begin now what is asked for later."""
        if self.is_configured:
            self._single_flight.start()

    def __call__(self) -> TransferHealth | None:
        """Now, or a moment ago where a side is slow. Raises FrontdeskError."""
        if not self.is_configured:
            return None
        found = self._single_flight()
        if (
            found is None
            and (last := self._last) is not None
            and datetime.now(UTC) - last.at < MAX_RESULT_AGE
        ):
            found = last
        if found is None:
            raise DeadlineError
        return found

    def _query_status(self) -> TransferHealth:
        try:
            seen = read_status(Sides.from_settings(self._settings), timeout=STATUS_TIMEOUT_SECONDS)
        except (FrontdeskError, *DRIVER_ERRORS) as error:
            failure = to_frontdesk_error(error)
            self._log(failure.message)
            raise failure from error
        self._log("; ".join(seen.in_the_way))
        update_metrics(seen)
        self._last = assess_health(seen, shared_monitor.recent())
        return self._last

    def _log(self, failure: str) -> None:
        """Say it once when it changes, not with every probe."""
        if failure != self._failure:
            log.warning("Transfer check: %s", failure or "works again")
        self._failure = failure
