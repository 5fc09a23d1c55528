"""Error boundary of the operations: every exception becomes a Result, and failures are reported once."""

from collections.abc import Callable
from functools import wraps
from time import perf_counter
from typing import Concatenate, ParamSpec, TypeVar

from app.data_layer.result import Result
from app.errors import (
    ConflictError,
    FencedError,
    InvalidInputError,
    NotFoundError,
    SlotTakenError,
    UnknownCompanyError,
)
from app.models import Base
from app.observability import operation_context
from app.observability.failure_reports import report

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

# Results that callers must expect. They are not failures of the service and are not reported.
EXPECTED_ERRORS = (
    InvalidInputError,
    UnknownCompanyError,
    NotFoundError,
    SlotTakenError,
    ConflictError,
    FencedError,
)


def operation(
    model: type[Base], component: str = "data_layer"
) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], Result[T]]]:
    """Return a decorator that makes a method an operation: it returns a Result and raises nothing.

    Failures are reported with the table of `model` and with `component`.
    """

    def decorate(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Result[T]]:
        @wraps(method)
        def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Result[T]:
            company_id = getattr(self, "company_id", None)
            started = perf_counter()
            context = operation_context.begin(company_id, method.__name__)
            try:
                return Result(method(self, *args, **kwargs))
            except EXPECTED_ERRORS as error:
                return Result(error=error)
            except Exception as error:  # noqa: BLE001 - the boundary reports every exception
                seconds = perf_counter() - started
                table = model.__tablename__
                name = method.__name__
                return Result(
                    error=report(error, name, company_id, component=component, table=table, seconds=seconds)
                )
            finally:
                operation_context.end(context)

        return run

    return decorate
