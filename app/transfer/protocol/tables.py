"""The tables of a database, read from its catalog, and the selection of the tables to transfer."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from psycopg import sql

from app.database.connection import Connection
from app.database.sql_files import read_queries
from app.errors import InvalidInputError
from app.models import Base

SCHEMA = "frontdesk_transfer"
BENCH_SCHEMA = "frontdesk_transfer_bench"  # created and dropped by `frontdesk transfer bench`
ALEMBIC_TABLE = "public.alembic_version"  # never transferred: both sides must be at the same revision already

_QUERIES = read_queries(__package__, "tables.sql")


@dataclass(frozen=True)
class ForeignKeyInfo:
    """A foreign key of a table."""

    name: str
    parent: str  # qualified name of the referenced table
    is_deferrable: bool
    changes_rows: bool  # ON DELETE or ON UPDATE changes rows of the referencing table


@dataclass(frozen=True)
class TableInfo:
    """A table with its columns, primary key and foreign keys."""

    schema: str
    bare_name: str
    kind: str  # pg_class.relkind
    is_logged: bool
    columns: tuple[str, ...]  # in table order, without generated columns
    types: tuple[str, ...]  # PostgreSQL's names for the types of `columns`
    key: tuple[str, ...]  # columns of the primary key, in key order
    foreign_keys: tuple[ForeignKeyInfo, ...]
    is_binary_safe: bool  # another server can read the table's COPY in binary format

    @property
    def name(self) -> str:
        """The qualified, unquoted name, for example `public.clients`."""
        return f"{self.schema}.{self.bare_name}"

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name, quoted for use in SQL."""
        return sql.Identifier(self.schema, self.bare_name)

    @property
    def key_types(self) -> tuple[str, ...]:
        """The types of the primary key's columns."""
        kinds = dict(zip(self.columns, self.types, strict=True))
        return tuple(kinds[column] for column in self.key)

    @property
    def copy_format(self) -> sql.SQL:
        """The COPY format: `binary` where it is safe, otherwise `text` in the canonical form."""
        return sql.SQL("binary" if self.is_binary_safe else "text")

    def column_list(self, alias: str | None = None) -> sql.Composed:
        """Return the quoted columns, `"a", "b"`, or with an alias `"t"."a", "t"."b"`."""
        return quote_columns(self.columns, alias)

    def key_list(self, alias: str | None = None) -> sql.Composed:
        """Return the quoted columns of the primary key."""
        return quote_columns(self.key, alias)

    def text_key(self, alias: str) -> sql.Composed:
        """Return the primary key in the form of the change log: `ARRAY[t.a::text, …]`."""
        columns = [sql.SQL("{}::text").format(sql.Identifier(alias, column)) for column in self.key]
        return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(columns))

    def typed_key(self, array: str) -> sql.Composed:
        """Return a key of the change log as columns of the table's own types: `(k)[1]::bigint AS a, …`.

        `array`: an SQL expression for the key, `k` in the example.
        """
        columns = [
            sql.SQL(f"({array})[{{}}]::{kind} AS {{}}").format(sql.Literal(index), sql.Identifier(column))
            for index, (column, kind) in enumerate(zip(self.key, self.key_types, strict=True), 1)
        ]
        return sql.SQL(", ").join(columns)

    def problems(self) -> list[str]:
        """Return the reasons why the table cannot be transferred, each with its remedy."""
        problems = []
        if self.kind != "r":
            kind = {"p": "partitioned", "f": "foreign"}.get(self.kind, self.kind)
            problems.append(f"{self.name} is a {kind} table, which cannot be transferred: leave it out")
        elif not self.is_logged:
            problems.append(f"{self.name} is UNLOGGED: ALTER TABLE … SET LOGGED, or leave it out")
        if not self.key and self.kind == "r":
            problems.append(f"{self.name} has no primary key: add one, or leave it out")
        for key in self.foreign_keys:
            if key.changes_rows:
                problems.append(
                    f"{self.name}: foreign key {key.name} changes rows of the table (CASCADE or SET):"
                    " make it NO ACTION DEFERRABLE, or leave the table out"
                )
            elif not key.is_deferrable:
                problems.append(
                    f"{self.name}: foreign key {key.name} is not deferrable:"
                    f" ALTER TABLE {self.name} ALTER CONSTRAINT {key.name} DEFERRABLE"
                )
        return problems


def quote_columns(columns: Iterable[str], alias: str | None = None) -> sql.Composed:
    """Return the quoted columns, `"a", "b"`, or with an alias `"t"."a", "t"."b"`."""
    return sql.SQL(", ").join(sql.Identifier(alias, c) if alias else sql.Identifier(c) for c in columns)


def read_tables(connection: Connection) -> list[TableInfo]:
    """Return the tables of the database, sorted by name.

    Temporary tables and tables of the system, of extensions and of the transfer itself are excluded.
    """
    rows = connection.execute(_QUERIES["tables"], {"own": [SCHEMA, BENCH_SCHEMA]}).fetchall()
    names = {oid: f"{schema}.{name}" for oid, schema, name, _, _ in rows}
    known = {"tables": [*names]}
    columns: dict[int, list[tuple[str, str, bool]]] = {oid: [] for oid in names}
    for oid, *column in connection.execute(_QUERIES["columns"], known):
        columns[oid].append((column[0], column[1], column[2]))
    keys: dict[int, list[str]] = {oid: [] for oid in names}
    for oid, name in connection.execute(_QUERIES["keys"], known):
        keys[oid].append(name)
    references: dict[int, list[ForeignKeyInfo]] = {oid: [] for oid in names}
    for oid, name, parent, deferrable, *actions in connection.execute(_QUERIES["foreign_keys"], known):
        acts = any(action not in ("a", "r") for action in actions)
        references[oid].append(ForeignKeyInfo(name, names.get(parent, str(parent)), deferrable, acts))
    return [
        TableInfo(
            schema,
            name,
            kind,
            persistence == "p",
            tuple(column for column, _, _ in columns[oid]),
            tuple(type_ for _, type_, _ in columns[oid]),
            tuple(keys[oid]),
            tuple(references[oid]),
            all(safe for _, _, safe in columns[oid]),
        )
        for oid, schema, name, kind, persistence in rows
    ]


def select_tables(tables: Iterable[TableInfo], include: Collection[str]) -> list[TableInfo]:
    """Return the tables to transfer: those of Frontdesk's models, and those in `include` (`public.extra`)."""
    own = {f"public.{table.name}" for table in Base.metadata.sorted_tables}
    return [table for table in tables if table.name in own or table.name in include]


def sort_parents_first(tables: Iterable[TableInfo]) -> list[TableInfo]:
    """Sort tables so that referenced tables come first; sort tables with cyclic references by name."""
    waiting = {table.name: table for table in sorted(tables, key=lambda table: table.name)}
    ordered: list[TableInfo] = []
    while waiting:
        ready = [
            table
            for table in waiting.values()
            if not any(key.parent in waiting and key.parent != table.name for key in table.foreign_keys)
        ] or [next(iter(waiting.values()))]
        ordered += ready
        for table in ready:
            del waiting[table.name]
    return ordered


def transfer_tables(connection: Connection) -> list[TableInfo]:
    """Return this side's definition of the tables that `start` recorded, parents before children.

    Raises InvalidInputError if a recorded table does not exist here.
    """
    recorded = connection.execute(f"SELECT table_name FROM {SCHEMA}.moved ORDER BY position").fetchall()
    present = {table.name: table for table in read_tables(connection)}
    missing = [name for (name,) in recorded if name not in present]
    if missing:
        raise InvalidInputError(
            f"Tables of the transfer are missing in the database: {', '.join(missing)}."
            " Restore them, or run `frontdesk transfer finish` and start again."
        )
    return [present[name] for (name,) in recorded]
