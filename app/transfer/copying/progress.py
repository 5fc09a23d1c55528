"""The progress of a copy: the records on primary, and the report to the operator."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from psycopg import sql

from app.database.connection import Connection
from app.transfer.copying.chunk import Chunk
from app.transfer.protocol.tables import SCHEMA, TableInfo

# Blocks of a chunk: about 4 MB or 30,000 rows. Tables with much TOAST data get chunks of fewer blocks.
CHUNK_BLOCKS = 512


_FILE = """
    SELECT pg_relation_filenode(oid), pg_relation_size(oid) / current_setting('block_size')::int,
        pg_relation_size(oid)::float8 / greatest(pg_table_size(oid), 1),
        CASE WHEN reltuples < 0 THEN pg_stat_get_live_tuples(oid) ELSE reltuples END::bigint
    FROM pg_class WHERE oid = %(table)s::regclass
"""
_RECORDED = f"""
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
    """The progress of one table."""

    name: str
    expected_rows: int  # estimated by the server's statistics; the exact number when finished
    blocks: int  # size of the table's file
    done: int  # blocks copied
    rows: int  # rows copied
    left: int = 0  # rows left to the relay
    finished: bool = False

    def add_chunk(self, chunk: Chunk, rows: int, left: int) -> None:
        """Add a copied chunk with its number of rows copied, and of rows left to the relay."""
        self.done += chunk.end_block - chunk.first_block
        self.rows += rows
        self.left += left


@dataclass
class CopyReport:
    """The result of a copy or of its dry run."""

    tables: list[TableCopy] = field(default_factory=list)
    rows: int = 0  # copied in this run
    seconds: float = 0.0  # duration of this run
    is_dry_run: bool = False

    @property
    def is_complete(self) -> bool:
        """Return True if every table is copied."""
        return all(table.finished for table in self.tables)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON output."""
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
    """The file of a table on legacy."""

    filenode: int
    blocks: int
    main_fork_share: float  # share of the table's bytes in this file; most of the rest is TOAST data
    rows: int  # estimated by the server's statistics

    @classmethod
    def read(cls, legacy: Connection, table: TableInfo) -> "_TableFile":
        row = legacy.execute(_FILE, {"table": table.identifier.as_string(None)}).fetchone()
        assert row is not None, "the cast to regclass fails if the table does not exist"  # noqa: S101
        return cls(*row)


def read_progress(
    legacy: Connection, primary: Connection, tables: Sequence[TableInfo]
) -> Iterator[TableCopy]:
    """Yield the progress of each table, from the records on primary and the file sizes on legacy."""
    recorded = {name: rest for name, *rest in primary.execute(_RECORDED)}
    for table in tables:
        file = _TableFile.read(legacy, table)
        known_file, finished, done, rows = recorded.get(table.name, (None, False, 0, 0))
        if finished:
            yield TableCopy(table.name, rows, file.blocks, file.blocks, rows, finished=True)
        elif known_file == file.filenode:
            yield TableCopy(table.name, file.rows, file.blocks, done, rows)
        else:
            yield TableCopy(table.name, file.rows, file.blocks, 0, 0)


def begin_table(
    source: Connection, target: Connection, table: TableInfo, table_copy: TableCopy
) -> list[Chunk]:
    """Record that the copy of the table has begun, update `table_copy`, and return the remaining chunks."""
    # The lock prevents a rewrite of the table (VACUUM FULL), which would make block numbers invalid.
    source.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(table.identifier))
    file = _TableFile.read(source, table)
    name = {"table": table.name}
    with target.transaction():
        # A row count of 1 means that the table is new here, or that its file has changed.
        if target.execute(_BEGIN, name | {"file": file.filenode}).rowcount:
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
    """Record that the table is copied completely, and update the planner's statistics."""
    target.execute(_FINISH, {"table": table.name})
    target.execute(sql.SQL("ANALYZE {}").format(table.identifier))


def _gaps(copied: Iterable[tuple[int, int]], blocks: int) -> Iterator[tuple[int, int]]:
    """Yield the block ranges that are not copied as (first, end), in ascending order."""
    at = 0
    for first, end in sorted(copied):
        if at < first:
            yield at, first
        at = end
    if at < blocks:
        yield at, blocks
