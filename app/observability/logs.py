"""Log format: JSON in production, plain text elsewhere, with request and company but no personal data."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from app.config import Settings
from app.observability import operation_context
from app.observability.log_redaction import secret_redaction_filter
from app.observability.tracebacks import format_traceback
from app.text import format_utc

# At level INFO, httpx logs URLs with their query strings, which may contain phone numbers. The other loggers
# write too many lines.
_VERBOSE_LOGGERS = ("httpx", "httpcore", "psycopg.pool", "alembic.runtime.plugins")


def configure(settings: Settings) -> None:
    """Log to stderr, and use the same format for gunicorn's log lines.

    If the program has configured logging itself, only the format of gunicorn's lines changes.
    """
    formatter = JsonFormatter(settings.service_name) if settings.is_production else ReadableFormatter()
    for name in ("gunicorn.error", "gunicorn.access"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
    root = logging.getLogger()
    if any(not isinstance(handler, logging.NullHandler) for handler in root.handlers):
        return
    stream = logging.StreamHandler()
    stream.setFormatter(formatter)
    stream.addFilter(secret_redaction_filter)
    root.addHandler(stream)
    root.setLevel(logging.INFO)
    for name in _VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def disable_last_resort_handler() -> None:
    """Stop Python from writing warnings to stderr if logging is not configured."""
    if not logging.getLogger().handlers:
        logging.getLogger().addHandler(logging.NullHandler())


class _Formatter(logging.Formatter):
    """Formats an exception as its class and traceback, without its text, which may contain values."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name is logging's
        kind, _, trace = ei
        return f"{format_traceback(trace)}\n{kind.__name__ if kind else ''}"


class JsonFormatter(_Formatter):
    """Formats each record as one line with a JSON object."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
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
        return json.dumps(line)  # in ASCII, so that any encoding of stderr keeps it valid


class ReadableFormatter(_Formatter):
    """Formats records like `12:30:01 WARNING app.database.pool: … (company_id=1)`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line and the traceback, ignoring the text that another handler has cached."""
        record.exc_text = None
        line = super().format(record)
        record.exc_text = None
        return "\n    ".join(line.splitlines())  # indented, so that no value can imitate a log line

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        """Return the message followed by request, company and operation."""
        context = " ".join(f"{name}={value}" for name, value in _context().items())
        return super().formatMessage(record) + (f" ({context})" if context else "")


def _context() -> dict[str, object]:
    context = operation_context.current()
    known = {
        "request_id": operation_context.request_id.get(),
        "company_id": context.company_id if context else None,
        "operation": context.operation if context else None,
    }
    return {name: value for name, value in known.items() if value is not None}
