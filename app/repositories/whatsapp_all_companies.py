"""WhatsApp session data of all companies: key counts, health state and clean-up, for operators only."""

# ruff: noqa: S608 - the SQL is composed of constants of this module, never of data

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from app.database.connection import Connection


class KeyCount(NamedTuple):
    """Number of keys of one type and company.

    `expired` counts the keys past `expires_at`, also for types that clean-up keeps.
    """

    company_id: int
    key_type: str
    total: int
    expired: int
    last_write: datetime


class SessionState(NamedTuple):
    """The state of a company's session, without its keys. Without credentials, `paired_at` has no value."""

    company_id: int
    paired_at: datetime | None
    owner: str | None
    contested_at: datetime | None
    contested_by: str | None
    most_sessions: int
    critical_since: datetime | None


def count_keys(connection: Connection, company_id: int | None = None) -> Sequence[KeyCount]:
    """Return the key counts by company and type. An index-only scan answers the query."""
    rows = connection.execute(
        "SELECT company_id, key_type, count(*), count(*) FILTER (WHERE expires_at < now()), max(updated_at)"
        " FROM whatsapp_keys WHERE %(company)s::bigint IS NULL OR company_id = %(company)s"
        " GROUP BY company_id, key_type ORDER BY company_id, key_type",
        {"company": company_id},
        # Unprepared, the statement is planned for the actual value: with NULL, the planner drops the
        # condition; otherwise it uses the index.
        prepare=False,
    )
    return [KeyCount(*row) for row in rows]


def read_session_states(connection: Connection, company_id: int | None = None) -> Sequence[SessionState]:
    """Return the session state of every company (or of one), paired or not."""
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
    """Store the session counts by company id where they exceed the highest count stored so far."""
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
    """Mark these companies as critical; return the ids of the newly marked ones."""
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
    """Remove the mark of `mark_critical` from these companies."""
    if company_ids:
        connection.execute(
            "UPDATE whatsapp_states SET critical_since = NULL, updated_at = now()"
            " WHERE company_id = ANY(%s::bigint[])",
            (list(company_ids),),
        )


def count_deletable(
    connection: Connection, criteria: "DeletionCriteria", company_id: int | None = None
) -> dict[str, int]:
    """Return the number of keys that clean-up would delete, by type."""
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
    """Delete at most `limit` keys of a company that match `criteria`; return the type of each deleted key.

    Keys that a worker is writing are skipped (SKIP LOCKED), so that neither side waits for the other.
    """
    rows: Any = connection.execute(
        "DELETE FROM whatsapp_keys WHERE ctid = ANY(ARRAY("
        f"SELECT ctid FROM whatsapp_keys WHERE company_id = %(company)s AND {_IS_DELETABLE}"
        " LIMIT %(limit)s FOR UPDATE SKIP LOCKED)) RETURNING key_type",
        {**criteria._asdict(), "company": company_id, "limit": limit},
    )
    return [key_type for (key_type,) in rows]


class DeletionCriteria(NamedTuple):
    """The keys that clean-up may delete.

    Types in `by_expiry` are deleted when they expired more than `grace` ago, types in `by_idleness` when they
    were last written more than `idle` ago.
    """

    by_expiry: list[str]
    grace: timedelta
    by_idleness: list[str]
    idle: timedelta


_IS_DELETABLE = (
    "((key_type = ANY(%(by_expiry)s::text[]) AND expires_at < now() - %(grace)s)"
    " OR (key_type = ANY(%(by_idleness)s::text[]) AND updated_at < now() - %(idle)s))"
)
