"""Start of logging and Sentry, the first step of every program."""

import logging

from app.config import Settings
from app.observability import logs, sentry

log = logging.getLogger(__name__)


def start_observability(settings: Settings) -> None:
    """Initialise Sentry, configure the log, and log a warning for each unsafe setting."""
    sentry.initialise(settings)
    logs.configure(settings)
    for warning in settings.warnings():
        log.warning("%s: %s", warning.setting, warning.reason)
