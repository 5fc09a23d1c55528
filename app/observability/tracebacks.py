"""The way to an error, fit for a log."""

import traceback
from types import TracebackType


def format_traceback(tb: TracebackType | None) -> str:
    """A line for each call, without the source: it may quote a phone or a name, in a script say."""
    calls = traceback.extract_tb(tb)
    return "\n".join(f"  {call.filename}:{call.lineno} in {call.name}" for call in calls)
