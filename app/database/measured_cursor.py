"""Cursor class that times and counts every statement.

Sessions, reads outside a transaction and the COPY of a bulk merge all use a cursor of the connection, and all
connections create cursors of this class.
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

# The kind of longer statements is not cached: their text differs with the number of rows.
MAX_STATEMENT_CHARS = 2_000
MAX_CACHED_KINDS = 1_000  # statements; more than the service has

_kind_cache: dict[str | bytes, str] = {}

_FIRST_WORD = re.compile(r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(\w+)", re.DOTALL)
_KINDS = {kind: kind for kind in ("SELECT", "INSERT", "UPDATE", "DELETE", "COPY")}
_WRITES = re.compile(r"\b(INSERT)\s+INTO|(?<!FOR\s)(?<!KEY\s)\b(UPDATE)\s|\b(DELETE)\s+FROM", re.IGNORECASE)
_LITERALS = re.compile(r"'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|(?<![\w$])\d+(?:\.\d+)?\b", re.DOTALL)

# Modules between the code that repeats a statement and the cursor.
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
    """A psycopg cursor that measures its statements and otherwise behaves like psycopg's."""

    __slots__ = ()

    def execute(
        self,
        query: Any,
        params: Params | None = None,
        *,
        prepare: bool | None = None,
        binary: bool | None = None,
    ) -> Self:
        """Execute one statement and measure it."""
        if isinstance(query, Composable):
            query = query.as_bytes(self)  # converted once: psycopg and the metrics use the same bytes
        began = perf_counter()
        try:
            return super().execute(query, params, prepare=prepare, binary=binary)
        except psycopg.Error:
            metrics.QUERY_ERRORS.labels(statement_kind(query)).inc()
            raise
        finally:
            self._measure(query, began)

    def executemany(self, query: Any, params_seq: Iterable[Params], *, returning: bool = False) -> None:
        """Execute a statement with each set of parameters; all executions count as one statement."""
        began = perf_counter()
        try:
            super().executemany(query, params_seq, returning=returning)
        finally:
            self._measure(query, began)

    @contextmanager
    def copy(
        self, statement: Any, params: Params | None = None, *, writer: Writer | None = None
    ) -> Iterator[Copy]:
        """Run a COPY. The measured time includes the caller's time to produce or consume the rows."""
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
        if not query:  # an empty statement: the pool's check of a connection
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
    """Return SELECT, INSERT, UPDATE, DELETE, COPY or OTHER.

    A WITH statement counts as the kind of its write (INSERT first, then UPDATE, then DELETE), else as SELECT.
    """
    text = _text(query)
    match = _FIRST_WORD.match(text)
    word = match[1].upper() if match else ""
    kind = _KINDS.get(word, "OTHER")
    if word == "WITH":
        writes = {name.upper() for write in _WRITES.finditer(text) for name in write.groups() if name}
        kind = next((kind for kind in ("INSERT", "UPDATE", "DELETE") if kind in writes), "SELECT")
    if len(query) <= MAX_STATEMENT_CHARS and len(_kind_cache) < MAX_CACHED_KINDS:
        _kind_cache[query] = kind
    return kind


def redact_statement(query: str | bytes) -> str:
    """Return the statement without personal data: parameters stay placeholders, and literals become `?`.

    The result is one line of at most MAX_STATEMENT_CHARS characters.
    """
    return " ".join(_LITERALS.sub("?", _text(query)).split())[:MAX_STATEMENT_CHARS]


def _text(query: str | bytes) -> str:
    return query if isinstance(query, str) else query.decode(errors="replace")


_repetition_log = RateLimitedLog(log)


def _log_repetition(query: str | bytes, context: operation_context.OperationContext) -> None:
    """Log an N+1 problem: a statement runs once per row instead of once for all rows."""
    metrics.REPEATED_STATEMENTS.inc()
    _repetition_log.warning(
        "N+1: the same statement for the %dth time in one unit of work (company %s), at %s: %s",
        metrics.N_PLUS_ONE_THRESHOLD,
        context.company_id,
        _caller(),
        redact_statement(query)[:600],
    )


def _caller() -> str:
    """Return file, line and function of the nearest caller that is not in _SKIPPED_MODULES."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if not any(module == part or module.startswith(f"{part}.") for part in _SKIPPED_MODULES):
            break
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
