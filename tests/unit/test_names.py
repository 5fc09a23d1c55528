"""Names have one meaning: classes, modules and constants of the application."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
FILES = sorted(APP.rglob("*.py"))
UNITS = ("_SECONDS", "_MS", "_MINUTES", "_HOURS", "_DAYS", "_PERCENT", "_ROUND_TRIPS", "_MAJOR")
# Words for durations: the name of a number with such a word must end with its unit.
DURATIONS = ("TIMEOUT", "DELAY", "INTERVAL", "PERIOD", "DURATION", "GRACE", "DEADLINE", "PAUSE")


def name_of(path: Path) -> str:
    return str(path.relative_to(APP))


def constants(path: Path) -> Iterator[tuple[str, object]]:
    """Yield the module-level constants of a file whose value is a literal."""
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if value is None:
            continue
        try:
            literal = ast.literal_eval(value)
        except ValueError:
            continue
        for target in targets:
            if isinstance(target, ast.Name) and target.id.isupper():
                yield target.id, literal


def test_no_class_name_occurs_twice() -> None:
    places = defaultdict(list)
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name_of(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_module_name_occurs_twice_in_a_package_tree() -> None:
    """`routes` and `summary` are allowed twice: the name of their package distinguishes them."""
    places = defaultdict(list)
    for path in FILES:
        tree = path.relative_to(APP).parts[0]
        if path.stem not in ("__init__", "routes", "summary"):
            places[tree, path.stem].append(name_of(path))
    assert {module: found for (_, module), found in places.items() if len(found) > 1} == {}


def test_public_constants_of_one_name_have_one_type() -> None:
    types = defaultdict(set)
    for path in FILES:
        for name, value in constants(path):
            if not name.startswith("_"):
                types[name].add(type(value).__name__)
    assert {name: found for name, found in types.items() if len(found) > 1} == {}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_number_that_is_a_duration_names_its_unit(path: Path) -> None:
    for name, value in constants(path):
        if isinstance(value, int | float) and not isinstance(value, bool):
            words = name.strip("_").split("_")
            assert not set(words) & set(DURATIONS) or name.endswith(UNITS), (
                f"{name} = {value}: the name must end with its unit"
            )
