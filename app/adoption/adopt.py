"""Where a database that Alembic does not know stands on the chain, or how exactly it differs from it.

The shapes of the steps are written down (alembic/shapes.json, made by running the chain), so that looking
needs no scratch database and no right to create anything.

Up to the composite uniqueness installations were changed by hand, and any mixture of what these steps do
is recognised: the steps look at what is there by what it is, so the earliest step that is not finished
everywhere can run over all of it. What is later was made by the chain alone, and has to match a step exactly.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection

from app.migrations import runner, schema_snapshot
from app.migrations.schema_snapshot import SchemaSnapshot

SNAPSHOTS_FILE = runner.ALEMBIC_INI.parent / "alembic" / "shapes.json"
MANUAL_REVISIONS = ("baseline", "alignment", "archive", "composite_uniqueness")

_INDEX = re.compile(r"(unique|index) (\w+) \((.*)\)")
# Plain indexes go by their columns later, and the session store's constraints get their names later.
_NAMED_LATER = {"unique whatsapp_auth (company_id)", "unique whatsapp_keys (company_id, key_type, key_id)"}


@dataclass(frozen=True)
class AdoptionReport:
    """What a look at a database has found.

    `state`: `adopted` (Alembic knows it), `empty` (none of the tables, nor others), `matches`, `partly`
    (a later step is done in places) or `differs`. `revision` is the one to stamp, or the closest, or the
    one it has. `later`: what is not as this revision leaves it, and which the chain takes care of.
    """

    state: str
    revision: str | None = None
    same: tuple[str, ...] = ()  # later revisions whose tables look alike: they change rows only
    later: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()  # tables of others
    stamped: bool = False

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "head": runner.head()}


@cache
def expected_snapshots() -> dict[str, SchemaSnapshot]:
    """The shape of the tables after each step, the first step first."""
    found: dict[str, SchemaSnapshot] = {}
    now: dict[str, str] = {}
    for step in json.loads(SNAPSHOTS_FILE.read_text()):
        now = {entry: made for entry, made in now.items() if entry not in step["gone"]} | step["new"]
        found[step["revision"]] = now
    return found


def inspect_schema(connection: Connection) -> AdoptionReport:
    """Say where the database stands; nothing is changed."""
    ours = _tables()
    if misplaced := schema_snapshot.search_path_problems(connection, ours):
        return AdoptionReport("differs", differences=tuple(misplaced))
    if (revision := runner.current_revision(connection)) is not None:
        return AdoptionReport("adopted", revision)
    there = schema_snapshot.existing_tables(connection)
    others = tuple(sorted(there - ours))
    if not there:
        return AdoptionReport("empty")
    if others and there.isdisjoint(ours):
        none = "none of Frontdesk's tables is there"
        return AdoptionReport("differs", differences=(none,), left_alone=others)
    found = schema_snapshot.read(connection, ours)
    finding = _compare(found)
    obstacles = schema_snapshot.missing_privileges(connection, ours)
    if finding.revision != runner.head():
        dependents = schema_snapshot.dependent_objects(connection, ours)
        obstacles += [f"{line}: drop it until the upgrade is done" for line in dependents]
        obstacles += index_name_conflicts(connection)
    if obstacles:
        differences = (*finding.differences, *obstacles)
        return AdoptionReport("differs", finding.revision, (), finding.later, differences, others)
    return AdoptionReport(**{**vars(finding), "left_alone": others})


def index_name_conflicts(connection: Connection) -> list[str]:
    """Indexes of others with names that the chain gives to its own, and would drop; a line for each."""
    indexes = re.compile("unique |index |primary key ")
    made = (
        name for step in expected_snapshots().values() for entry, name in step.items() if indexes.match(entry)
    )
    return schema_snapshot.index_name_conflicts(
        connection, {name.removesuffix(" (an index)") for name in made}, _tables()
    )


def adopt(connection: Connection) -> AdoptionReport:
    """Look, and stamp the database where it matches, fully or partly. The caller holds the deploys' lock."""
    finding = inspect_schema(connection)
    if finding.state not in ("matches", "partly"):
        return finding
    assert finding.revision is not None, "a match has a revision"  # noqa: S101
    MigrationContext.configure(connection).stamp(runner.script_directory(), finding.revision)
    connection.commit()
    return AdoptionReport(**{**vars(finding), "stamped": True})


def _tables() -> set[str]:
    return {_table(entry) for expected in expected_snapshots().values() for entry in expected}


def _compare(found: SchemaSnapshot) -> AdoptionReport:
    alike = [revision for revision, expected in expected_snapshots().items() if expected == found]
    if alike:
        return AdoptionReport("matches", alike[0], tuple(alike[1:]))
    by_hand, unexplained = _compare_with_manual(found)
    later = (revision for revision in expected_snapshots() if revision not in MANUAL_REVISIONS)
    closest = min(later, key=lambda revision: len(_differing(found, expected_snapshots()[revision])))
    differing = _differing(found, expected_snapshots()[closest])
    if len(differing) < len(unexplained):
        return AdoptionReport(
            "differs", closest, differences=_lines(differing, found, expected_snapshots()[closest])
        )
    done = [entry for entry in _differing(found, expected_snapshots()[by_hand]) if entry not in unexplained]
    return AdoptionReport(
        "differs" if unexplained else "partly",
        by_hand,
        later=_lines(done, found, expected_snapshots()[by_hand]),
        differences=_lines(unexplained, found, unexplained),
    )


def _compare_with_manual(found: SchemaSnapshot) -> tuple[str, dict[str, str | None]]:
    """The step after which the chain has to go on, and what no step explains, each entry as it should be."""
    latest = len(MANUAL_REVISIONS) - 1
    unexplained: dict[str, str | None] = {}
    steps = [expected_snapshots()[revision] for revision in MANUAL_REVISIONS]
    entries = {*found, *(entry for step in steps for entry in step)}
    for table in {_table(entry) for entry in entries}:
        # All columns of a table together: a column of the old name beside one of the new is no step.
        columns = [entry for entry in entries if entry.startswith(f"column {table}.")]
        wrong = [[each for each in columns if step.get(each) != found.get(each)] for step in steps]
        fewest = max(range(len(steps)), key=lambda number: (-len(wrong[number]), number))
        unexplained |= {entry: steps[fewest].get(entry) for entry in wrong[fewest]}
        latest = min(latest, fewest)
    for entry in entries:
        if not entry.startswith("column "):
            last = _last_matching_revision(entry, found, steps)
            if last is None:
                unexplained[entry] = next((step[entry] for step in steps if entry in step), None)
            else:
                latest = min(latest, last)
    return MANUAL_REVISIONS[latest], unexplained


def _last_matching_revision(entry: str, found: SchemaSnapshot, steps: list[SchemaSnapshot]) -> int | None:
    """The last of the steps that leaves the entry as it is, or after which the chain still mends it."""
    last, made = len(steps) - 1, found.get(entry)
    if entry.startswith("primary key") and made and any(entry in step for step in steps):
        return last  # by any name
    if (index := _INDEX.fullmatch(entry)) is not None:
        kind, table, columns = index[1], index[2], tuple(index[3].split(", "))
        uniqueness = runner.script_directory().get_revision("composite_uniqueness").module
        columns = tuple(_aligned(table, column) for column in columns)
        single = [(name, (column,)) for name, column in uniqueness.SINGLE_COLUMN_UNIQUE]
        _, composite = uniqueness.CONSTRAINTS.get(table, ("", ()))
        if kind == "unique" and sorted(columns) == sorted(composite):
            return last if made == steps[last].get(entry) else last - 1
        if (kind == "unique" and (table, columns) in single) or (table, columns) in uniqueness.SUPERSEDED:
            return last if made is None else last - 1
        if entry in _NAMED_LATER or (kind == "index" and any(entry in step for step in steps)):
            return last if made is None or re.fullmatch(r"[^(),]+( \(an index\))?", made) else None
        if kind == "unique" and made and any(entry in step for step in steps):
            return last  # by any name
    return max((number for number, step in enumerate(steps) if step.get(entry) == made), default=None)


def _aligned(table: str, column: str) -> str:
    return "yclients_record_id" if (table, column) == ("bookings", "yclients_id") else column


def _differing(found: SchemaSnapshot, expected: SchemaSnapshot) -> list[str]:
    return [entry for entry in {*found, *expected} if found.get(entry) != expected.get(entry)]


def _lines(
    entries: Iterable[str], found: SchemaSnapshot, expected: Mapping[str, str | None]
) -> tuple[str, ...]:
    """Say for each entry what is there and what should be; a table that is all wrong is one line."""
    lines = []
    there = Counter(map(_table, found))
    for table, of_table in groupby(sorted(entries, key=_by_table), key=_table):
        listed = [*of_table]
        if not there[table]:
            lines.append(f"table {table}: missing")
        elif len(listed) == there[table] and not any(expected.get(entry) for entry in listed):
            lines.append(f"table {table}: unexpected")
        else:
            lines += [_line(entry, found.get(entry), expected.get(entry)) for entry in listed]
    return tuple(lines)


def _line(entry: str, made: str | None, expected: str | None) -> str:
    if made is None:
        return f"{entry}: missing ({expected})" if expected else f"{entry}: missing"
    return (
        f"{entry}: unexpected ({made})" if expected is None else f"{entry}: is {made}, should be {expected}"
    )


def _table(entry: str) -> str:
    """`clients` of `column clients.phone`, `unique clients (phone)` and so on."""
    table = re.match(r"(?:column|check|reference|constraint|primary key|unique|index) (\w+)", entry)
    assert table is not None, entry  # noqa: S101 - written by app.migrations.schema_snapshot
    return table[1]


def _by_table(entry: str) -> tuple[str, str]:
    return _table(entry), entry
