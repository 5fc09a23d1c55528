"""The one error boundary: what happens below becomes a Result here, and is reported here, once."""

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

# Outcomes that a caller must expect; they are answers, not failures of the service.
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
    """Make a method an operation: it answers with a Result and raises nothing.

    `model` is what the operation is about; a failure is reported with its table, and with `component`.
    """

    def decorate(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Result[T]]:
        @wraps(method)
        def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> Result[T]:
            company_id = getattr(self, "company_id", None)
            began = perf_counter()
            begun = operation_context.begin(company_id, method.__name__)
            try:
                return Result(method(self, *args, **kwargs))
            except EXPECTED_ERRORS as error:
                return Result(error=error)
            except Exception as error:  # noqa: BLE001 - the boundary: whatever it is, it is reported and answered
                seconds = perf_counter() - began
                table = model.__tablename__
                name = method.__name__
                return Result(
                    error=report(error, name, company_id, component=component, table=table, seconds=seconds)
                )
            finally:
                operation_context.end(begun)

        return run

    return decorate
