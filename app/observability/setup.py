"""What every program does first."""

import logging

from app.config import Settings
from app.observability import logs, sentry

log = logging.getLogger(__name__)


def start_observability(settings: Settings) -> None:
    """Sentry before anything else, then the log, and in it what the settings leave unsafe."""
    sentry.initialise(settings)
    logs.configure(settings)
    for warning in settings.warnings():
        log.warning("%s: %s", warning.setting, warning.reason)
