"""Checksums: equal content has equal hashes in any session, and different content has different hashes."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.database.checksum import row_hash_sql, table_hash_sql, use_canonical_form

COLUMNS = ("a", "b")

# Values whose text depends on session settings.
VALUES = [
    "TIMESTAMPTZ '2026-11-20 12:00:00.123456+03'",
    "DATE '2026-02-01'",
    "INTERVAL '1 year -2 days 03:04:05.6'",
    "0.1::float8 + 0.2::float8",
    "'\\x00ff41'::bytea",
    "'12.50'::numeric::money",
    "'public.content'::regclass",
    """'{"b": [1, null], "a": "x"}'::jsonb""",
    "tstzrange('2026-11-20 12:00+00', NULL)",
]
OTHER_SETTINGS = (
    "SET TimeZone = 'Asia/Kathmandu'",
    "SET DateStyle = 'SQL, DMY'",
    "SET IntervalStyle = 'sql_standard'",
    "SET extra_float_digits = -5",
    "SET bytea_output = 'escape'",
)


@pytest.fixture
def connection(worker_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection with an empty table `public.content (a text, b text)`; roll back at the end."""
    with psycopg.connect(worker_database_url) as connection:
        connection.execute("CREATE TABLE public.content (a text, b text)")
        yield connection
        connection.rollback()


def row_hash(connection: psycopg.Connection[Any], value: str) -> bytes:
    use_canonical_form(connection)
    row = connection.execute(f"SELECT {row_hash_sql(['v'])} FROM (SELECT {value} AS v) AS one").fetchone()
    assert row is not None
    return bytes(row[0])


def hash_of(connection: psycopg.Connection[Any], *rows: tuple[str | None, str | None]) -> tuple[int, str]:
    """Return the number of rows and the hash of a table with these rows."""
    use_canonical_form(connection)
    connection.execute("DELETE FROM public.content")
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO public.content VALUES (%s, %s)", rows)
    found = connection.execute(table_hash_sql("public", "content", COLUMNS)).fetchone()
    assert found is not None
    return found[0], found[1]


@pytest.mark.parametrize("value", VALUES)
def test_the_hash_of_a_value_does_not_depend_on_session_settings(
    connection: psycopg.Connection[Any], value: str
) -> None:
    before = row_hash(connection, value)
    for setting in OTHER_SETTINGS:
        connection.execute(setting)
    assert row_hash(connection, value) == before


def test_null_and_texts_that_resemble_it_have_different_hashes(connection: psycopg.Connection[Any]) -> None:
    hashes = {
        hash_of(connection, row)
        for row in [(None, "x"), ("", "x"), ("NULL", "x"), ("x", None), ('""', "x"), (",x", None)]
    }
    assert len(hashes) == 6


def test_the_hash_depends_on_the_number_of_rows_but_not_on_their_order(
    connection: psycopg.Connection[Any],
) -> None:
    one, two = ("1", "Анна"), ("2", None)
    assert hash_of(connection, one, two) == hash_of(connection, two, one)
    assert hash_of(connection, one, one, two, two) != hash_of(connection, one, two)
    assert hash_of(connection, one, one) != hash_of(connection, two, two)
    assert hash_of(connection) == (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


def test_one_changed_row_changes_the_hash_of_several_buckets(connection: psycopg.Connection[Any]) -> None:
    rows: list[tuple[str | None, str | None]] = [(str(number), "x") for number in range(2_500)]
    count, checksum = hash_of(connection, *rows)
    assert count == 2_500
    assert hash_of(connection, *rows[:-1], ("2499", "y")) != (count, checksum)
    assert hash_of(connection, *reversed(rows)) == (count, checksum)


texts = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
tables = st.lists(st.tuples(texts, texts), max_size=4)


@given(one=tables, other=tables)
def test_hashes_are_equal_if_and_only_if_the_rows_are_equal(
    connection: psycopg.Connection[Any], one: list[Any], other: list[Any]
) -> None:
    def order(row: tuple[str | None, str | None]) -> list[tuple[bool, str]]:
        return [(value is None, value or "") for value in row]

    equal = sorted(one, key=order) == sorted(other, key=order)
    assert (hash_of(connection, *one) == hash_of(connection, *other)) is equal


def test_names_may_contain_any_characters(connection: psycopg.Connection[Any]) -> None:
    connection.execute('CREATE TABLE public."a""b%s" ("row" int, "x y%" int, "hash" int)')
    connection.execute('INSERT INTO public."a""b%s" VALUES (1, 2, 3)')
    use_canonical_form(connection)
    found = connection.execute(table_hash_sql("public", 'a"b%s', ["row", "x y%", "hash"])).fetchone()
    assert found is not None
    assert found[0] == 1
