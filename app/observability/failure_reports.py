"""Reports of failures: one log entry, one Sentry event and one count per failure."""

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
    """Log, count and send a failure to Sentry once, even if several callers report it.

    Returns the failure as a FrontdeskError. The log contains the class of the error and a traceback, never
    the text of the error, because texts of the driver contain values. `seconds` is the duration of the
    operation.
    """
    failure = to_frontdesk_error(error)
    if _is_reported(error):
        return failure
    _mark_as_reported(error, failure)
    kind = type(error.__cause__ or error).__name__
    log.error("%s failed for company %s: %s (%s)", operation, company_id, failure.message, kind)
    if failure.code == "internal":
        log.error("Traceback:\n%s", format_traceback(error.__traceback__))
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


_REPORTED_ATTRIBUTE = "_frontdesk_reported"


def _is_reported(error: BaseException) -> bool:
    return getattr(error, _REPORTED_ATTRIBUTE, False) or getattr(error.__cause__, _REPORTED_ATTRIBUTE, False)


def _mark_as_reported(*errors: BaseException) -> None:
    for error in errors:
        setattr(error, _REPORTED_ATTRIBUTE, True)
