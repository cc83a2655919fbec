"""The walls of the house: rooms import only from rows above them, in no circle, and every name has one home.

Each row of ROWS may import from the rows above it. Rooms of one row do not import each other; the modules of
a room may, without a circle. Imports inside functions count: they may come late for speed, never to hide a
circle.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import pytest
from support.folders import TESTS
from support.house import HOUSE, PACKAGE, SOURCES, TREES, imported

ROWS = (
    ("pipeline.version", "pipeline.errors", "pipeline.wording", "pipeline.progress", "pipeline.jit"),
    ("pipeline.local_cluster",),
    ("pipeline.hounsfield", "pipeline.rng", "pipeline.ledger", "pipeline.engine"),
    ("pipeline.job",),
    ("pipeline.job",),
    ("pipeline.scans", "pipeline.store", "pipeline.degrade", "pipeline.practice"),
    ("pipeline.describe",),
    ("pipeline.cubes",),
    ("pipeline.pairs", "pipeline.targets", "pipeline.exchange"),
    ("pipeline.verify", "pipeline.pictures"),
    ("training.machine",),
    ("training.feeding",),
    ("training.networks",),
    ("training.weights",),
    ("training.pretrain", "training.finetune"),
    ("training.compare",),
    ("cli",),
)
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
FORBIDDEN = {"pipeline": {"torch", "click"}, "training": {"click"}, "cli": set[str]()}


def imports(module: str) -> Iterator[tuple[str, str]]:
    """The module and the name of everything that a module imports from this package.

    Only commands may take names from the face, as everybody outside does: they come last.
    """
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == PACKAGE]
            assert names in ([], [PACKAGE] * module.startswith("cli.")), module
    return imported(TREES[module])


def room_of(module: str) -> str:
    return next(name for name in (module, *map(str, ancestors(module))) if name in ROW)


def ancestors(module: str) -> Iterator[str]:
    while "." in module:
        module = module.rpartition(".")[0]
        yield module


def defined(module: str) -> set[str]:
    """The names that a module makes itself, at its top level."""
    names = set()
    for node in TREES[module].body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        for target in getattr(node, "targets", [getattr(node, "target", None)]):
            names |= {part.id for part in ast.walk(target) if isinstance(part, ast.Name)} if target else set()
    return names


def modules_in_rooms() -> list[str]:
    return [name for name in SOURCES if "." in name or SOURCES[name].name != "__init__.py"]


@pytest.mark.parametrize("module", modules_in_rooms())
def test_a_room_imports_only_from_the_rows_above(module: str) -> None:
    room = room_of(module)
    wrong = {home for home, _ in imports(module) if room_of(home) != room and ROW[room_of(home)] >= ROW[room]}
    assert not wrong, f"{module} is in row {ROW[room]} and imports from {wrong}"


def test_no_module_imports_itself_by_a_detour() -> None:
    graph = {module: {home for home, _ in imports(module) if home != module} for module in SOURCES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("module", modules_in_rooms())
def test_every_name_is_imported_from_its_home(module: str) -> None:
    borrowed = {f"{home}.{name}" for home, name in imports(module) if name and name not in defined(home)}
    assert not borrowed, f"{module} imports {borrowed} from a module that did not make it"


@pytest.mark.parametrize("top", FORBIDDEN)
def test_no_room_imports_what_its_package_does_without(top: str) -> None:
    for module in (name for name in SOURCES if name.split(".")[0] == top):
        names = set()
        for node in ast.walk(TREES[module]):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
        assert not names & FORBIDDEN[top], module


@pytest.mark.parametrize("room", [room for room in ROW if (HOUSE / room.replace(".", "/")).is_dir()])
def test_every_room_has_a_folder_of_tests(room: str) -> None:
    assert list((TESTS / room.rpartition(".")[2]).glob("test_*.py")), f"tests/ has no room for {room}"


@pytest.mark.parametrize("program", ["prep", "train"])
def test_help_imports_nothing_heavy(program: str) -> None:
    heavy = {"numpy", "zarr", "numba", "torch", "matplotlib", "SimpleITK", "dask", "rich"}
    code = (
        f"import sys; from genesis_toolkit.cli.{program} import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print('HEAVY', sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert "Try it" in done.stdout or "Example" in done.stdout


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, genesis_toolkit; print({'numpy', 'numba', 'zarr', 'torch', 'click'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "set()"
