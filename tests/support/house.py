"""The modules of the package and what each imports, read from their sources without running them."""

import ast
from collections.abc import Iterator
from pathlib import Path

import genesis_toolkit

PACKAGE = "genesis_toolkit"
HOUSE = Path(str(genesis_toolkit.__file__)).parent
PACKAGES = ("pipeline", "training", "cli")


def sources() -> dict[str, Path]:
    """Every module of the three packages, by its dotted name below genesis_toolkit."""
    found = {}
    for top in PACKAGES:
        for path in (HOUSE / top).rglob("*.py"):
            name = ".".join(path.relative_to(HOUSE).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


SOURCES = sources()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}

#: The homes of the public names, as the face gives them.
FACE = {
    alias.name: str(node.module)
    for node in ast.parse((HOUSE / "__init__.pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """The module and the name of everything that a source takes from this package.

    A name that it takes from the face, `gt.open_store` after `import genesis_toolkit as gt`, counts as one of
    the module that made it.
    """
    faces = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == PACKAGE:
            home = node.module.removeprefix(PACKAGE).removeprefix(".")
            for alias in node.names:
                inner = f"{home}.{alias.name}".removeprefix(".")
                yield (inner, "") if inner in SOURCES else (home, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == PACKAGE:
                    faces.add(alias.asname or PACKAGE)
                elif alias.name.startswith(f"{PACKAGE}."):
                    yield alias.name.removeprefix(f"{PACKAGE}."), ""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in faces and name in FACE:
                yield FACE[name], name
