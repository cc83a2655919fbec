"""Chooses the workers that read scans: threads for our own reader, processes for SimpleITK if they pay off.

SimpleITK holds the GIL while it reads (two threads took 1.1 times as long as one), and a broken file may kill
its process. Our MetaImage reader does neither. Starting workers of either kind takes time, so small amounts
of work are done in this process.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from genesis_toolkit.pipeline.engine import Workers
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.formats import files_of, read_by_us
from genesis_toolkit.pipeline.scans.series import folder_and_label

#: Seconds that SimpleITK needs per file and per byte, including all processing of the voxels. A byte of NIfTI
#: takes 5 ns and one of `.nii.gz` 20; a slice of DICOM some ms, since it is a file.
_A_FILE, _A_BYTE = 3e-3, 1e-8
#: Seconds that our own reader needs per scan, per byte, and per compressed byte.
_OUR_SCAN, _OUR_BYTE, _OUR_PACKED_BYTE = 2e-3, 1.2e-9, 4.8e-9
_PACKED = (".zraw", ".gz")


def readers(workers: Workers, paths: Iterable[Path], parameters: object = None) -> Workers:
    """Choose workers for tasks that read scans, images or masks.

    Args:
        workers: the number requested.
        paths: paths of the data to read, see `Source.path`; only as many are inspected as the decision needs.
        parameters: parameters of the extraction; SimpleITK resamples and reorients scans.

    Returns:
        The same number, of the suitable kind; or one worker, which is this process.
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
    """Return the kind of workers for `seconds` of reading, by our own reader or SimpleITK. Pure."""
    return workers.for_free_seconds(seconds) if ours else workers.for_seconds(seconds)


def seconds_for(files: list[tuple[str, int]], ours: bool) -> float:
    """Estimate how long one worker takes for a scan of these files, each with its size in bytes. Pure."""
    if not ours:
        return sum(_A_FILE + size * _A_BYTE for _, size in files)
    each = (size * (_OUR_PACKED_BYTE if name.endswith(_PACKED) else _OUR_BYTE) for name, size in files)
    return _OUR_SCAN + sum(each)


def _files(path: Path) -> list[tuple[str, int]]:
    """Return a scan's files with their sizes in bytes; for a folder of DICOM, all files in it."""
    try:
        folder, _ = folder_and_label(path)
        if folder is None:
            return [(file.name, file.stat().st_size) for file in files_of(path)]
        with os.scandir(folder) as entries:
            return [(entry.name, entry.stat().st_size) for entry in entries if entry.is_file()]
    except (DataError, OSError):
        return []
