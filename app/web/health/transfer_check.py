"""Transfer check for probes: queries both sides, and never delays a probe."""

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

STATUS_TIMEOUT_SECONDS = 5.0  # for both sides; probes wait for a shorter time: CHECK_TIMEOUT_SECONDS
MAX_RESULT_AGE = timedelta(minutes=1)


class TransferCheck:
    """Reads the status of the transfer at most once a second. Does nothing without LEGACY_DATABASE_URL."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._last: TransferHealth | None = None
        self._failure = ""
        self._single_flight: SingleFlight[TransferHealth | None] = SingleFlight(
            self._query_status, timeout_result=None
        )

    @property
    def is_configured(self) -> bool:
        """True if LEGACY_DATABASE_URL is set."""
        return self._settings.legacy_database_url is not None

    def start(self) -> None:
        """Start a check now without waiting for it."""
        if self.is_configured:
            self._single_flight.start()

    def __call__(self) -> TransferHealth | None:
        """Return the health of the transfer, or None if no transfer is configured.

        If a side is slow, the result may be up to MAX_RESULT_AGE old. Raises DeadlineError if there is no
        such result, and another FrontdeskError if the check fails.
        """
        if not self.is_configured:
            return None
        health = self._single_flight()
        if (
            health is None
            and (last := self._last) is not None
            and datetime.now(UTC) - last.at < MAX_RESULT_AGE
        ):
            health = last
        if health is None:
            raise DeadlineError
        return health

    def _query_status(self) -> TransferHealth:
        try:
            status = read_status(Sides.from_settings(self._settings), timeout=STATUS_TIMEOUT_SECONDS)
        except (FrontdeskError, *DRIVER_ERRORS) as error:
            failure = to_frontdesk_error(error)
            self._log(failure.message)
            raise failure from error
        self._log("; ".join(status.in_the_way))
        update_metrics(status)
        self._last = assess_health(status, shared_monitor.recent())
        return self._last

    def _log(self, failure: str) -> None:
        """Log a change of the failure, not each check."""
        if failure != self._failure:
            log.warning("Transfer check: %s", failure or "works again")
        self._failure = failure
