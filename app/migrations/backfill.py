"""Functions for migrations that archive, refuse or convert rows, in small batches.

Like `operations`, they hold locks briefly and can be repeated after a kill -9.
"""

# ruff: noqa: S608 - the SQL is composed of constants of the migrations, never of data

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import text

from app.migrations import introspection
from app.migrations.operations import bind, commit, execute
from app.migrations.runner import MigrationRefused

MAX_LISTED = 100  # rows listed in one refusal
ROWS_PER_BATCH = (
    200  # rows per transaction of a backfill: a concurrent write to one of them waits about 20 ms
)
MAX_PASSES = 4  # passes of a backfill; each one has fewer rows than the one before


def archive(table: str, condition: str, reason: str, *, kept_id: str = "NULL", **values: object) -> int:
    """Copy the rows that match `condition` (SQL) to `archived_rows`; return their number.

    The condition calls the row `old`. `kept_id` is an SQL expression; `values` are bind parameters.
    """
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
    """Copy the rows with these `(company_id, id)` to `archived_rows`; the rows also stay in their table."""
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
    """Refuse a downgrade if the older schema cannot hold the rows that match `condition` (SQL).

    Raises MigrationRefused, which lists up to MAX_LISTED rows by table, company and id.
    """
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
        report.append(f"{table}: and {total - MAX_LISTED} more rows: {reason}")
    raise MigrationRefused(
        f"The older schema cannot hold {total} row(s) of {table} ({reason}); change or export them first.",
        tuple(report),
    )


def batches(
    table: str, column: str, condition: str, *, lock: bool = False
) -> Iterator[Sequence[tuple[int, int, Any]]]:
    """Yield batches of `(company_id, id, value)` of the rows that match `condition`; commit after each batch.

    Concurrent updates must not be lost: either lock the rows, which costs a write per row, or pass
    `unless_changed` to `update_each`. Rows that are inserted behind the cursor are read in a further pass.
    There are at most MAX_PASSES passes, because constant inserts would otherwise prevent the end.
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
    """Set one column of many rows in one statement. `values` are `(company_id, id, value)`.

    `unless_changed` is a column and the values that were read from it, in the order of `values`. Rows whose
    column has changed since then are left unchanged.
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
