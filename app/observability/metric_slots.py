"""Places of workers that share their metrics in files: whoever replaces a worker goes on with its files.

prometheus_client names each process's files by its id. What a process has counted still counts when it is
gone, so its files stay, and with every worker that is replaced there is more to read for `/metrics`.
"""

import os

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

_slot: str | None = None


def use_slot(slot: str) -> None:
    """Count in the files of `slot` from now on; no other running process may have it."""
    global _slot
    _slot = slot


def release_slot(slot: str) -> None:
    """The process at `slot` is gone: it has no connections any more; what it has counted stays counted."""
    if _is_multiprocess():
        mark_process_dead(slot)  # type: ignore[no-untyped-call] # has no annotations


def _is_multiprocess() -> bool:
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


def _process_identifier() -> str:
    return _slot or str(os.getpid())


if _is_multiprocess():  # before the first metric is made, so metrics.py imports this
    values.ValueClass = values.MultiProcessValue(_process_identifier)  # type: ignore[no-untyped-call] # has no annotations
