"""Small scans written the way the world writes them, and the calls that cut them."""

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

from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.ledger import unfinished

#: Parameters that suit scans of some forty voxels.
SMALL = ExtractParameters(cubes_per_scan=6, size=(16, 16, 16), border=(2, 2, 2), max_tissue=0.4)


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


#: Runs a command as if starting processes were worth it for the smallest scans.
_EAGER = (
    "import runpy, sys, genesis_toolkit.pipeline.engine\n"
    "engine = genesis_toolkit.pipeline.engine\n"
    "engine._SECONDS_TO_START = engine._SECONDS_FOR_THREADS = -1\n"
    "sys.argv = sys.argv[1:]\n"
    "runpy.run_module(sys.argv[0], run_name='__main__')\n"
)


def extract_call(source: Path, target: Path, *options: str) -> list[str]:
    """The command that extracts cubes as `SMALL` says, with two workers.

    They are threads where MetaImages are read, and processes, however small the scans, where SimpleITK does.
    """
    call = [
        sys.executable,
        "-c",
        _EAGER,
        "genesis_toolkit.cli.prep",
        "extract-cubes",
        str(source),
        str(target),
    ]
    call += ["--workers", "2"]
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


def gone(group: int) -> None:
    """Wait until no process of a group is left."""
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)


#: A module that ends the process which reads one of the twelve, as a file does that the reader breaks at.
POISON = """\
import os, signal
import genesis_toolkit.pipeline.cubes.cut as cut
opened = cut.open_scan
def open_scan(path, mr=False):
    if path.stem == '1.3.4': os.kill(os.getpid(), signal.SIGSEGV)
    return opened(path, mr)
cut.open_scan = open_scan
"""


def small_shards(patch: pytest.MonkeyPatch) -> None:
    """Four cubes a shard, whatever their size."""
    for module in ("store.shards", "cubes.assemble", "store.write", "pairs.degrade"):
        patch.setattr(f"genesis_toolkit.pipeline.{module}.shard_length", lambda *_: 4)
