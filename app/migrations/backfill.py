"""Building blocks of the migrations for rows: archived, refused, carried over a few at a time.

As those of schema_changes: short under their locks, and safe to repeat after a kill -9.
"""

# ruff: noqa: S608 - the parts of SQL put together here are written in the migrations, never data

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import text

from app.migrations import introspection
from app.migrations.operations import bind, commit, execute
from app.migrations.runner import MigrationRefused

MAX_LISTED = 100  # row ids named in one refusal
ROWS_PER_BATCH = 200  # rows per transaction of a backfill: who writes one of them waits for some 20 ms
MAX_PASSES = 4  # of a backfill; each is shorter than the one before


def archive(table: str, condition: str, reason: str, *, kept_id: str = "NULL", **values: object) -> int:
    """Copy the rows that meet the condition into `archived_rows`, as they are; return their number."""
    return (
        bind()
        .execute(
            text(
                "INSERT INTO archived_rows (table_name, row, reason, kept_id)"
                f" SELECT '{table}', to_jsonb(old), :reason, {kept_id} FROM {table} AS old WHERE {condition}"
            ),
            {"reason": reason, **values},
        )
        .rowcount
    )


def archive_each(table: str, keys: Sequence[tuple[int, int]], reason: str) -> None:
    """Copy the rows with these `(company_id, id)` into `archived_rows`; they stay where they are, too."""
    if keys:
        companies, ids = (list(each) for each in zip(*keys, strict=True))
        archive(
            table,
            "(old.company_id, old.id) IN"
            " (SELECT * FROM unnest(CAST(:companies AS bigint[]), CAST(:ids AS bigint[])))",
            reason,
            kept_id="old.id",
            companies=companies,
            ids=ids,
        )


def refuse_rows(table: str, condition: str, reason: str) -> None:
    """Refuse a downgrade over the rows that the old shape cannot hold, naming them by table and id."""
    total = bind().exec_driver_sql(f"SELECT count(*) FROM {table} WHERE {condition}").scalar_one()
    if not total:
        return
    name = (
        "'company ' || company_id || ', id ' || id"
        if introspection.has_column(table, "company_id")
        else "'id ' || id"
    )
    rows = bind().exec_driver_sql(
        f"SELECT {name} FROM {table} WHERE {condition} ORDER BY id LIMIT {MAX_LISTED}"
    )
    report = [f"{table}: {row}: {reason}" for row in rows.scalars()]
    if total > MAX_LISTED:
        report.append(f"{table}: and {total - MAX_LISTED} rows more: {reason}")
    raise MigrationRefused(
        f"The older schema cannot hold {total} row(s) of {table} ({reason}); change or export them first.",
        tuple(report),
    )


def batches(
    table: str, column: str, condition: str, *, lock: bool = False
) -> Iterator[Sequence[tuple[int, int, Any]]]:
    """Yield `(company_id, id, value)` of the rows that meet the condition, a transaction per batch.

    What writers write in the meantime must not be lost: either lock the rows, which costs a write for each,
    or have `update_each` compare. Rows that came in behind the cursor have a round of their own,
    ROUNDS in all: whoever inserts all the time would else keep it at work for ever.
    """
    statement = text(
        f"SELECT company_id, id, {column} FROM {table}"
        f" WHERE (company_id, id) > (:company, :id) AND {condition} AND id > :seen ORDER BY company_id, id"
        f" LIMIT {ROWS_PER_BATCH} {'FOR NO KEY UPDATE' if lock else ''}"
    )
    seen = -(2**63)
    for _ in range(MAX_PASSES):
        newest = execute(f"SELECT coalesce(max(id), {seen}) FROM {table}").scalar_one()
        if newest <= seen:
            return
        company, row_id = -(2**63), -(2**63)
        while rows := bind().execute(statement, {"company": company, "id": row_id, "seen": seen}).all():
            yield rows
            company, row_id, _ = rows[-1]
            commit()
        seen = newest


def update_each(
    table: str,
    column: str,
    values: Sequence[tuple[int, int, str]],
    type_: str = "text",
    *,
    unless_changed: tuple[str, Sequence[str]] | None = None,
) -> None:
    """Set one column of many rows, each `(company_id, id, value)`, in one statement.

    `unless_changed`: a column and what was read there; rows where a writer has changed it since are left.
    """
    if values:
        companies, ids, new = (list(each) for each in zip(*values, strict=True))
        column_read, read = unless_changed or ("", [""] * len(values))
        execute(
            f"UPDATE {table} SET {column} = new.value FROM unnest(CAST(:companies AS bigint[]),"
            f" CAST(:ids AS bigint[]), CAST(:new AS {type_}[]), CAST(:read AS text[]))"
            " AS new (company_id, id, value, read)"
            f" WHERE ({table}.company_id, {table}.id) = (new.company_id, new.id)"
            + (f" AND {table}.{column_read} = new.read" if unless_changed else ""),
            companies=companies,
            ids=ids,
            new=new,
            read=list(read),
        )
