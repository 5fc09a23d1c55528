"""Log lines: JSON in production, readable elsewhere; with the request and the company, without a person."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from app.config import Settings
from app.observability import operation_context
from app.observability.log_redaction import secret_redaction_filter
from app.observability.tracebacks import format_traceback
from app.text import format_utc

# At INFO httpx logs each address with its query, which may hold a phone; the others are only many.
_VERBOSE_LOGGERS = ("httpx", "httpcore", "psycopg.pool", "alembic.runtime.plugins")


def configure(settings: Settings) -> None:
    """Log to stderr, gunicorn's own lines as ours; a program that has set up logging keeps its own."""
    formatter = JsonFormatter(settings.service_name) if settings.is_production else ReadableFormatter()
    for name in ("gunicorn.error", "gunicorn.access"):
        for each in logging.getLogger(name).handlers:
            each.setFormatter(formatter)
    root = logging.getLogger()
    if any(not isinstance(each, logging.NullHandler) for each in root.handlers):
        return
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    handler.addFilter(secret_redaction_filter)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def disable_last_resort_handler() -> None:
    """Log nothing, where Python would write warnings to stderr by itself."""
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


class _Formatter(logging.Formatter):
    """Says what kind of error it was and where, never its text: a driver's text holds values."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - logging's own name
        kind, _, trace = ei
        return f"{format_traceback(trace)}\n{kind.__name__ if kind else ''}"


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": format_utc(datetime.fromtimestamp(record.created, UTC), "milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "service": self._service,
            "process": record.process,
            **_context(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)  # in ASCII: whatever stderr is encoded in, it stays one line and JSON


class ReadableFormatter(_Formatter):
    """`12:30:01 WARNING app.database.pool: … (company_id=1)`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the way to an error: ours, not the text that another handler has left here."""
        record.exc_text = None
        line = super().format(record)
        record.exc_text = None
        return "\n    ".join(line.splitlines())  # so no value can look like a line of its own

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The line, with what it is about."""
        context = " ".join(f"{name}={value}" for name, value in _context().items())
        return super().formatMessage(record) + (f" ({context})" if context else "")


def _context() -> dict[str, object]:
    present = operation_context.current()
    known = {
        "request_id": operation_context.request_id.get(),
        "company_id": present.company_id if present else None,
        "operation": present.operation if present else None,
    }
    return {name: value for name, value in known.items() if value is not None}
