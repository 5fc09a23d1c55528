"""The one way in which a failure is told: a line in the log, one event to Sentry, a count."""

import logging

from app.errors import FrontdeskError, to_frontdesk_error
from app.observability import metrics, sentry
from app.observability.tracebacks import format_traceback

log = logging.getLogger(__name__)


def report(
    error: BaseException,
    operation: str,
    company_id: int | None = None,
    *,
    component: str = "data_layer",
    table: str | None = None,
    seconds: float | None = None,
) -> FrontdeskError:
    """Tell of a failure once, whoever passes it on afterwards; return it as one of our errors.

    The log gets the kind of error and the way to it, never its text: a driver's text holds values.
    `seconds` is how long the operation ran.
    """
    failure = to_frontdesk_error(error)
    if _is_reported(error):
        return failure
    _mark_as_reported(error, failure)
    kind = type(error.__cause__ or error).__name__
    log.error("%s failed for company %s: %s (%s)", operation, company_id, failure.message, kind)
    if failure.code == "internal":
        log.error("The way to it:\n%s", format_traceback(error.__traceback__))
    metrics.FAILURES.labels(component, failure.code).inc()
    sentry.capture_exception(
        error,
        component=component,
        operation=operation,
        table=table,
        company_id=company_id,
        duration_ms=None if seconds is None else round(seconds * 1000),
        code=failure.code,
    )
    return failure


_REPORTED_ATTRIBUTE = "_frontdesk_told"


def _is_reported(error: BaseException) -> bool:
    return getattr(error, _REPORTED_ATTRIBUTE, False) or getattr(error.__cause__, _REPORTED_ATTRIBUTE, False)


def _mark_as_reported(*errors: BaseException) -> None:
    for error in errors:
        setattr(error, _REPORTED_ATTRIBUTE, True)
