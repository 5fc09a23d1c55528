"""Sentry: one place that initialises it and one that captures; nothing personal leaves the process."""

import logging
from typing import Any

import sentry_sdk
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.utils import BadDsn

from app.config import Settings
from app.observability.addresses import without_secret

log = logging.getLogger(__name__)


def initialise(settings: Settings) -> None:
    """Start Sentry where SENTRY_DSN is set; call it first thing in every entry point.

    Parameters, local variables and request data can hold phones and names: none of them is sent.
    """
    if settings.sentry_dsn is None or not settings.sentry_enabled:
        return
    try:
        sentry_sdk.init(
            dsn=settings.sentry_dsn.get_secret_value(),
            environment=settings.environment,
            release=settings.release,
            server_name=settings.service_name,
            traces_sample_rate=settings.sentry_traces_sample_rate,
            include_local_variables=False,
            max_request_body_size="never",
            # Other people's servers are not told about our traces.
            trace_propagation_targets=[],
            # Log lines are for the log: the boundary has captured the failure that they tell of.
            integrations=[LoggingIntegration(event_level=None)],
            before_send=_without_values,
            before_send_transaction=_without_values,
        )
    except BadDsn:
        # A salon's bookings do not wait for a typing error in a monitoring address.
        log.warning("SENTRY_DSN is not a Sentry address; errors are not reported to Sentry.")


def capture(error: BaseException, **tags: Any) -> None:
    """Send one event. Without a DSN this does nothing."""
    with sentry_sdk.new_scope() as scope:
        for name, value in tags.items():
            scope.set_tag(name, value)
        scope.capture_exception(error)


def message(text: str, **tags: Any) -> None:
    """Send what is no exception but somebody should see. `text` holds nothing personal."""
    with sentry_sdk.new_scope() as scope:
        for name, value in tags.items():
            scope.set_tag(name, value)
        scope.capture_message(text, level="error")


def _without_values(event: Any, hint: Any) -> Any:
    """Drop what carries values: driver errors' text (PostgreSQL quotes keys), query strings, breadcrumbs."""
    for exception in event.get("exception", {}).get("values", []):
        if not str(exception.get("module", "")).startswith("app."):
            exception["value"] = ""
    request = event.get("request", {})
    for name in ("query_string", "data", "cookies", "headers", "env"):
        request.pop(name, None)
    if "url" in request:
        request["url"] = without_secret(request["url"])
    event.pop("breadcrumbs", None)
    return event
