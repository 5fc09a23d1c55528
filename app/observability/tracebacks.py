"""Tracebacks without personal data, for the log."""

import traceback
from types import TracebackType


def format_traceback(tb: TracebackType | None) -> str:
    """Format a traceback as file:line in function, without source lines (they may contain personal data)."""
    calls = traceback.extract_tb(tb)
    return "\n".join(f"  {call.filename}:{call.lineno} in {call.name}" for call in calls)
