"""Counting and deletion of test data in a live database, in short transactions.

A row is test data if it has both markers: its name begins with `[TEST`, and its phone is one of TEST_PHONES.
Only clients and bookings have a name and a phone. The services and the slot of a deleted booking are deleted
with it; other tables are not touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from app.config import Settings
from app.database.connection import Connection, connect_directly
from app.errors import ConfigurationError, UnknownCompanyError

DEFAULT_LIMIT = 100  # rows deleted per table in one run
ROWS_PER_TRANSACTION = 500  # bookings or clients
TEST_NAME_PREFIX = "[TEST"

_NAME = {"clients": "name", "bookings": "client_name"}
_PHONE = {"clients": "phone", "bookings": "client_phone"}
_TABLES = ("booking_services", "booking_slots", "bookings", "clients")  # children before parents

# FOR UPDATE locks the rows before anything is deleted; after waiting for a lock, PostgreSQL checks the
# conditions again.
_BOOKINGS = """
    SELECT company_id, id,
        (SELECT count(*) FROM booking_services AS s
            WHERE (s.company_id, s.booking) = (row.company_id, row.id)),
        (SELECT count(*) FROM booking_slots AS s
            WHERE (s.company_id, s.booking) = (row.company_id, row.id))
    FROM bookings AS row
    WHERE {marked} AND (company_id, id) > (%(after_company)s, %(after_id)s)
    ORDER BY company_id, id LIMIT %(portion)s {lock}
"""
# Clients are deleted after bookings. A client stays while a booking without markers, or one left for the next
# run by the limit, still refers to it.
_CLIENTS = """
    SELECT company_id, id FROM clients AS row
    WHERE {marked} AND (company_id, id) > (%(after_company)s, %(after_id)s) AND {without_bookings}
    ORDER BY company_id, id LIMIT %(portion)s {lock}
"""
_WITHOUT_BOOKINGS = """
    NOT EXISTS (
        SELECT FROM bookings AS b WHERE b.company_id = row.company_id
            AND (b.client_id = row.yclients_id
                OR b.client_phone = row.phone AND starts_with(b.client_name, %(prefix)s))
            AND (b.company_id, b.id) NOT IN (
                SELECT * FROM unnest(%(gone_companies)s::bigint[], %(gone_ids)s::bigint[]))
    )
"""
_COUNTS = """
    SELECT count(*) FILTER (WHERE by_name AND by_phone), count(*) FILTER (WHERE by_name AND NOT by_phone),
        count(*) FILTER (WHERE by_phone AND NOT by_name)
    FROM (
        SELECT coalesce(starts_with({name}, %(prefix)s), false) AS by_name,
            coalesce({phone} = ANY(%(phones)s), false) AS by_phone
        FROM {table} WHERE %(company_id)s::bigint IS NULL OR company_id = %(company_id)s
    ) AS markers
"""


@dataclass
class DeletedTestData:
    """Rows deleted by table (in a dry run, rows to delete), and rows of test data that remain."""

    is_dry_run: bool
    deleted: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_TABLES, 0))
    remaining: dict[str, int] = field(default_factory=dict)


def stats(settings: Settings, company_id: int | None = None) -> dict[str, dict[str, int]]:
    """Count the rows with both markers and with only one, by table.

    Returns counts named "marked", "name_only" and "phone_only" for "clients" and "bookings". Raises the same
    errors as `clean`.
    """
    with connect_directly(settings) as connection:
        return _counts(connection, _parameters(connection, settings, company_id))


def clean(
    settings: Settings, company_id: int | None = None, limit: int = DEFAULT_LIMIT, dry_run: bool = True
) -> DeletedTestData:
    """Delete at most `limit` rows of test data from each table, in short transactions.

    `dry_run` only counts the rows. Raises ConfigurationError if TEST_PHONES is not set, UnknownCompanyError,
    and the errors of psycopg; transactions committed before an error stay committed.
    """
    result = DeletedTestData(dry_run)
    with connect_directly(settings) as connection:
        parameters = _parameters(connection, settings, company_id)
        gone: list[tuple[int, int]] = []
        while _delete_bookings(connection, parameters, result, limit, gone):
            pass
        parameters |= {
            "gone_companies": [company for company, _ in gone],
            "gone_ids": [id_ for _, id_ in gone],
        }
        parameters |= _START
        while _delete_clients(connection, parameters, result, limit):
            pass
        left = _counts(connection, parameters)
    for table, counts in left.items():
        result.remaining[table] = counts["marked"] - (result.deleted[table] if dry_run else 0)
    return result


_START: dict[str, Any] = {"after_company": 0, "after_id": -(2**63)}


def _parameters(connection: Connection, settings: Settings, company_id: int | None) -> dict[str, Any]:
    if not settings.test_phones:
        raise ConfigurationError(
            "TEST_PHONES is not set: test data cannot be recognised without it. Set it to the phones of the"
            " test clients, separated by commas."
        )
    if company_id is not None:
        known = connection.execute("SELECT FROM companies WHERE company_id = %s", (company_id,)).fetchone()
        if known is None:
            raise UnknownCompanyError
    return {
        "phones": list(settings.test_phones),
        "prefix": TEST_NAME_PREFIX,
        "company_id": company_id,
        **_START,
    }


def _delete_bookings(
    connection: Connection,
    parameters: dict[str, Any],
    result: DeletedTestData,
    limit: int,
    deleted_keys: list[tuple[int, int]],
) -> bool:
    """Delete one batch of bookings with their services and slots, in one transaction.

    Appends their keys to `deleted_keys`. Returns False if no booking was left to delete.
    """
    deleted = result.deleted
    parameters["portion"] = min(ROWS_PER_TRANSACTION, limit - deleted["bookings"])
    with connection.transaction():
        rows = connection.execute(
            sql.SQL(_BOOKINGS).format(marked=_marked("bookings"), lock=_lock_clause(result)), parameters
        ).fetchall()
        chosen = []
        for company_id, booking, services, slots in rows:
            parameters |= {"after_company": company_id, "after_id": booking}
            # The limit applies to services too: a booking whose services would exceed it stays whole.
            if deleted["booking_services"] + services <= limit:
                chosen.append((company_id, booking))
                deleted["booking_services"] += services
                deleted["booking_slots"] += slots
        deleted["bookings"] += len(chosen)
        if not result.is_dry_run:
            for table, column in (
                ("booking_services", "booking"),
                ("booking_slots", "booking"),
                ("bookings", "id"),
            ):
                _delete(connection, table, column, chosen)
    deleted_keys += chosen
    return bool(rows)


def _delete_clients(
    connection: Connection, parameters: dict[str, Any], result: DeletedTestData, limit: int
) -> bool:
    parameters["portion"] = min(ROWS_PER_TRANSACTION, limit - result.deleted["clients"])
    statement = sql.SQL(_CLIENTS).format(
        marked=_marked("clients"), without_bookings=sql.SQL(_WITHOUT_BOOKINGS), lock=_lock_clause(result)
    )
    with connection.transaction():
        chosen = connection.execute(statement, parameters).fetchall()
        if chosen:
            parameters |= {"after_company": chosen[-1][0], "after_id": chosen[-1][1]}
        result.deleted["clients"] += len(chosen)
        if not result.is_dry_run:
            _delete(connection, "clients", "id", chosen)
    return bool(chosen)


def _delete(connection: Connection, table: str, column: str, keys: Sequence[tuple[int, int]]) -> None:
    connection.execute(
        sql.SQL(
            "DELETE FROM {table} WHERE (company_id, {column}) IN"
            " (SELECT * FROM unnest(%s::bigint[], %s::bigint[]))"
        ).format(table=sql.Identifier(table), column=sql.Identifier(column)),
        ([company for company, _ in keys], [id_ for _, id_ in keys]),
    )


def _marked(table: str) -> sql.Composed:
    return sql.SQL(
        "starts_with({name}, %(prefix)s) AND {phone} = ANY(%(phones)s)"
        " AND (%(company_id)s::bigint IS NULL OR company_id = %(company_id)s)"
    ).format(name=sql.Identifier(_NAME[table]), phone=sql.Identifier(_PHONE[table]))


def _lock_clause(result: DeletedTestData) -> sql.SQL:
    return sql.SQL("" if result.is_dry_run else "FOR UPDATE")


def _counts(connection: Connection, parameters: dict[str, Any]) -> dict[str, dict[str, int]]:
    counts = {}
    for table in _NAME:
        statement = sql.SQL(_COUNTS).format(
            name=sql.Identifier(_NAME[table]),
            phone=sql.Identifier(_PHONE[table]),
            table=sql.Identifier(table),
        )
        (row,) = connection.execute(statement, parameters)
        counts[table] = dict(zip(("marked", "name_only", "phone_only"), row, strict=True))
    return counts
