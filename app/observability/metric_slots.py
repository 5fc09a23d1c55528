"""Places of workers that share their metrics in files: whoever replaces a worker goes on with its files.

prometheus_client names each process's files by its id. What a process has counted still counts when it is
gone, so its files stay, and with every worker that is replaced there is more to read for `/metrics`.
"""

import os

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

_place: str | None = None


def take(place: str) -> None:
    """Count in the files of `place` from now on; no other running process may have it."""
    global _place
    _place = place


def leave(place: str) -> None:
    """The process at `place` is gone: it has no connections any more; what it has counted stays counted."""
    if _is_shared():
        mark_process_dead(place)  # type: ignore[no-untyped-call] # has no annotations


def _is_shared() -> bool:
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


def _own() -> str:
    return _place or str(os.getpid())


if _is_shared():  # before the first metric is made, so metrics.py imports this
    values.ValueClass = values.MultiProcessValue(_own)  # type: ignore[no-untyped-call] # has no annotations
