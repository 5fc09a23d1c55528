"""What every operation answers with."""

from dataclasses import dataclass
from typing import Generic, TypeVar, cast

from app.errors import FrontdeskError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Result(Generic[T]):
    """Success with `data`, or failure with an `error` (its `code`, safe `message`, and `retryable`)."""

    data: T | None = None
    error: FrontdeskError | None = None

    @property
    def success(self) -> bool:
        """Whether the operation did what it was asked."""
        return self.error is None

    def unwrap(self) -> T:
        """The data; raises the error."""
        if self.error is not None:
            raise self.error
        return cast(T, self.data)
