"""Chooses the workers that read scans: threads for our own reader, processes for SimpleITK, where they pay.

SimpleITK holds the GIL while it reads (two threads took 1.1 times the time of one after the other), and a
broken file may end its process. Our reader of MetaImages does neither. Of either kind of workers the start is
waited for, so a little work is done in this process.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from genesis_toolkit.pipeline.engine import Workers
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.formats import files_of, read_by_us
from genesis_toolkit.pipeline.scans.series import folder_and_label

#: Seconds that SimpleITK takes for a file and for a byte, with all that is done with the voxels. A byte of
#: NIfTI takes 5 ns and one of `.nii.gz` 20; a slice of DICOM some ms, since it is a file.
_A_FILE, _A_BYTE = 3e-3, 1e-8
#: And that our own reader takes: for a scan, a byte, and a byte that is compressed.
_OUR_SCAN, _OUR_BYTE, _OUR_PACKED_BYTE = 2e-3, 1.2e-9, 4.8e-9
_PACKED = (".zraw", ".gz")


def readers(workers: Workers, paths: Iterable[Path], parameters: object = None) -> Workers:
    """The workers for tasks that read scans, images or masks.

    Args:
        workers: how many are asked for.
        paths: of what is to be read, as in `Source.path`. No more of them are looked at than settle it.
        parameters: of what is cut; SimpleITK resamples and turns scans.

    Returns:
        The same, of the kind that suits; or one, which is this process.
    """
    if workers.client is not None or workers.count == 1:
        return workers
    paths = list(paths)
    ours = not (getattr(parameters, "spacing", None) or getattr(parameters, "orient", None))
    ours, seconds = ours and all(map(read_by_us, paths)), 0.0
    for path in paths:
        seconds += seconds_for(_files(path), ours)
        if suited(workers, ours, seconds).count > 1:
            break
    return suited(workers, ours, seconds)


def suited(workers: Workers, ours: bool, seconds: float) -> Workers:
    """The kind of workers for so many seconds of reading, by our own reader or SimpleITK's. Pure."""
    return workers.for_free_seconds(seconds) if ours else workers.for_seconds(seconds)


def seconds_for(files: list[tuple[str, int]], ours: bool) -> float:
    """About how long one worker is at a scan of these files, each with its bytes. Pure."""
    if not ours:
        return sum(_A_FILE + size * _A_BYTE for _, size in files)
    each = (size * (_OUR_PACKED_BYTE if name.endswith(_PACKED) else _OUR_BYTE) for name, size in files)
    return _OUR_SCAN + sum(each)


def _files(path: Path) -> list[tuple[str, int]]:
    """The files of a scan, with their bytes; of a folder of DICOM all that lie in it."""
    try:
        folder, _ = folder_and_label(path)
        if folder is None:
            return [(file.name, file.stat().st_size) for file in files_of(path)]
        with os.scandir(folder) as entries:
            return [(entry.name, entry.stat().st_size) for entry in entries if entry.is_file()]
    except (DataError, OSError):
        return []
