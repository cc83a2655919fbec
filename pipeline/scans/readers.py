"""Chooses the workers that read scans: threads for our own reader, processes for SimpleITK where they pay.

SimpleITK holds the GIL while it reads (two threads took 1.1 times the time of one after the other), and a
broken file may end its process. Our reader of MetaImages does neither: nine `.raw` scans took 1.0 s with two
threads, 1.3 s with one worker, and 3.7 s with two processes, which had to be started for them.
"""

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from genesis_toolkit.pipeline.engine import Workers, processes_pay
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.scans.formats import files_of, read_by_us
from genesis_toolkit.pipeline.scans.series import folder_and_label

#: Seconds that SimpleITK takes for a file and for a byte, with all that is done with the voxels. A byte of
#: NIfTI takes 5 ns and one of `.nii.gz` 20; a slice of DICOM some ms, since it is a file.
_A_FILE, _A_BYTE = 3e-3, 1e-8


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
    ours = not (getattr(parameters, "spacing", None) or getattr(parameters, "orient", None))
    files, size = 0, 0
    for path in paths:
        ours = ours and read_by_us(path)
        more = _sizes(path)
        files, size = files + len(more), size + sum(more)
        if suited(workers, ours, files, size).processes:
            break
    return suited(workers, ours, files, size)


def suited(workers: Workers, ours: bool, files: int, size: int) -> Workers:
    """The kind of workers for reading so many files and bytes, by our own reader or SimpleITK's. Pure."""
    if ours:
        return workers
    if processes_pay(files * _A_FILE + size * _A_BYTE, workers.count):
        return replace(workers, processes=True)
    return replace(workers, count=1)


def _sizes(path: Path) -> list[int]:
    """Bytes of the files of a scan; of a folder of DICOM those of all that lies in it."""
    try:
        folder, _ = folder_and_label(path)
        if folder is None:
            return [file.stat().st_size for file in files_of(path)]
        with os.scandir(folder) as entries:
            return [entry.stat().st_size for entry in entries if entry.is_file()]
    except (DataError, OSError):
        return []
