"""The last slow queries of this process, or of all workers that share a metrics directory."""

import fcntl
import json
import logging
import os
from collections import deque
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.text import format_utc

log = logging.getLogger(__name__)

MAX_KEPT = 50
FILE = "slow_queries.json"


@dataclass(frozen=True)
class SlowQuery:
    """One slow statement. `text` contains no parameter values."""

    text: str
    kind: str
    duration_ms: float
    rows: int | None
    at: str  # UTC, ISO 8601
    company_id: int | None
    operation: str | None


_own: deque[SlowQuery] = deque(maxlen=MAX_KEPT)


def record(
    text: str, kind: str, seconds: float, rows: int | None, company_id: int | None, operation: str | None
) -> None:
    """Keep a slow query and log it."""
    at = format_utc(datetime.now(UTC))
    query = SlowQuery(text, kind, round(seconds * 1000, 1), rows, at, company_id, operation)
    log.warning(
        "Slow query: %.1f s, %s of company %s, %s rows: %s",
        seconds,
        operation or kind,
        company_id,
        rows,
        text[:200],
    )
    _own.append(query)
    if (path := _shared()) is not None:
        try:
            _add(path, query)
        except OSError as error:  # a full disk must not fail the query
            log.warning("The slow query could not be shared with the other workers: %s", error.strerror)


def recent() -> list[SlowQuery]:
    """Return at most MAX_KEPT slow queries, the newest first."""
    path = _shared()
    kept = list(_own) if path is None else _read(path)
    return kept[::-1]


def _shared() -> Path | None:
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    return Path(directory) / FILE if directory else None


def _read(path: Path) -> list[SlowQuery]:
    try:
        return [SlowQuery(**each) for each in json.loads(path.read_text())]
    except FileNotFoundError:
        return []


def _add(path: Path, query: SlowQuery) -> None:
    """Add a query to the file. The file is replaced atomically, so that a kill -9 cannot damage it."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = [*_read(path), query][-MAX_KEPT:]
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps([asdict(each) for each in kept]))
        new.replace(path)
