"""Result of an operation."""

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from app.errors import FrontdeskError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """Success with `data`, or failure with `error` (with `code`, safe `message` and `retryable`)."""

    data: T | None = None
    error: FrontdeskError | None = None

    @property
    def success(self) -> bool:
        """True if there is no error."""
        return self.error is None

    def unwrap(self) -> T:
        """Return the data, or raise the error."""
        if self.error is not None:
            raise self.error
        return cast(T, self.data)
