"""The session store across all companies, for operators: its figures, and what is remembered of them.

No tenant's operation comes through here.
"""

# ruff: noqa: S608 - the parts of SQL put together here are written here, never data

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from app.database.database import Connection


class KeyCount(NamedTuple):
    """Keys of one type of one company; `expired` are those past their expiry, whatever that means."""

    company_id: int
    key_type: str
    total: int
    expired: int
    last_write: datetime


class SessionState(NamedTuple):
    """What there is of a company's session beside its keys; `paired_at` is NULL without credentials."""

    company_id: int
    paired_at: datetime | None
    owner: str | None
    contested_at: datetime | None
    contested_by: str | None
    most_sessions: int
    critical_since: datetime | None


def count_keys(connection: Connection, company_id: int | None = None) -> Sequence[KeyCount]:
    """Counts by company and type, from an index alone."""
    rows = connection.execute(
        "SELECT company_id, key_type, count(*), count(*) FILTER (WHERE expires_at < now()), max(updated_at)"
        " FROM whatsapp_keys WHERE %(company)s::bigint IS NULL OR company_id = %(company)s"
        " GROUP BY company_id, key_type ORDER BY company_id, key_type",
        {"company": company_id},
        # With a plan of its own for each value: the condition then costs nothing, or finds the index.
        prepare=False,
    )
    return [KeyCount(*row) for row in rows]


def read_session_states(connection: Connection, company_id: int | None = None) -> Sequence[SessionState]:
    """Every company, paired or not."""
    rows = connection.execute(
        "SELECT c.company_id, a.updated_at, s.owner, s.contested_at, s.contested_by,"
        " COALESCE(s.most_sessions, 0), s.critical_since FROM companies AS c"
        " LEFT JOIN whatsapp_auth AS a ON a.company_id = c.company_id"
        " LEFT JOIN whatsapp_states AS s ON s.company_id = c.company_id"
        " WHERE %(company)s::bigint IS NULL OR c.company_id = %(company)s ORDER BY c.company_id",
        {"company": company_id},
        prepare=False,
    )
    return [SessionState(*row) for row in rows]


def record_max_sessions(connection: Connection, most: Mapping[int, int]) -> None:
    """Remember how many sessions companies have, where they never had more."""
    if most:
        connection.execute(
            "INSERT INTO whatsapp_states AS s (company_id, most_sessions)"
            " SELECT company_id, sessions FROM unnest(%s::bigint[], %s::bigint[]) AS t (company_id, sessions)"
            " ORDER BY company_id"
            " ON CONFLICT (company_id) DO UPDATE SET most_sessions = excluded.most_sessions,"
            " updated_at = now() WHERE s.most_sessions < excluded.most_sessions",
            (list(most), list(most.values())),
        )


def mark_critical(connection: Connection, company_ids: Sequence[int]) -> list[int]:
    """Note that these companies are critical; return those of which nobody had noted it."""
    if not company_ids:
        return []
    rows: Any = connection.execute(
        "INSERT INTO whatsapp_states AS s (company_id, critical_since)"
        " SELECT company_id, now() FROM unnest(%s::bigint[]) AS t (company_id) ORDER BY company_id"
        " ON CONFLICT (company_id) DO UPDATE SET critical_since = excluded.critical_since,"
        " updated_at = now() WHERE s.critical_since IS NULL RETURNING company_id",
        (list(company_ids),),
    )
    return [company_id for (company_id,) in rows]


def clear_critical(connection: Connection, company_ids: Sequence[int]) -> None:
    """Note that these companies are critical no longer."""
    if company_ids:
        connection.execute(
            "UPDATE whatsapp_states SET critical_since = NULL, updated_at = now()"
            " WHERE company_id = ANY(%s::bigint[])",
            (list(company_ids),),
        )


def count_deletable(
    connection: Connection, criteria: "DeletionCriteria", company_id: int | None = None
) -> dict[str, int]:
    """How many keys of each type clean-up would delete."""
    rows: Any = connection.execute(
        f"SELECT key_type, count(*) FROM whatsapp_keys WHERE {_IS_DELETABLE}"
        " AND (%(company)s::bigint IS NULL OR company_id = %(company)s) GROUP BY key_type",
        {**criteria._asdict(), "company": company_id},
        prepare=False,
    )
    return dict(rows)


def delete_batch(
    connection: Connection, criteria: "DeletionCriteria", company_id: int, limit: int
) -> list[str]:
    """Delete at most `limit` due keys of a company; return the type of each.

    A key that a worker is writing just now is left alone, and so nobody waits for anybody.
    """
    rows: Any = connection.execute(
        "DELETE FROM whatsapp_keys WHERE ctid = ANY(ARRAY("
        f"SELECT ctid FROM whatsapp_keys WHERE company_id = %(company)s AND {_IS_DELETABLE}"
        " LIMIT %(limit)s FOR UPDATE SKIP LOCKED)) RETURNING key_type",
        {**criteria._asdict(), "company": company_id, "limit": limit},
    )
    return [key_type for (key_type,) in rows]


class DeletionCriteria(NamedTuple):
    """What clean-up may delete: types that go by expiry, types that go by idleness, and how long ago."""

    by_expiry: list[str]
    grace: timedelta
    by_idleness: list[str]
    idle: timedelta


_IS_DELETABLE = (
    "((key_type = ANY(%(by_expiry)s::text[]) AND expires_at < now() - %(grace)s)"
    " OR (key_type = ANY(%(by_idleness)s::text[]) AND updated_at < now() - %(idle)s))"
)
