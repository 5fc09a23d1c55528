"""Severity of a health status, one scale for all checks."""

from enum import IntEnum


class Severity(IntEnum):
    """Severity; higher is worse."""

    HEALTHY = 0
    WARNING = 1
    CRITICAL = 2

    def __str__(self) -> str:
        return self.name.lower()
