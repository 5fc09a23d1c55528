"""Metric slots: a replacement gunicorn worker reuses the metric files of the worker it replaces.

By default, prometheus_client names the files by process id. It keeps them after the process has exited,
because counters must not lose their values. The number of files that `/metrics` reads would therefore grow
with each replacement of a worker.
"""

import os

from prometheus_client import values
from prometheus_client.multiprocess import mark_process_dead

_slot: str | None = None


def use_slot(slot: str) -> None:
    """Use this slot's metric files. The slot must not be in use by another process."""
    global _slot
    _slot = slot


def release_slot(slot: str) -> None:
    """Reset the live gauges of a slot whose process has exited; counters are kept."""
    if _is_multiprocess():
        mark_process_dead(slot)  # type: ignore[no-untyped-call] # has no annotations


def _is_multiprocess() -> bool:
    return "PROMETHEUS_MULTIPROC_DIR" in os.environ


def _process_identifier() -> str:
    return _slot or str(os.getpid())


if _is_multiprocess():  # must run before the first metric is created, so metrics.py imports this module
    values.ValueClass = values.MultiProcessValue(_process_identifier)  # type: ignore[no-untyped-call] # has no annotations
