"""Where the two sides differ: found before it hurts, each with what makes them alike."""

from collections.abc import Iterator, Mapping

from app.transfer.planning.catalog import CatalogObject
from app.transfer.planning.findings import BOTH, LEGACY, PRIMARY, Exclusions, PlanFinding

CatalogObjects = Mapping[tuple[str, str], CatalogObject]


_UNDECIDED = "Make both sides alike, or leave it out by name: --leave-out {name!r}."
# How an object of a moved table is made where it is missing.
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
    """Every difference between the sides, and what is not valid on either of them."""
    for key in sorted({*legacy, *primary}):
        there, here = legacy.get(key), primary.get(key)
        item = there or here
        assert item is not None, "the key is from one of the two"  # noqa: S101
        if item.table is None:
            if left_out.excludes(item.name):
                continue
        elif item.kind != "moved table" and not _is_on_both(item.table, legacy, primary):
            continue  # the missing table says it all
        yield from _invalid(there, LEGACY)
        yield from _invalid(here, PRIMARY)
        if there is None or here is None:
            yield _on_one_side(item, LEGACY if here is None else PRIMARY, legacy, primary)
        elif there.definition != here.definition:
            problem = f"differs: legacy has {there.definition}; primary has {here.definition}"
            yield PlanFinding(item.kind, item.name, BOTH, problem, _alignment_remedy(item))


def _invalid(item: CatalogObject | None, side: str) -> Iterator[PlanFinding]:
    if item is None or item.is_valid:
        return
    if item.kind == "constraint":
        advice = f'On {side}: ALTER TABLE {item.table} VALIDATE CONSTRAINT "{item.part}"'
        yield PlanFinding(item.kind, item.name, side, "existing rows were never checked against it", advice)
    else:
        advice = f"On {side}: REINDEX INDEX CONCURRENTLY, or drop it and run `alembic upgrade head`."
        yield PlanFinding(item.kind, item.name, side, "its build did not finish: it is not valid", advice)


def _on_one_side(
    item: CatalogObject, side: str, legacy: CatalogObjects, primary: CatalogObjects
) -> PlanFinding:
    other = PRIMARY if side == LEGACY else LEGACY
    problem = f"only {side} has it: {item.definition}" if item.definition else f"only {side} has it"
    if item.kind == "moved table":
        advice = f"Run `alembic upgrade head` on {other}, or make the table there."
    elif (twin := _same_under_another_name(item, primary if side == LEGACY else legacy)) is not None:
        advice = f"{other} has the same as {twin.name}: rename one of them."
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
    return next((each for each in others.values() if (each.kind, each.table, each.definition) == alike), None)


def _alignment_remedy(item: CatalogObject) -> str:
    if item.table is not None:
        return "Make both sides alike: `alembic upgrade head` on both, then undo what was changed by hand."
    return _UNDECIDED.format(name=item.name)


def _is_on_both(table: str, *sides: CatalogObjects) -> bool:
    return all(("moved table", table) in side for side in sides)
