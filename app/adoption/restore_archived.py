"""Restore of rows that de-duplication archived, into the current schema of their tables."""

# ruff: noqa: S608 - the SQL is composed of names from the rules and the catalog, never of data

import json
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from app.adoption.duplicate_groups import RULES
from app.database.alembic_revision import read_revision
from app.migrations import runner

# Columns that later migrations renamed. `_translated` converts values that they also changed.
RENAMED_COLUMNS = {
    "services": {"active": "is_active"},
    "clients": {"last_visit_date": "last_visit_at"},
    "staff_schedules": {"slots": "intervals"},
    "bookings": {"yclients_id": "yclients_record_id", "datetime": "starts_at"},
    "dialog_contexts": {"last_activity": "last_activity_at"},
}


@dataclass(frozen=True)
class RestoredRow:
    """The result for one archived row. `refused` is the reason if it was not restored; no personal data.

    `left_out`: columns with a value that no longer exist in the table. If there are any, the row also stays
    in the archive.
    """

    archive_id: int
    table: str | None = None
    id: int | None = None
    left_out: tuple[str, ...] = ()
    refused: str | None = None


class _Column(NamedTuple):
    """A column of the current table. `quoted` is its name, quoted for SQL and escaped for `text`."""

    quoted: str
    is_computed: bool
    is_required_json: bool

    @property
    def value(self) -> str:
        """Return the SQL expression of the value. For a required JSON column, SQL NULL becomes JSON null."""
        return f"coalesce({self.quoted}, 'null')" if self.is_required_json else self.quoted


def restore(url: str, archive_ids: Iterable[int], dry_run: bool) -> list[RestoredRow]:
    """Restore archived duplicates, one transaction each. The rows that they were merged into are not changed.

    A dry run rolls each transaction back. Raises CommandError if a migration is running.
    """
    outcomes = []
    with (
        runner.migration_engine(url) as engine,
        runner.migration_lock(engine, wait=False),
        engine.connect() as connection,
    ):
        for archive_id in dict.fromkeys(archive_ids):
            outcomes.append(_restore(connection, archive_id))
            if dry_run or outcomes[-1].refused:
                connection.rollback()
            connection.commit()
    return outcomes


def _restore(connection: Connection, archive_id: int) -> RestoredRow:
    if connection.scalar(text("SELECT to_regclass('archived_rows')")) is None:
        return RestoredRow(
            archive_id, refused="table archived_rows does not exist: nothing has been archived"
        )
    entry = connection.execute(
        text("SELECT table_name, row::text, reason FROM archived_rows WHERE id = :id FOR UPDATE"),
        {"id": archive_id},
    ).one_or_none()
    if entry is None:
        return RestoredRow(archive_id, refused="archived_rows has no such id")
    table, old, reason = entry
    row: dict[str, Any] = json.loads(old)
    if reason != "duplicate" or table not in RULES:
        return RestoredRow(archive_id, table, row.get("id"), refused=f"it is not a duplicate: {reason}")
    columns = _columns(connection, table)
    if not columns:
        return RestoredRow(archive_id, table, row["id"], refused=f"table {table} does not exist")
    services = row.pop("service_ids", None) if "service_ids" not in columns else None
    translated = _translated(connection, table, row, columns)
    left_out = tuple(name for name, value in translated.items() if name not in columns and value is not None)
    names = [name for name in translated if name in columns]
    parameters = {"row": json.dumps({name: translated[name] for name in names}, ensure_ascii=False)}
    listed = ", ".join(columns[name].quoted for name in names if not columns[name].is_computed)
    values = ", ".join(columns[name].value for name in names if not columns[name].is_computed)
    try:
        with connection.begin_nested():
            connection.execute(
                text(
                    f"INSERT INTO {table} ({listed}) SELECT {values}"
                    f" FROM jsonb_populate_record(NULL::{table}, CAST(:row AS jsonb))"
                ),
                parameters,
            )
            _insert_booking_services(connection, row, services)
    except (IntegrityError, DataError) as error:
        refused = _describe_conflict(connection, table, parameters, error)
        return RestoredRow(archive_id, table, row["id"], refused=refused or "a value does not fit the table")
    if not left_out:
        connection.execute(text("DELETE FROM archived_rows WHERE id = :id"), {"id": archive_id})
    return RestoredRow(archive_id, table, row["id"], left_out)


def _columns(connection: Connection, table: str) -> dict[str, _Column]:
    rows = connection.execute(
        text(
            "SELECT attname::text, replace(quote_ident(attname), ':', '\\:'), attgenerated <> '',"
            " attnotnull AND atttypid = 'jsonb'::regtype FROM pg_attribute"
            " WHERE attrelid = to_regclass(:table) AND attnum > 0 AND NOT attisdropped"
        ),
        {"table": table},
    )
    return {name: _Column(*properties) for name, *properties in rows}


def _translated(
    connection: Connection, table: str, row: Mapping[str, Any], columns: Container[str]
) -> dict[str, Any]:
    """Return the row with the current columns: apply the conversions of the migrations since its archival."""
    renamed = {old: new for old, new in RENAMED_COLUMNS.get(table, {}).items() if old not in columns}
    new = {renamed.get(name, name): value for name, value in row.items()}
    if "fired" in new and "fired" not in columns:
        new["is_active"] = not new.pop("fired")
    if "intervals" in columns and "slots" in row:
        new["intervals"], _ = _revision_module("schedules").normalize(row["slots"])
    if "ends_at" in columns and "ends_at" not in new:
        seconds = new.pop("duration", None)
        new["ends_at"] = _end(new["starts_at"], seconds if seconds and seconds > 0 else 3600)
    if "search_name" in columns and "search_name" not in new:
        new["search_name"] = _revision_module("clients").search_name(new["name"])
    if _is_applied(connection, "phones"):
        country = connection.scalar(
            text("SELECT country FROM companies WHERE company_id = CAST(:id AS bigint)"),
            {"id": new["company_id"]},
        )
        for name in {"phone", "client_phone"} & {name for name, value in new.items() if value}:
            new[name] = _revision_module("phones").e164(new[name], country or "RU") or new[name]
    if _is_applied(connection, "whatsapp_values"):
        for name in {"creds", "value"} & set(new):
            compact = json.dumps(new[name], ensure_ascii=False, separators=(",", ":"))
            new[name] = f"\\x{compact.encode().hex()}"  # BYTEA input format
    return new


def _end(start: str, seconds: int) -> str:
    """Return the end of a booking from the old schema, whose timestamps are in UTC."""
    begins = datetime.fromisoformat(start)
    return str((begins if begins.tzinfo else begins.replace(tzinfo=UTC)) + timedelta(seconds=seconds))


def _insert_booking_services(connection: Connection, booking: Mapping[str, Any], services: Any) -> None:
    """Insert the services that a booking of the old schema lists (`service_ids`) as rows."""
    ids, _ = _revision_module("booking_services").normalize(services)
    for position, service in enumerate(ids):
        connection.execute(
            text(
                "INSERT INTO booking_services (company_id, booking, position, service_id)"
                " VALUES (:company, :booking, :position, :service)"
            ),
            {
                "company": booking["company_id"],
                "booking": booking["id"],
                "position": position,
                "service": service,
            },
        )


def _describe_conflict(
    connection: Connection, table: str, parameters: Mapping[str, Any], error: DBAPIError
) -> str | None:
    """Return which stored row has the same key as the archived row, or which constraint it violates.

    None if the error is not about a constraint.
    """
    constraint = getattr(getattr(error.orig, "diag", None), "constraint_name", None)
    if constraint is None:
        return None
    columns = connection.scalars(
        text(
            "SELECT quote_ident(attname) FROM pg_index"
            " CROSS JOIN unnest(indkey::int2[]) WITH ORDINALITY AS key(number, place)"
            " JOIN pg_attribute ON attrelid = indrelid AND attnum = number"
            " WHERE indrelid = to_regclass(:table) AND indisunique"
            " AND indexrelid = to_regclass(quote_ident(:name)) ORDER BY place"
        ),
        {"table": table, "name": constraint},
    ).all()
    if not columns:
        return f"it violates constraint {constraint}"
    listed = ", ".join(columns)
    row_id = connection.scalar(
        text(
            f"SELECT id FROM {table} WHERE ({listed}) = (SELECT {listed}"
            f" FROM jsonb_populate_record(NULL::{table}, CAST(:row AS jsonb)))"
        ),
        parameters,
    )
    return f"row {row_id} of {table} has the same {', '.join(columns)} ({constraint})"


def _is_applied(connection: Connection, step: str) -> bool:
    revision = read_revision(connection.exec_driver_sql)
    newest_first = runner.revisions()
    return revision in newest_first and newest_first.index(revision) <= newest_first.index(step)


def _revision_module(revision: str) -> Any:
    """Return the module of a migration. Its functions convert a restored row like the migrated rows."""
    return runner.script_directory().get_revision(revision).module
