"""How far a copy is: what it notes on primary, and what it tells people."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from app.transfer.copying.chunk import Chunk
from app.transfer.protocol.tables import SCHEMA, TableInfo

CHUNK_BLOCKS = (
    512  # of a stretch: about 4 MB, 30,000 rows; less where much of a row is stored beside its table
)

Connection = psycopg.Connection[Any]

_FILE = """
    SELECT pg_relation_filenode(oid), pg_relation_size(oid) / current_setting('block_size')::int,
        pg_relation_size(oid)::float8 / greatest(pg_table_size(oid), 1),
        CASE WHEN reltuples < 0 THEN pg_stat_get_live_tuples(oid) ELSE reltuples END::bigint
    FROM pg_class WHERE oid = %(table)s::regclass
"""
_NOTED = f"""
    SELECT table_name, file, finished_at IS NOT NULL,
        coalesce(sum(end_block - first_block), 0)::bigint, coalesce(sum(rows), 0)::bigint
    FROM {SCHEMA}.copied LEFT JOIN {SCHEMA}.stretches USING (table_name) GROUP BY copied.table_name
"""
_BEGIN = f"""
    INSERT INTO {SCHEMA}.copied (table_name, file) VALUES (%(table)s, %(file)s)
    ON CONFLICT (table_name) DO UPDATE SET file = excluded.file WHERE copied.file <> excluded.file
"""
_DELETE_CHUNKS = f"DELETE FROM {SCHEMA}.stretches WHERE table_name = %(table)s"
_COPIED_CHUNKS = f"SELECT first_block, end_block FROM {SCHEMA}.stretches WHERE table_name = %(table)s"
_FINISH = f"UPDATE {SCHEMA}.copied SET finished_at = clock_timestamp() WHERE table_name = %(table)s"


@dataclass
class TableCopy:
    """One table: `blocks` of its file, `done` of them copied, `rows` so far; `left` to the relay."""

    name: str
    expected_rows: int
    blocks: int
    done: int
    rows: int
    left: int = 0
    finished: bool = False

    def add_chunk(self, chunk: Chunk, rows: int, left: int) -> None:
        """Count what was copied."""
        self.done += chunk.end_block - chunk.first_block
        self.rows += rows
        self.left += left


@dataclass
class CopyReport:
    """What a copy has done, or would do."""

    tables: list[TableCopy] = field(default_factory=list)
    rows: int = 0  # in this run
    seconds: float = 0.0
    is_dry_run: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to copy."""
        return all(table.finished for table in self.tables)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rate = round(self.rows / self.seconds) if self.seconds else None
        return {
            "dry_run": self.is_dry_run,
            "complete": self.is_complete,
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "rows_per_second": rate,
            "tables": [asdict(table) for table in self.tables],
        }


@dataclass(frozen=True)
class _TableFile:
    """The file of a table on legacy; its rows are estimated."""

    filenode: int
    blocks: int
    main_fork_share: float  # of the table's bytes; the others are stored beside it
    rows: int

    @classmethod
    def read(cls, legacy: Connection, table: TableInfo) -> "_TableFile":
        row = legacy.execute(_FILE, {"table": table.identifier.as_string(None)}).fetchone()
        assert row is not None, "the table was there a moment ago"  # noqa: S101
        return cls(*row)


def read_progress(
    legacy: Connection, primary: Connection, tables: Sequence[TableInfo]
) -> Iterator[TableCopy]:
    """How far each table is."""
    noted = {name: rest for name, *rest in primary.execute(_NOTED)}
    for table in tables:
        file = _TableFile.read(legacy, table)
        known_file, finished, done, rows = noted.get(table.name, (None, False, 0, 0))
        if finished:
            yield TableCopy(table.name, rows, file.blocks, file.blocks, rows, finished=True)
        elif known_file == file.filenode:
            yield TableCopy(table.name, file.rows, file.blocks, done, rows)
        else:
            yield TableCopy(table.name, file.rows, file.blocks, 0, 0)


def begin_table(
    source: Connection, target: Connection, table: TableInfo, table_copy: TableCopy
) -> list[Chunk]:
    """Note that the table is under way, bring `table_copy` up to date, and return what is left of it."""
    # The lock keeps the file: block numbers mean something as long as nobody rewrites it.
    source.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table.identifier))
    file = _TableFile.read(source, table)
    name = {"table": table.name}
    with target.transaction():
        if target.execute(_BEGIN, name | {"file": file.filenode}).rowcount:  # it is new, or another file
            target.execute(_DELETE_CHUNKS, name)
            table_copy.done = table_copy.rows = 0
        copied = target.execute(_COPIED_CHUNKS, name).fetchall()
    table_copy.blocks = file.blocks
    length = max(1, int(CHUNK_BLOCKS * file.main_fork_share))
    return [
        Chunk(table, file.filenode, at, min(at + length, end))
        for first, end in _gaps(copied, file.blocks)
        for at in range(first, end, length)
    ]


def finish_table(target: Connection, table: TableInfo) -> None:
    """Note that all of the table is there, and let the planner know."""
    target.execute(_FINISH, {"table": table.name})
    target.execute(sql.SQL("ANALYZE {}").format(table.identifier))


def _gaps(copied: Iterable[tuple[int, int]], blocks: int) -> Iterator[tuple[int, int]]:
    """What is not copied of a file, in its order."""
    at = 0
    for first, end in sorted(copied):
        if at < first:
            yield at, first
        at = end
    if at < blocks:
        yield at, blocks
