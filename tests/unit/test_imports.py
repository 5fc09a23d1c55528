"""Imports follow the layers of the application: in one direction, without cycles."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"

# The layers of each package, as chains of its files and subpackages. A name may import the names after a
# later `>`, but not the names of its own layer. `__init__` is the package's own file: unless a chain contains
# it, it may import every file of its package.
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
    """Return the module that defines `name` (a module or package), or None if it is neither."""
    return next((each for each in (name, f"{name}.__init__") if each in MODULES), None)


def imports(module: str) -> Iterator[str]:
    """Yield the modules of the application that a module imports, at module level or in functions."""
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
    """Return the module's file or subpackage in the package, and the others there that it imports."""
    depth = len(package.split("."))
    name = module.split(".")[depth]
    imported = {each.split(".")[depth] for each in IMPORTS[module] if each.startswith(f"{package}.")}
    return name, imported - {name}


def neighbours(package: str) -> dict[str, set[str]]:
    """Return, for each file or subpackage of the package, the others that it imports."""
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        if module.startswith(f"{package}."):
            name, imported = beside(module, package)
            graph.setdefault(name, set()).update(imported)
    return graph


def allowed(package: str) -> dict[str, set[str]]:
    """Return, for each file or subpackage of the package, the others that the chains allow it to import."""
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
def test_a_module_imports_only_lower_layers(module: str) -> None:
    for package in CHAINS:
        if module.startswith(f"{package}."):
            name, imported = beside(module, package)
            refused = imported - ALLOWED[package][name]
            assert not refused, f"{package}.{name} must not import {sorted(refused)}"


def test_the_chain_contains_every_part_of_the_application() -> None:
    assert set(neighbours("app")) == {name for step in CHAINS["app"][0].split(" > ") for name in step.split()}


def test_files_have_no_import_cycle() -> None:
    refuse_cycle(IMPORTS)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_have_no_import_cycle(package: str) -> None:
    refuse_cycle(neighbours(package))


def refuse_cycle(graph: dict[str, set[str]]) -> None:
    try:
        TopologicalSorter({name: imported - {name} for name, imported in graph.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"Import cycle: {' -> '.join(error.args[1])}")


def test_the_folder_of_migrations_is_not_a_package() -> None:
    """With an `__init__.py`, the folder would hide the installed package alembic."""
    assert not (APP.parent / "alembic" / "__init__.py").exists()
