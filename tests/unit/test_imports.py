"""Imports point one way: from the edges of the program to its core, package by package, without cycles."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"

# For each package, chains of its files and subpackages. Each name imports only names after a later `>`,
# never a name beside it. `__init__` is the package's own file: unless a chain names it, it may
# import every file of its package.
CHAINS = {
    "app": (
        "demo > cli > __init__ > web > yclients > frontdesk > whatsapp adoption > data_layer"
        " > transfer backup repositories migrations maintenance > database > observability"
        " > config schemas > errors phones text models",
    ),
    "app.transfer": ("start finish health > cutover > verification copying > relay > planning > protocol",),
    "app.yclients": (
        "importing syncing webhook > ingest > mapping > errors sample summary",
        "syncing > api > mapping",
    ),
    "app.web": ("status_page > health > serving", "routes > serving"),
}

FILES = sorted(APP.rglob("*.py"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(APP.parent).with_suffix("").parts)


MODULES = {module_of(path): path for path in FILES}
PACKAGES = sorted({module.rpartition(".")[0] for module in MODULES})


def file_of(name: str) -> str | None:
    """The module of the file that holds `name`, a module or a package; None if it is neither."""
    return next((each for each in (name, f"{name}.__init__") if each in MODULES), None)


def imports(module: str) -> Iterator[str]:
    """The modules of the application that a module imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [file_of(name) or file_of(node.module or "") for name in names]
        elif isinstance(node, ast.Import):
            found = [file_of(alias.name) for alias in node.names]
        else:
            continue
        yield from (each for each in found if each is not None)


IMPORTS = {module: set(imports(module)) for module in MODULES}


def beside(module: str, package: str) -> tuple[str, set[str]]:
    """Return the name of the module in the package, a file or subpackage, and the names that it imports."""
    depth = len(package.split("."))
    name = module.split(".")[depth]
    imported = {each.split(".")[depth] for each in IMPORTS[module] if each.startswith(f"{package}.")}
    return name, imported - {name}


def neighbours(package: str) -> dict[str, set[str]]:
    """Return, for each name in the package, the names beside it that it imports."""
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        if module.startswith(f"{package}."):
            name, imported = beside(module, package)
            graph.setdefault(name, set()).update(imported)
    return graph


def allowed(package: str) -> dict[str, set[str]]:
    """By name in the package, the names beside it that the chains let it import."""
    known = neighbours(package)
    steps = [chain.split(" > ") for chain in CHAINS[package]]
    named = {name for chain in steps for step in chain for name in step.split()}
    assert named <= set(known), f"{package} has no {sorted(named - set(known))}"
    below: dict[str, set[str]] = {name: set() for name in known}
    if "__init__" not in named:
        below["__init__"] = set(known) - {"__init__"}
    for chain in steps:
        for upper, lower in pairwise(chain):
            for name in upper.split():
                below[name] |= set(lower.split())
    for name in TopologicalSorter(below).static_order():
        below[name] |= {further for each in below[name] for further in below[each]}
    return below


ALLOWED = {package: allowed(package) for package in CHAINS}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_from_the_edges_to_the_core(module: str) -> None:
    for package in CHAINS:
        if module.startswith(f"{package}."):
            name, imported = beside(module, package)
            refused = imported - ALLOWED[package][name]
            assert not refused, f"{package}.{name} must not import {sorted(refused)}"


def test_every_part_of_the_application_has_its_place_in_the_direction() -> None:
    assert set(neighbours("app")) == {name for step in CHAINS["app"][0].split(" > ") for name in step.split()}


def test_files_import_each_other_without_a_cycle() -> None:
    refuse_cycle(IMPORTS)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_each_other_without_a_cycle(package: str) -> None:
    refuse_cycle(neighbours(package))


def refuse_cycle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter({name: imported - {name} for name, imported in graph.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"A cycle of imports: {' -> '.join(error.args[1])}")


def test_the_folder_of_migrations_is_no_package() -> None:
    """An `__init__.py` there would shadow the installed alembic."""
    assert not (APP.parent / "alembic" / "__init__.py").exists()
