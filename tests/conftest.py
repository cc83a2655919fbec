"""Small scans written the way the world writes them, and the stores made from them."""

import os
import signal
from pathlib import Path

import pytest
import SimpleITK as sitk
from support.scans import SMALL, lungs, small_shards, write_scan

import genesis_toolkit

# For the tests and the commands that they start: a shell lets what runs in its background ignore Ctrl-C, and
# torch's threads wait by spinning, which makes networks of a few channels 4 to 10 times slower on busy cores.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_report_header() -> str:
    return f"genesis-toolkit {genesis_toolkit.__version__} from {Path(genesis_toolkit.__file__).parent}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where torch finds none; torch is loaded only where such tests were collected."""
    if not any(item.get_closest_marker("gpu") for item in items):
        return
    import torch

    skip = pytest.mark.skip(reason="torch finds no CUDA device here")
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(skip)


@pytest.fixture
def luna16(tmp_path: Path) -> Path:
    """Three scans in LUNA16's layout: two that give cubes, one too flat."""
    folder = tmp_path / "luna16"
    write_scan(folder / "subset0" / "1.2.3.mhd", lungs(0))
    write_scan(folder / "subset1" / "1.2.4.mhd", lungs(1, (40, 38, 20)))
    write_scan(folder / "subset5" / "1.2.5.mhd", lungs(2))
    return folder


@pytest.fixture
def twelve_scans(luna16: Path) -> Path:
    """Those three and nine more."""
    for number in range(3, 12):
        write_scan(luna16 / "subset3" / f"1.3.{number}.mhd", lungs(number))
    return luna16


@pytest.fixture
def twelve_nifti(twelve_scans: Path, tmp_path: Path) -> Path:
    """The same twelve in a format that SimpleITK reads, by name in one folder."""
    for path in twelve_scans.rglob("*.mhd"):
        write_scan(tmp_path / "nifti" / f"{path.stem}.nii", sitk.GetArrayFromImage(sitk.ReadImage(path)).T)
    return tmp_path / "nifti"


@pytest.fixture(params=["threads", "processes"])
def twelve(request: pytest.FixtureRequest) -> Path:
    """The twelve that `extract_call` reads in threads, and those that it reads in processes."""
    name = "twelve_scans" if request.param == "threads" else "twelve_nifti"
    folder: Path = request.getfixturevalue(name)
    return folder


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have several workers be threads, however little work that leaves the GIL alone there is."""
    monkeypatch.setattr("genesis_toolkit.pipeline.engine._SECONDS_FOR_THREADS", -1)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have several workers be processes, whoever reads the scans and however small they are."""
    monkeypatch.setattr("genesis_toolkit.pipeline.engine._SECONDS_TO_START", -1)
    monkeypatch.setattr("genesis_toolkit.pipeline.scans.readers.read_by_us", lambda _: False)


@pytest.fixture
def cube_store(luna16: Path, tmp_path: Path) -> Path:
    """A cube store of the three scans."""
    from genesis_toolkit.pipeline.cubes.extract import extract_cubes

    extract_cubes(luna16, tmp_path / "cubes.zarr", SMALL, workers=1)
    return tmp_path / "cubes.zarr"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans, and stores of them with four cubes a shard: to copy, not to harm."""
    from genesis_toolkit.pipeline.cubes.extract import extract_cubes
    from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes

    folder = tmp_path_factory.mktemp("finished")
    write_scan(folder / "scans" / "subset0" / "1.2.3.mhd", lungs(0))
    write_scan(folder / "scans" / "subset1" / "1.2.4.mhd", lungs(1, (40, 38, 20)))
    write_scan(folder / "scans" / "subset5" / "1.2.5.mhd", lungs(2))
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        extract_cubes(folder / "scans", folder / "cubes.zarr", SMALL, workers=1)
        degrade_cubes(folder / "cubes.zarr", folder / "pairs.zarr", DegradeParameters(variants=2), workers=1)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans that GENESIS_REAL_DATA names."""
    named = os.environ.get("GENESIS_REAL_DATA")
    if not named:
        pytest.skip("GENESIS_REAL_DATA names no folder of real scans")
    return Path(named)
