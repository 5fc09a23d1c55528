"""How bad it is: one scale for all that is watched."""

from enum import IntEnum


class Severity(IntEnum):
    """The greater, the worse."""

    HEALTHY = 0
    WARNING = 1
    CRITICAL = 2

    def __str__(self) -> str:
        return self.name.lower()
