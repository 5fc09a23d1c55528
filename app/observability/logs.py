"""Log lines: JSON in production, readable elsewhere; with the request and the company, without a person."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from app.config import Settings
from app.observability import work
from app.observability.addresses import hide_secrets
from app.observability.traces import way

# At INFO it logs each address with its query, in which YClients is asked for phones.
_TOO_TALKATIVE = ("httpx", "httpcore", "psycopg.pool")


def configure(settings: Settings) -> None:
    """Log to stderr. A program that has set up logging for itself keeps its own."""
    root = logging.getLogger()
    if any(not isinstance(each, logging.NullHandler) for each in root.handlers):
        return
    root.addHandler(handler(settings.service_name, as_json=settings.is_production))
    root.setLevel(logging.INFO)
    for name in _TOO_TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)


def keep_quiet() -> None:
    """Log nothing, where Python would write warnings to stderr by itself."""
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


def handler(service: str, as_json: bool) -> logging.Handler:
    """A handler that writes to stderr and leaves out addresses' secrets."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(JsonFormatter(service) if as_json else ReadableFormatter())
    stream.addFilter(hide_secrets)
    return stream


class _Formatter(logging.Formatter):
    """Says what kind of error it was and where, never its text: a driver's text holds values."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        kind, _, trace = ei
        return f"{way(trace)}\n{kind.__name__ if kind else ''}"


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "service": self._service,
            "process": record.process,
            **_context(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class ReadableFormatter(_Formatter):
    """`12:30:01 WARNING app.database.pool: … (company_id=1)`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line, with what it is about."""
        context = " ".join(f"{name}={value}" for name, value in _context().items())
        return super().formatMessage(record) + (f" ({context})" if context else "")


def _context() -> dict[str, object]:
    present = work.current()
    known = {
        "request_id": work.request_id.get(),
        "company_id": present.company_id if present else None,
        "operation": present.operation if present else None,
    }
    return {name: value for name, value in known.items() if value is not None}
