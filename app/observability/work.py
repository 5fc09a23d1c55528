"""What this thread is doing, and for whom: log lines, slow queries and repeated statements name it."""

from contextvars import ContextVar, Token
from dataclasses import dataclass, field


@dataclass(slots=True)
class Work:
    """One operation or one unit of work; `repeated` counts its statements by their hash."""

    company_id: int | None = None
    operation: str | None = None
    repeated: dict[int, int] = field(default_factory=dict)


_current: ContextVar[Work | None] = ContextVar("work", default=None)
current = _current.get


def begin(company_id: int | None, operation: str | None = None) -> Token[Work | None]:
    """Begin a piece of work inside the present one, if any; hand the token to `end`."""
    if operation is None and (outer := _current.get()) is not None:
        operation = outer.operation
    return _current.set(Work(company_id, operation))


def end(token: Token[Work | None]) -> None:
    """Go back to what was done before."""
    _current.reset(token)


request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
