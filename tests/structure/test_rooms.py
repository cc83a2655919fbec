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
from pathlib import Path

import pytest
from structure.mirrors import TESTED_ELSEWHERE
from support.folders import TESTS
from support.house import HOUSE, PACKAGE, SOURCES, TREES, imported

ROWS = (
    ("pipeline.version", "pipeline.errors", "pipeline.wording"),
    ("pipeline.progress",),
    ("pipeline.local_cluster", "pipeline.jit"),
    ("pipeline.hounsfield", "pipeline.rng", "pipeline.ledger", "pipeline.engine"),
    ("pipeline.job", "pipeline.absent"),
    ("pipeline.job", "pipeline.absent"),
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


def mirror_of(module: str) -> list[Path]:
    """Where the tests of a module may lie without further ado: below tests/, by room and name."""
    top, *rooms, name = module.split(".")
    rooms = ["cli"] if top == "cli" else rooms
    return [TESTS.joinpath(*rooms[:depth], f"test_{name}.py") for depth in {len(rooms), min(len(rooms), 1)}]


def modules_at_work(test: Path) -> set[str]:
    """What a test file imports itself or with the help of support/, and the commands that it runs."""
    tree = ast.parse(test.read_text(encoding="utf-8"))
    helpers = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    helping = [TESTS / f"{name.replace('.', '/')}.py" for name in helpers if name.startswith("support.")]
    trees = [tree, *(ast.parse(path.read_text(encoding="utf-8")) for path in helping)]
    found = {home for one in trees for home, _ in imported(one)}
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    words = {word for text in texts if isinstance(text, str) for word in text.split()}
    for program in ("cli.prep", "cli.train"):
        if (
            program in found
            or f"{PACKAGE}.{program}" in words
            or program.replace("cli.", "genesis-") in words
        ):
            found |= {home for home, name in imports(program) if name.replace("_", "-") in words}
    return found


def has_to_do_with(test: Path, module: str) -> bool:
    """Whether a test file works with a module, or with one that imports it, through its own room at most."""
    near = modules_at_work(test)
    if module in near:
        return True
    room, programs = room_of(module), {"cli.prep", "cli.train"} if module.startswith("cli.") else set[str]()
    near |= {home for one in near - programs for home, _ in imports(one)}
    while more := {home for one in near if room_of(one) == room != "cli" for home, _ in imports(one)} - near:
        near |= more
    return module in near


def test_every_module_has_a_mirror() -> None:
    """For each module a test file of its name, or a line in `mirrors.py` that says where else, and why."""
    modules = {name for name in modules_in_rooms() if SOURCES[name].name != "__init__.py"}
    mirrored = {name for name in modules if any(path.is_file() for path in mirror_of(name))}
    told = TESTED_ELSEWHERE.keys()
    assert not modules - mirrored - told, "modules without a test file"
    assert not told - modules, "no such modules any more"
    assert not told & mirrored, "they have test files of their own"
    assert list(told) == sorted(told)
    absent = {name for name, (test, _) in TESTED_ELSEWHERE.items() if not (TESTS / test).is_file()}
    assert not absent, "their test files are not there"
    strange = {
        (name, test) for name, (test, _) in TESTED_ELSEWHERE.items() if not has_to_do_with(TESTS / test, name)
    }
    assert not strange, "test files that have nothing to do with the module"
    assert all(why.split() for _, why in TESTED_ELSEWHERE.values())


@pytest.mark.parametrize(
    ("test", "module", "has"),
    [
        ("degrade/test_compose.py", "pipeline.degrade.paint", True),  # which `compose` imports
        ("practice/test_nih.py", "pipeline.practice.anatomy.trees", True),  # by way of its own room
        ("cli/test_output.py", "cli.pack", True),  # which it runs
        ("exchange/test_merge.py", "cli.pack", False),  # which it does not, though it runs `merge`
        ("cubes/test_rule.py", "pipeline.cubes.repair", False),
        ("scans/test_find.py", "training.compare.figure", False),
    ],
)
def test_a_test_file_that_has_nothing_to_do_with_a_module_is_known(test: str, module: str, has: bool) -> None:
    assert has_to_do_with(TESTS / test, module) == has
