"""Sentry: initialisation, and events without personal data.

Events are built from a list of allowed fields: a field that a new version of the SDK or of an integration
adds is not sent until it is added to the list.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from app.config import Settings

# Imported at its first use: most commands run without Sentry, and the import takes a tenth of their CPU time.
if TYPE_CHECKING:
    import sentry_sdk
    from sentry_sdk.tracing import Span

log = logging.getLogger(__name__)

ALLOWED_TAGS = ("service", "component", "operation", "table", "backend", "company_id", "duration_ms", "code")
QUERY_SPAN_OP = "db"  # spans whose description is a statement, redacted by measured_cursor.py

_ALLOWED_EVENT_FIELDS = (
    *("event_id", "type", "level", "platform", "timestamp", "start_timestamp", "sdk", "modules"),
    *("release", "environment", "server_name", "transaction", "transaction_info"),
)
_ALLOWED_SPAN_FIELDS = (
    *("trace_id", "span_id", "parent_span_id", "same_process_as_parent", "op", "origin", "status"),
    *("start_timestamp", "timestamp"),
)
_ALLOWED_FRAME_FIELDS = ("filename", "abs_path", "module", "function", "lineno", "in_app")

# Probes come every few seconds; their traces contain no information and cost money.
UNTRACED_PATHS = ("/health", "/metrics", "/status")

is_tracing = False
DEFAULT_BACKEND = "postgresql"
backend = DEFAULT_BACKEND  # while a database is moved, the side that this process works on: legacy or primary
_initialised_with: tuple[tuple[object, ...], Any] | None = None


def initialise(settings: Settings) -> None:
    """Initialise Sentry if SENTRY_DSN is set. Every entry point calls this first; repeated calls are allowed.

    It replaces the client of a program that has initialised Sentry itself: that client would send phone
    numbers and names.
    """
    global is_tracing, _initialised_with
    if settings.sentry_dsn is None or not settings.sentry_enabled:
        return
    if (
        _initialised_with is not None
        and _initialised_with[0] == _sentry_settings(settings)
        and is_initialised()
    ):
        return
    import sentry_sdk
    from sentry_sdk.integrations.atexit import AtexitIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration
    from sentry_sdk.integrations.sqlalchemy import SqlalchemyIntegration

    try:
        sentry_sdk.init(
            dsn=settings.sentry_dsn.get_secret_value(),
            environment=settings.environment,
            release=settings.release or _release(),
            server_name=settings.service_name,
            traces_sampler=_sampler(settings.sentry_traces_sample_rate),
            include_local_variables=False,
            include_source_context=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            auto_session_tracking=False,
            # No trace headers for other servers.
            trace_propagation_targets=[],
            integrations=[
                # Log lines are not sent: the code that logs a failure also reports it.
                LoggingIntegration(level=None, event_level=None),
                AtexitIntegration(callback=lambda pending, timeout: None),  # it writes to stderr
            ],
            # It records the statements of ORM sessions only; measured_cursor.py measures all statements.
            disabled_integrations=[SqlalchemyIntegration()],
            before_send=_filter_event,
            before_send_transaction=_filter_event,
        )
    except ValueError:  # BadDsn, or an invalid port
        # Bookings must not fail because of an invalid address of the monitoring.
        log.warning("SENTRY_DSN is not a valid DSN; errors are not reported to Sentry.")
        return
    sentry_sdk.get_global_scope().set_tag("service", settings.service_name)
    is_tracing = settings.sentry_traces_sample_rate > 0
    _initialised_with = _sentry_settings(settings), sentry_sdk.get_client()


def _sentry_settings(settings: Settings) -> tuple[object, ...]:
    """Return the settings that require Sentry to be initialised again when they change."""
    return (
        settings.sentry_dsn,
        settings.sentry_traces_sample_rate,
        settings.environment,
        settings.release,
        settings.service_name,
    )


def is_initialised() -> bool:
    """Return True if failures are sent to Sentry."""
    if _initialised_with is None:
        return False
    import sentry_sdk

    return _initialised_with[1] is sentry_sdk.get_client()


def capture_exception(error: BaseException, **tags: Any) -> None:
    """Send one event. Without a DSN this does nothing."""
    if "sentry_sdk" not in sys.modules:
        return
    with _new_scope(tags) as scope:
        scope.capture_exception(error)


def capture_message(text: str, **tags: Any) -> None:
    """Send an event without an exception. `text` must not contain personal data."""
    if "sentry_sdk" not in sys.modules:
        return
    with _new_scope(tags) as scope:
        scope.set_extra(_MESSAGE_KEY, text)
        scope.capture_message(text, level="error")


def current_sampled_span() -> "Span | None":
    """Return the span that a query belongs to if its trace is sampled, else None."""
    import sentry_sdk

    span = sentry_sdk.get_current_span()
    return span if span is not None and span.sampled else None


def add_query_span(span: "Span", statement: str, seconds: float) -> None:
    """Add a span for a query that has just ended. `statement` must not contain values."""
    end = datetime.now(UTC)
    start = end - timedelta(seconds=seconds)
    span.start_child(op=QUERY_SPAN_OP, name=statement, start_timestamp=start).finish(end_timestamp=end)


_MESSAGE_KEY = "frontdesk_message"


@contextmanager
def _new_scope(tags: dict[str, Any]) -> "Iterator[sentry_sdk.Scope]":
    import sentry_sdk

    with sentry_sdk.new_scope() as scope:
        for name, value in {"backend": backend, **tags}.items():
            if value is not None:
                scope.set_tag(name, value)
        yield scope


def _release() -> str | None:
    try:
        return f"frontdesk@{version('frontdesk')}"
    except PackageNotFoundError:
        return None


def _sampler(rate: float) -> Callable[[dict[str, Any]], float]:
    def share(context: dict[str, Any]) -> float:
        path = (context.get("wsgi_environ") or {}).get("PATH_INFO", "")
        return 0.0 if path.startswith(UNTRACED_PATHS) else rate

    return share


def _filter_event(event: Any, hint: Any) -> Any:
    """Return the event or transaction with its allowed fields only."""
    kept = {name: event[name] for name in _ALLOWED_EVENT_FIELDS if name in event}
    if event.get("transaction_info", {}).get("source") == "url":  # a URL may contain personal data
        kept["transaction"] = "unknown"
    kept["tags"] = {name: value for name, value in (event.get("tags") or {}).items() if name in ALLOWED_TAGS}
    contexts = event.get("contexts", {})
    kept["contexts"] = {"trace": _span(contexts["trace"])} if "trace" in contexts else {}
    if "runtime" in contexts:
        kept["contexts"]["runtime"] = contexts["runtime"]
    if "spans" in event:
        kept["spans"] = [_span(span) for span in event["spans"]]
    if "method" in (request := event.get("request", {})):
        kept["request"] = {"method": request["method"]}
    if (text := event.get("extra", {}).get(_MESSAGE_KEY)) is not None:
        kept["message"] = text
    if "exception" in event:
        kept["exception"] = {"values": [_exception(each) for each in event["exception"]["values"]]}
    return kept


def _span(span: dict[str, Any]) -> dict[str, Any]:
    kept = {name: span[name] for name in _ALLOWED_SPAN_FIELDS if name in span}
    if span.get("op") == QUERY_SPAN_OP and "description" in span:
        kept["description"] = span["description"]
    return kept


def _exception(exception: dict[str, Any]) -> dict[str, Any]:
    """Return type and stack trace, and for errors of this application the text; others may contain values."""
    mechanism = exception.get("mechanism") or {}
    frames = (exception.get("stacktrace") or {}).get("frames") or []
    module = str(exception.get("module") or "")
    return {
        "type": exception.get("type"),
        "module": module,
        "value": exception.get("value", "") if module.startswith("app.") else "",
        "mechanism": {name: mechanism[name] for name in ("type", "handled") if name in mechanism},
        "stacktrace": {
            "frames": [
                {name: frame[name] for name in _ALLOWED_FRAME_FIELDS if name in frame} for frame in frames
            ]
        },
    }
