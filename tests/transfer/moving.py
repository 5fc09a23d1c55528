"""Helpers of the transfer tests."""

import time
from contextlib import closing
from typing import Any

import psycopg
import pytest
from psycopg import sql

from app.errors import FrontdeskError
from app.transfer.cutover.cutover import change_live_side
from app.transfer.protocol.endpoints import Side, SideName, Sides
from app.transfer.protocol.status import read_status
from app.transfer.protocol.tables import SCHEMA, transfer_tables
from app.transfer.relay.relay import drain


def copy_by_change_log(sides: Sides) -> None:
    """Copy all rows by adding every key to the change log and draining it, without the `copy` command."""
    with closing(sides.legacy.connect()) as legacy, closing(sides.primary.connect()) as primary:
        for table in transfer_tables(legacy):
            legacy.execute(
                sql.SQL("INSERT INTO {}.marks (table_name, key) SELECT {}, {} FROM {} AS t").format(
                    sql.Identifier(SCHEMA), sql.Literal(table.name), table.text_key("t"), table.identifier
                )
            )
            primary.execute(
                f"INSERT INTO {SCHEMA}.copied (table_name, file, finished_at) VALUES (%s, 0, now())",
                (table.name,),
            )
    drain(sides)


def rows(side: Side) -> dict[str, list[Any]]:
    """Return the sorted rows of each transferred table, each row as text."""
    with closing(side.connect()) as connection:
        return {
            table.name: connection.execute(
                sql.SQL("SELECT ({})::text FROM {} ORDER BY 1").format(
                    sql.SQL("ROW({})").format(sql.SQL(", ").join(map(sql.Identifier, sorted(table.columns)))),
                    table.identifier,
                )
            ).fetchall()
            for table in transfer_tables(connection)
        }


def assert_live(sides: Sides, live: SideName) -> None:
    """Check that only the side `live` accepts writes, and that the sides are equal after a drain."""
    status = read_status(sides)
    assert (status.live, status.in_the_way) == (live, [])
    with psycopg.connect(sides.named(live).url) as connection:
        connection.execute("UPDATE clients SET visit_count = visit_count + 1")
    other = sides.other(sides.named(live))
    with psycopg.connect(other.url) as connection, pytest.raises(psycopg.Error, match="accepts no writes"):
        connection.execute("UPDATE clients SET visit_count = 0")
    drain(sides)
    assert rows(sides.legacy) == rows(sides.primary)
    assert read_status(sides).marks == 0


def switch_with_retries(sides: Sides, to: SideName) -> None:
    """Switch to a side, and retry until it succeeds or 90 seconds have passed.

    Retries are needed because a frozen session keeps its locks until the server ends it.
    """
    deadline = time.monotonic() + 90
    while True:
        try:
            change_live_side(sides, to, max_pause=5)
        except (FrontdeskError, psycopg.Error):
            assert time.monotonic() < deadline
            time.sleep(0.5)
        else:
            return
