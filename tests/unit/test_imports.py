"""Dependencies point one way, from the edges of the program to its core."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"

# Each part may import those that stand after it.
LAYERS = [
    {"cli"},
    {"app"},
    {"web"},
    {"frontdesk"},
    {"data_layer", "whatsapp", "yclients", "transfer", "backup", "testdata"},
    {"bulk"},
    {"unit_of_work"},
    {"scopes"},
    {"repositories"},
    {"schemas", "database"},
    {"models"},
]
ANYWHERE = {"config", "database_urls", "errors", "observability", "phones", "secret_files", "text"}
# One boundary makes Results for all who answer with one. The import works on the service that it is
# handed. The settings start the embedded server where it is used.
EXCEPTIONS = {
    ("yclients", "frontdesk"),
    ("yclients", "data_layer"),
    ("whatsapp", "data_layer"),
    ("config", "database"),
}


def part(module: str) -> str:
    names = module.split(".")
    return names[1] if len(names) > 1 else "app"


def imports(path: Path) -> Iterator[str]:
    """The parts of the app that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not getattr(node, "level", 0), f"{path} has a relative import, whose layer is not known here"
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "app":
            if node.module == "app":
                names = {alias.name for alias in node.names}
                yield from names & {p.stem for p in APP.iterdir()} or {"app"}
            else:
                yield part(node.module)
        elif isinstance(node, ast.Import):
            yield from (part(alias.name) for alias in node.names if alias.name.split(".")[0] == "app")


def level(name: str) -> int:
    for number, layer in enumerate(LAYERS):
        if name in layer:
            return number
    raise AssertionError(f"app/{name} has no place among the layers")


@pytest.mark.parametrize("path", sorted(APP.rglob("*.py")), ids=lambda path: str(path.relative_to(APP)))
def test_imports_point_inwards(path: Path) -> None:
    relative = path.relative_to(APP).with_suffix("")
    own = "app" if relative.name == "__init__" and len(relative.parts) == 1 else relative.parts[0]
    for other in set(imports(path)) - {own} - ANYWHERE:
        if (own, other) not in EXCEPTIONS:
            assert own not in ANYWHERE, f"{relative} may be imported anywhere, so it imports nothing of ours"
            assert level(own) < level(other), f"{relative} imports {other}"


def test_the_folder_of_migrations_is_no_package() -> None:
    """An `__init__.py` there would shadow the installed alembic."""
    assert not (APP.parent / "alembic" / "__init__.py").exists()
