"""The one place that every statement goes through, whoever sends it: it is timed and counted here.

Sessions, lone reads and the merge's COPY all use a cursor of the connection, and this is its class.
"""

import logging
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any, Self

import psycopg
from psycopg import Copy
from psycopg.abc import Params
from psycopg.copy import Writer
from psycopg.sql import Composable

from app.observability import metrics, operation_context, sentry, slow_queries
from app.observability.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)

MAX_STATEMENT_CHARS = (
    2_000  # characters; longer texts differ with every number of rows and are not worth remembering
)
MAX_CACHED_KINDS = 1_000  # texts whose kind is remembered: more than the service has of its own

_kind_cache: dict[str | bytes, str] = {}

_FIRST_WORD = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(\w+)", re.DOTALL)
_KINDS = {kind: kind for kind in ("SELECT", "INSERT", "UPDATE", "DELETE", "COPY")}
_WRITES = re.compile(r"\b(INSERT)\s+INTO|(?<!FOR\s)(?<!KEY\s)\b(UPDATE)\s|\b(DELETE)\s+FROM", re.IGNORECASE)
_LITERALS = re.compile(r"'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|(?<![\w$])\d+(?:\.\d+)?\b", re.DOTALL)

# On the way from whoever repeats a statement to the statement.
_SKIPPED_MODULES = (
    "app.database",
    "app.observability",
    "app.repositories",
    "app.data_layer.unit_of_work",
    "contextlib",
    "psycopg",
    "sqlalchemy",
)


class MeasuredCursor(psycopg.Cursor[Any]):
    """A cursor whose statements are timed; what happens to them is otherwise psycopg's own business."""

    __slots__ = ()

    def execute(
        self,
        query: Any,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """Run one statement."""
        if isinstance(query, Composable):
            query = query.as_bytes(self)  # as psycopg does, which then need not do it again
        began = perf_counter()
        try:
            return super().execute(query, params, prepare=prepare, binary=binary)
        except psycopg.Error:
            metrics.QUERY_ERRORS.labels(statement_kind(query)).inc()
            raise
        finally:
            self._measure(query, began)

    def executemany(self, query: Any, params_seq: Iterable[Params], *, returning: bool = False) -> None:
        """Run one statement with many parameters; it counts as one."""
        began = perf_counter()
        try:
            super().executemany(query, params_seq, returning=returning)
        finally:
            self._measure(query, began)

    @contextmanager
    def copy(
        self, statement: Any, params: Params | None = None, *, writer: Writer | None = None
    ) -> Iterator[Copy]:
        """COPY; its time includes that of whoever makes or takes the rows."""
        if isinstance(statement, Composable):
            statement = statement.as_bytes(self)
        began = perf_counter()
        try:
            with super().copy(statement, params, writer=writer) as copy:
                yield copy
        finally:
            self._measure(statement, began)

    def _measure(self, query: str | bytes, began: float) -> None:
        seconds = perf_counter() - began
        if not query:  # the pool's way to see whether a connection lives
            return
        kind = _kind_cache.get(query) or statement_kind(query)
        metrics.count_query(kind, seconds)
        present = operation_context.current()
        if present is not None:
            shape = hash(query)
            times = present.statement_counts[shape] = present.statement_counts.get(shape, 0) + 1
            if times == metrics.N_PLUS_ONE_THRESHOLD:
                _log_repetition(query, present)
        if sentry.is_tracing and (span := sentry.current_sampled_span()) is not None:
            sentry.add_query_span(span, redact_statement(query), seconds)
        if seconds > metrics.SLOW_QUERY_SECONDS:
            metrics.SLOW_QUERIES.labels(kind).inc()
            rows = self.rowcount if self.rowcount >= 0 else None
            company_id, operation = (present.company_id, present.operation) if present else (None, None)
            slow_queries.record(redact_statement(query), kind, seconds, rows, company_id, operation)


def statement_kind(query: str | bytes) -> str:
    """SELECT, INSERT, UPDATE, DELETE, COPY, or OTHER; of a WITH what it writes, INSERT before all."""
    text = _text(query)
    found = _FIRST_WORD.match(text)
    word = found[1].upper() if found else ""
    kind = _KINDS.get(word, "OTHER")
    if word == "WITH":
        writes = {name.upper() for match in _WRITES.finditer(text) for name in match.groups() if name}
        kind = next((kind for kind in ("INSERT", "UPDATE", "DELETE") if kind in writes), "SELECT")
    if len(query) <= MAX_STATEMENT_CHARS and len(_kind_cache) < MAX_CACHED_KINDS:
        _kind_cache[query] = kind
    return kind


def redact_statement(query: str | bytes) -> str:
    """The statement as people may see it: placeholders for parameters, `?` for what is written in it."""
    return " ".join(_LITERALS.sub("?", _text(query)).split())[:MAX_STATEMENT_CHARS]


def _text(query: str | bytes) -> str:
    return query if isinstance(query, str) else query.decode(errors="replace")


_repetition_log = RateLimitedLog(log)


def _log_repetition(query: str | bytes, context: operation_context.OperationContext) -> None:
    """An N+1: the statement runs once for each row where one statement for all rows would do."""
    metrics.REPEATED_STATEMENTS.inc()
    _repetition_log.warning(
        "N+1: the same statement for the %dth time in one unit of work (company %s), at %s: %s",
        metrics.N_PLUS_ONE_THRESHOLD,
        context.company_id,
        _caller(),
        redact_statement(query)[:600],
    )


def _caller() -> str:
    """Where the repetition is: the first frame on the way up that is no part of sending a statement."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if not any(module == part or module.startswith(f"{part}.") for part in _SKIPPED_MODULES):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
