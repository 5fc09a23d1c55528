"""Differences between the schemas of the two sides, each with the statement or command that removes it."""

from collections.abc import Iterator, Mapping

from app.transfer.planning.catalog import CatalogObject
from app.transfer.planning.findings import BOTH, LEGACY, PRIMARY, Exclusions, PlanFinding

CatalogObjects = Mapping[tuple[str, str], CatalogObject]


_UNDECIDED = "Make both sides equal, or leave it out by name: --leave-out {name!r}."
# Statements that create a missing object of a transferred table, by kind of object.
_MAKE = {
    "column": 'ALTER TABLE {table} ADD COLUMN "{part}" {definition}',
    "constraint": 'ALTER TABLE {table} ADD CONSTRAINT "{part}" {definition}',
    "index": "{definition}",
    "trigger": "{definition}",
    "rule": "{definition}",
    "policy": 'CREATE POLICY "{part}" ON {table} AS {definition}',
    "row security": "ALTER TABLE {table} {definition} ROW LEVEL SECURITY",
}


def compare(legacy: CatalogObjects, primary: CatalogObjects, left_out: Exclusions) -> Iterator[PlanFinding]:
    """Yield a finding for each difference between the sides, and for each invalid object on either side.

    Objects that `left_out` matches are skipped, unless they belong to a transferred table.
    """
    for key in sorted({*legacy, *primary}):
        in_legacy, in_primary = legacy.get(key), primary.get(key)
        item = in_legacy or in_primary
        assert item is not None, "each key comes from one of the two mappings"  # noqa: S101
        if item.table is None:
            if left_out.excludes(item.name):
                continue
        elif item.kind != "moved table" and not _is_on_both(item.table, legacy, primary):
            continue  # the missing table is a finding of its own
        yield from _invalid(in_legacy, LEGACY)
        yield from _invalid(in_primary, PRIMARY)
        if in_legacy is None or in_primary is None:
            yield _on_one_side(item, LEGACY if in_primary is None else PRIMARY, legacy, primary)
        elif in_legacy.definition != in_primary.definition:
            problem = f"differs: legacy has {in_legacy.definition}; primary has {in_primary.definition}"
            yield PlanFinding(item.kind, item.name, BOTH, problem, _alignment_remedy(item))


def _invalid(item: CatalogObject | None, side: str) -> Iterator[PlanFinding]:
    if item is None or item.is_valid:
        return
    if item.kind == "constraint":
        advice = f'On {side}: ALTER TABLE {item.table} VALIDATE CONSTRAINT "{item.part}"'
        yield PlanFinding(item.kind, item.name, side, "it was not validated against existing rows", advice)
    else:
        advice = f"On {side}: REINDEX INDEX CONCURRENTLY, or drop it and run `alembic upgrade head`."
        yield PlanFinding(item.kind, item.name, side, "it is invalid: its build did not finish", advice)


def _on_one_side(
    item: CatalogObject, side: str, legacy: CatalogObjects, primary: CatalogObjects
) -> PlanFinding:
    other = PRIMARY if side == LEGACY else LEGACY
    problem = f"only {side} has it: {item.definition}" if item.definition else f"only {side} has it"
    if item.kind == "moved table":
        advice = f"Run `alembic upgrade head` on {other}, or create the table there."
    elif (twin := _same_under_another_name(item, primary if side == LEGACY else legacy)) is not None:
        advice = f"{other} has an equal constraint named {twin.name}: rename one of them."
    elif item.kind in _MAKE:
        made = _MAKE[item.kind].format(table=item.table, part=item.part, definition=item.definition)
        advice = f"On {other}: {made}; or drop it on {side}."
    else:
        advice = _alignment_remedy(item)
    return PlanFinding(item.kind, item.name, side, problem, advice)


def _same_under_another_name(item: CatalogObject, others: CatalogObjects) -> CatalogObject | None:
    if item.kind != "constraint":
        return None
    alike = (item.kind, item.table, item.definition)
    return next(
        (other for other in others.values() if (other.kind, other.table, other.definition) == alike), None
    )


def _alignment_remedy(item: CatalogObject) -> str:
    if item.table is not None:
        return "Run `alembic upgrade head` on both sides, then undo changes that were made by hand."
    return _UNDECIDED.format(name=item.name)


def _is_on_both(table: str, *sides: CatalogObjects) -> bool:
    return all(("moved table", table) in side for side in sides)
