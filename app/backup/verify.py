"""Verification of a backup without a database: SHA-256 of every byte, and decoding of every row."""

import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from app.backup import pg_programs
from app.backup.catalogue import Entry
from app.backup.dump_stream import OnProgress, read_dump
from app.backup.errors import ProgramFailed
from app.backup.fingerprint import LARGE_OBJECTS
from app.backup.manifest import Manifest
from app.backup.storage import Storage

_NAME = r'(?:"(?:[^"]|"")*"|[^". ]+)'
_COPY = re.compile(rf"COPY ({_NAME}\.{_NAME}) .*FROM stdin;\n".encode())
_END = b"\\.\n"
_LARGE_OBJECT = b"SELECT pg_catalog.lo_open("


def verify(storage: Storage, entry: Entry, on_progress: OnProgress) -> tuple[str, ...]:
    """Return the problems of a backup; empty if every byte is as written and every row decodes.

    Raises BackupError if the backup cannot be read; it may still be good.
    """
    manifest = entry.manifest
    if entry.problem or manifest is None:
        return (entry.problem,)
    program = pg_programs.find_program("pg_restore", min_major=manifest.tool_major)
    problems: list[str] = []
    digest = ""
    with ThreadPoolExecutor(1) as reader:
        try:
            with pg_programs.run_program(program, "--data-only", "--file=-") as process:

                def feed() -> str:
                    try:
                        return read_dump(storage, manifest, process.stdin, on_progress)
                    except BaseException:  # otherwise pg_restore waits for input, and `_count` for its output
                        process.kill()
                        raise

                reading = reader.submit(feed)
                assert process.stdout is not None, "stdout is a pipe"  # noqa: S101
                rows = _count(process.stdout)
                digest = reading.result()
            problems += _differences(manifest, rows)
        except ProgramFailed as error:
            problems.append(error.message)
    if digest != manifest.dump_sha256:
        problems.insert(0, "the dump differs from what was written (SHA-256)")
    return tuple(problems)


def _count(script: IO[bytes]) -> Counter[str]:
    """Count rows by table, and large objects, in the SQL script that pg_restore writes.

    A row is one line between COPY and the end mark. The script opens each large object once.
    """
    rows: Counter[str] = Counter()
    lines = iter(script)
    for line in lines:
        if begin := _COPY.match(line):
            table = begin[1].decode(errors="replace")
            rows[table] += 0
            for row in lines:
                if row == _END:
                    break
                rows[table] += 1
        elif line.startswith(_LARGE_OBJECT):
            rows[LARGE_OBJECTS] += 1
    return rows


def _differences(manifest: Manifest, rows: Counter[str]) -> list[str]:
    expected = {table.name: table.rows for table in manifest.tables}
    return [
        f"{name}: {rows.get(name, 'no')} rows in the dump, {expected.get(name, 'none')} in the manifest"
        for name in sorted((rows.keys() | expected.keys()) - {*manifest.of_extensions})
        if rows.get(name) != expected.get(name)
    ]
