"""Log lines: JSON in production, readable text elsewhere, and personal data in neither."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from app import Settings
from app.observability import log_redaction, logs, operation_context


@contextmanager
def unconfigured_logging() -> Iterator[io.StringIO]:
    """Yield a buffer that replaces stderr; the root logger has no handlers, as when a program starts."""
    stream, stderr = io.StringIO(), sys.stderr
    root = logging.getLogger()
    handlers = root.handlers[:]
    levels = {logger: logger.level for logger in map(logging.getLogger, (None, *logs._VERBOSE_LOGGERS))}
    root.handlers[:], sys.stderr = [], stream
    try:
        yield stream
    finally:
        root.handlers[:], sys.stderr = handlers, stderr
        for logger, level in levels.items():
            logger.setLevel(level)


def production() -> Settings:
    return Settings(environment="production", database_url="postgresql://x/y", sentry_enabled=False)


def lines(stream: io.StringIO) -> list[Any]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_production_writes_one_json_object_per_line() -> None:
    with unconfigured_logging() as stream:
        logs.configure(production())
        request = operation_context.request_id.set("abc")
        begun = operation_context.begin(962302, "get_client_by_id")
        logging.getLogger("app.x").warning("several\nlines of %s", "text")
        operation_context.end(begun)
        operation_context.request_id.reset(request)
        (line,) = lines(stream)
        assert (
            line.items()
            >= {
                "level": "warning",
                "logger": "app.x",
                "message": "several\nlines of text",
                "service": "frontdesk",
                "request_id": "abc",
                "company_id": 962302,
                "operation": "get_client_by_id",
            }.items()
        )
        assert line["time"].endswith("Z")


def test_development_writes_readable_lines() -> None:
    with unconfigured_logging() as stream:
        logs.configure(Settings(environment="development"))
        begun = operation_context.begin(1)
        logging.getLogger("app.x").info("hello")
        operation_context.end(begun)
        assert stream.getvalue().endswith(" INFO app.x: hello (company_id=1)\n")


@pytest.mark.parametrize("environment", ["production", "development"])
def test_an_error_is_logged_with_class_and_traceback_but_without_its_text(environment: str) -> None:
    with unconfigured_logging() as stream:
        logs.configure(production() if environment == "production" else Settings(environment="development"))
        try:
            int("Anna")
        except ValueError:
            logging.getLogger("library").exception("It failed")
        assert "Anna" not in stream.getvalue()
        assert "ValueError" in stream.getvalue()
        assert "test_logs.py" in stream.getvalue()


def test_handlers_that_the_program_has_configured_are_kept() -> None:
    with unconfigured_logging():
        own = logging.NullHandler()
        other = logging.StreamHandler(io.StringIO())
        logging.getLogger().handlers[:] = [own, other]
        logs.configure(production())
        assert logging.getLogger().handlers == [own, other]


def test_a_command_writes_no_log_lines_to_stderr() -> None:
    with unconfigured_logging() as stream:
        logs.disable_last_resort_handler()
        logging.getLogger("app.x").error("not for the terminal")
        assert stream.getvalue() == ""


def test_query_strings_and_webhook_secrets_are_not_logged() -> None:
    with unconfigured_logging() as stream:
        logs.configure(production())
        logging.getLogger("httpx").info("GET https://api.example/clients?phone=+79681234567")
        logging.getLogger("app.x").info("GET /webhooks/yclients/s3cret HTTP/1.1")
        assert "9681234567" not in stream.getvalue()
        assert "s3cret" not in stream.getvalue()
        assert "GET /webhooks/yclients/" in stream.getvalue()


@pytest.mark.parametrize(
    "line",
    [
        "Invalid request from ip=10.0.0.1: Invalid HTTP header name: 'Anna'",
        'Invalid request from ip=10.0.0.1: Invalid HTTP Version: "An\'na Anna"',
        "Ignored premature client disconnection. No more data after: b'GET /Anna'",
        "Error handling request /Anna",
        '10.0.0.1 - - "GET /health/whatsapp?name=Anna HTTP/1.1" 200 5 "https://x/?q=Anna" "curl"',
    ],
)
def test_gunicorn_lines_do_not_quote_client_input(line: str) -> None:
    record = logging.LogRecord("gunicorn.error", logging.WARNING, "", 0, line, (), None)
    assert log_redaction.request_redaction_filter(record)
    assert "Anna" not in record.getMessage()
    assert record.getMessage()[:10] == line[:10]


@pytest.mark.parametrize("environment", ["production", "development"])
def test_a_value_cannot_forge_a_log_line(environment: str) -> None:
    with unconfigured_logging() as stream:
        logs.configure(production() if environment == "production" else Settings(environment="development"))
        logging.getLogger("app.x").warning("%s", "\n12:00:00 INFO forged\r12\u2028x\u0085y")
        first, *others = stream.getvalue().splitlines()
        assert first
        assert "forged" in stream.getvalue()
        assert all(line.startswith("    ") for line in others)


def test_a_line_is_valid_json_even_if_stderr_supports_only_ascii() -> None:
    with unconfigured_logging() as stream:
        narrow = io.TextIOWrapper(io.BytesIO(), "ascii", "backslashreplace")
        sys.stderr = narrow
        logs.configure(production())
        logging.getLogger("app.x").warning("é 😀")
        narrow.seek(0)
        assert json.loads(narrow.read())["message"] == "é 😀"
        assert stream.getvalue() == ""
