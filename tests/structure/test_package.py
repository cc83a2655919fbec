"""What is installed is one package, and a research folder with names like ours does it no harm."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from support.folders import ROOT

PREP = ("phantom", "extract-cubes", "explain", "degrade", "preview", "info", "verify", "pack", "merge")
PREP += ("import-npy", "export-npy", "extract-targets")
TRAIN = ("pretrain", "export", "finetune", "segment", "compare")

#: What a researcher's own folder may hold.
OWN = {
    "training/__init__.py": "raise RuntimeError('this is the researcher\\'s training')\n",
    "cli.py": "raise RuntimeError('this is the researcher\\'s cli')\n",
    "pipeline.py": "raise RuntimeError('this is the researcher\\'s pipeline')\n",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel that was built from the sdist; its dependencies are this one's."""
    folder = tmp_path_factory.mktemp("package")
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
    )
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    wheel = next(folder.glob("*.whl"))
    here = [path for path in sys.path if path.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(here), encoding="utf-8")
    call = "-m pip --python {} install --no-index --no-deps --force-reinstall --quiet {}"
    python = environment / "bin" / "python"
    subprocess.run([sys.executable, *call.format(python, wheel).split()], check=True)
    return environment


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    for name, text in OWN.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def run(installed: Path, folder: Path, *words: object) -> "subprocess.CompletedProcess[str]":
    call = [str(installed / "bin" / str(words[0])), *map(str, words[1:])]
    environment = {**os.environ, "PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        call, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )


@pytest.mark.full
def test_the_wheel_holds_one_package_and_is_typed(installed: Path) -> None:
    wheel = next(installed.parent.glob("*.whl"))
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {"genesis_toolkit", Path(names[-1]).parts[0]}
    assert "genesis_toolkit/py.typed" in names
    archive = next(installed.parent.glob("*.tar.gz"))
    with tarfile.open(archive) as sdist:
        inside = {name.split("/", 1)[-1] for name in sdist.getnames()}
    assert {"face/__init__.py", "pipeline/version.py", "README.md", "LICENSE", "NOTICE"} <= inside


@pytest.mark.full
@pytest.mark.parametrize(
    "words", [("genesis-prep", name) for name in PREP] + [("genesis-train", name) for name in TRAIN]
)
def test_every_command_answers_beside_a_folder_with_our_old_names(
    installed: Path, own_folder: Path, words: tuple[str, str]
) -> None:
    done = run(installed, own_folder, *words, "--help")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


@pytest.mark.full
def test_a_journey_runs_beside_a_folder_with_our_old_names(installed: Path, own_folder: Path) -> None:
    for line in (
        "genesis-prep phantom scans --scans 2 --shape 96,96,64",
        "genesis-prep extract-cubes scans cubes.zarr --size 16,16,16 --border 8,8,8 --workers 2",
        "genesis-prep degrade cubes.zarr pairs.zarr --workers 2",
        "genesis-prep verify pairs.zarr",
        "genesis-train pretrain pairs.zarr --out run --width 2 --epochs 1 --batch-size 2 --device cpu",
    ):
        done = run(installed, own_folder, *line.split())
        assert done.returncode == 0, (line, done.stderr)
    code = "import genesis_toolkit as gt; print(gt.open_store('cubes.zarr')[0].shape, gt.__file__)"
    done = run(installed, own_folder, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(16, 16, 16) ")
    assert str(installed) in done.stdout, "it is the wheel that was tried"


def test_every_core_dependency_has_a_lowest_version_and_a_tested_one() -> None:
    """`make lowest` installs the first, `constraints.txt` names the second."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {
        name.lower(): Version(version)
        for name, sep, version in (line.partition("==") for line in lines)
        if sep
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for requirement in map(Requirement, project["dependencies"]):
        (bound,) = requirement.specifier
        assert bound.operator == ">=", requirement
        assert Version(bound.version) <= tested[requirement.name.lower()]
