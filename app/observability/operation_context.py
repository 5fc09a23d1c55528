"""Company, operation and request of the current thread. Logs and slow queries include them."""

from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class OperationContext:
    """One operation or unit of work. `statement_counts` maps the hash of a statement to its executions."""

    company_id: int | None
    operation: str | None
    outer: "OperationContext | None"
    statement_counts: dict[int, int] = field(default_factory=dict)


_current: ContextVar[OperationContext | None] = ContextVar("operation_context", default=None)
current = _current.get

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def begin(company_id: int | None, operation: str | None = None) -> OperationContext:
    """Begin a context inside the current one, if any, and return it for `end`."""
    outer = _current.get()
    if operation is None and outer is not None:
        operation = outer.operation
    context = OperationContext(company_id, operation, outer)
    _current.set(context)
    return context


def end(context: OperationContext) -> None:
    """Restore the context that was current before `begin`.

    A framework may leave a `with` block in another thread than it entered it. In that thread, `context` is
    not current, and nothing is restored.
    """
    if _current.get() is context:
        _current.set(context.outer)
