"""The one error boundary: what happens below becomes a Result here, and is reported here, once."""

import logging
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from app.data_layer.result import Result
from app.errors import (
    ConflictError,
    FencedError,
    FrontdeskError,
    InvalidInputError,
    NotFoundError,
    SlotTakenError,
    UnknownCompanyError,
    from_driver,
)
from app.observability import sentry

log = logging.getLogger(__name__)

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

# Outcomes that a caller must expect; they are answers, not failures of the service.
EXPECTED = (InvalidInputError, UnknownCompanyError, NotFoundError, SlotTakenError, ConflictError, FencedError)


def operation(
    method: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], Result[T]]:
    """Make a method an operation of the data layer: it answers with a Result and raises nothing."""

    @wraps(method)
    def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Result[T]:
        try:
            return Result(method(self, *args, **kwargs))
        except EXPECTED as error:
            return Result(error=error)
        except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, it is reported and answered
            failure = error if isinstance(error, FrontdeskError) else from_driver(error)
            report(error, method.__name__, getattr(self, "company_id", None))
            return Result(error=failure)

    return run


def report(error: Exception, operation_name: str, company_id: int | None) -> None:
    """Tell the log and Sentry; the log gets the kind of error and the way to it, never its text."""
    failure = from_driver(error)
    log.error(
        "%s failed for company %s: %s (%s)",
        operation_name,
        company_id,
        failure.message,
        type(error.__cause__ or error).__name__,
    )
    if failure.code == "internal":
        log.error("The way to it:\n%s", "".join(traceback.format_tb(error.__traceback__)))
    sentry.capture(error, operation=operation_name, company_id=company_id)
