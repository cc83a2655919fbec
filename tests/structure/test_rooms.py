"""The walls of the house: imports point one way, --help is quick, nothing prints where it should not."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cli
import pipeline
import training

PACKAGES = {package.__name__: Path(str(package.__file__)).parent for package in (pipeline, training, cli)}
ALLOWED = {
    "pipeline": {"pipeline"},
    "training": {"pipeline", "training"},
    "cli": {"pipeline", "training", "cli"},
}
FORBIDDEN = {"pipeline": {"torch", "click"}, "training": {"click"}, "cli": set()}


def imported(source: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str) -> None:
    for source in PACKAGES[package].rglob("*.py"):
        names = imported(source)
        assert names & set(PACKAGES) <= ALLOWED[package], source
        assert not names & FORBIDDEN[package], source


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
