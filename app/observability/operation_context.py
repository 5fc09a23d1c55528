"""What this thread is doing, and for whom: log lines, slow queries and repeated statements name it."""

from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class OperationContext:
    """One operation or one unit of work; `statement_counts` counts its statements by their hash."""

    company_id: int | None
    operation: str | None
    outer: "OperationContext | None"
    statement_counts: dict[int, int] = field(default_factory=dict)


_current: ContextVar[OperationContext | None] = ContextVar("work", default=None)
current = _current.get

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def begin(company_id: int | None, operation: str | None = None) -> OperationContext:
    """Begin a piece of work inside the present one, if any; hand it to `end`."""
    outer = _current.get()
    if operation is None and outer is not None:
        operation = outer.operation
    work = OperationContext(company_id, operation, outer)
    _current.set(work)
    return work


def end(context: OperationContext) -> None:
    """Go back to what was done before.

    A framework may leave a `with` block in another thread or context than it entered it; there is nothing
    to go back to there.
    """
    if _current.get() is context:
        _current.set(context.outer)
