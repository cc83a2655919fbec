"""Small scans written the way the world writes them, and the stores made from them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

import pipeline
from pipeline.extract import ExtractParameters
from pipeline.ledger import unfinished

#: Parameters that suit scans of some forty voxels.
SMALL = ExtractParameters(cubes_per_scan=6, size=(16, 16, 16), border=(2, 2, 2), max_tissue=0.4)


# For the tests and the commands that they start: a shell lets what runs in its background ignore Ctrl-C, and
# torch's threads wait by spinning, which makes networks of a few channels 4 to 10 times slower on busy cores.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_report_header() -> str:
    return f"genesis-toolkit {pipeline.__version__} from {Path(pipeline.__file__).parent}"


def lungs(seed: int, shape: tuple[int, int, int] = (40, 38, 36)) -> NDArray[np.int16]:
    """A scan [x, y, z] of smooth blobs around -500 HU, some of it tissue, padded with -2000 in one corner."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(-500, 350, tuple(edge // 4 + 2 for edge in shape))
    fine = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: shape[0], : shape[1], : shape[2]]
    voxels = (fine + rng.normal(0, 30, shape)).round().astype(np.int16)
    voxels[:3, :3] = -2000
    return voxels


def write_scan(path: Path, voxels: NDArray[np.generic], spacing: tuple[float, ...] = (0.7, 0.7, 1.5)) -> Path:
    """Write voxels [x, y, z] in whatever format the name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    image.SetSpacing(spacing)
    image.SetOrigin((-100.5, -80.25, 30.0))
    sitk.WriteImage(image, str(path))
    return path


def extract_call(source: Path, target: Path, *options: str) -> list[str]:
    """The command that extracts cubes as `SMALL` says, with two workers."""
    call = [sys.executable, "-m", "cli.prep", "extract-cubes", str(source), str(target), "--workers", "2"]
    small = "--size 16,16,16 --border 2,2,2 --max-tissue 0.4 --cubes-per-scan 6"
    return [*call, *small.split(), *options]


def kill_after(call: list[str], target: Path, pieces: int, seconds: float = 0) -> bool:
    """Start a command, kill it and its children so long after that many pieces of work are recorded.

    Returns:
        Whether it was still at work.
    """
    done = unfinished(target) / "done"
    run = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while run.poll() is None:
        if done.is_dir() and sum(1 for _ in done.glob("[!.]*.json")) >= pieces:
            time.sleep(seconds)
            at_work = run.poll() is None
            with suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            return at_work
        time.sleep(0.001)
    return False


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


#: A module that ends the process which reads one of the twelve, as a file does that the reader breaks at.
POISON = """\
import os, signal
import pipeline.cut as cut
read = cut.read_scan
def read_scan(path):
    if path.name == '1.3.4.mhd': os.kill(os.getpid(), signal.SIGSEGV)
    return read(path)
cut.read_scan = read_scan
"""


@pytest.fixture
def cube_store(luna16: Path, tmp_path: Path) -> Path:
    """A cube store of the three scans."""
    from pipeline.extract import extract_cubes

    extract_cubes(luna16, tmp_path / "cubes.zarr", SMALL, workers=1)
    return tmp_path / "cubes.zarr"


def small_shards(patch: pytest.MonkeyPatch) -> None:
    """Four cubes a shard, whatever their size."""
    for module in ("shards", "pack", "writing", "degrade.pairs"):
        patch.setattr(f"pipeline.{module}.shard_length", lambda *_: 4)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans, and stores of them with four cubes a shard: to copy, not to harm."""
    from pipeline.degrade.pairs import DegradeParameters, degrade
    from pipeline.extract import extract_cubes

    folder = tmp_path_factory.mktemp("finished")
    write_scan(folder / "scans" / "subset0" / "1.2.3.mhd", lungs(0))
    write_scan(folder / "scans" / "subset1" / "1.2.4.mhd", lungs(1, (40, 38, 20)))
    write_scan(folder / "scans" / "subset5" / "1.2.5.mhd", lungs(2))
    with pytest.MonkeyPatch.context() as patch:
        small_shards(patch)
        extract_cubes(folder / "scans", folder / "cubes.zarr", SMALL, workers=1)
        degrade(folder / "cubes.zarr", folder / "pairs.zarr", DegradeParameters(variants=2), workers=1)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real scans that GENESIS_REAL_DATA names."""
    named = os.environ.get("GENESIS_REAL_DATA")
    if not named:
        pytest.skip("GENESIS_REAL_DATA names no folder of real scans")
    return Path(named)
