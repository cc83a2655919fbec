"""The walls of the house: imports point one way, --help is quick, nothing prints where it should not."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

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
        f"import sys; from cli.{program} import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print('HEAVY', sorted({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert "Try it" in done.stdout or "Example" in done.stdout


def test_every_core_dependency_has_a_lowest_version_and_a_tested_one() -> None:
    """`make lowest` installs the first, `constraints.txt` names the second."""
    root = Path(__file__).parents[1]
    lines = (root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {
        name.lower(): Version(version)
        for name, sep, version in (line.partition("==") for line in lines)
        if sep
    }
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in map(Requirement, project["dependencies"]):
        (bound,) = requirement.specifier
        assert bound.operator == ">=", requirement
        assert Version(bound.version) <= tested[requirement.name.lower()]
