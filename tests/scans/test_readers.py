"""Who reads scans: threads where our own reader does, processes where SimpleITK has enough of them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.dicom import write_series
from support.scans import SMALL, lungs, write_scan

from genesis_toolkit.pipeline.cubes.parameters import ImageParameters
from genesis_toolkit.pipeline.engine import Workers
from genesis_toolkit.pipeline.scans import readers as spread
from genesis_toolkit.pipeline.scans.formats import read_by_us
from genesis_toolkit.pipeline.scans.readers import readers, seconds_for, suited

THREADS = pytest.mark.usefixtures("threads")
TWO, EIGHT, FOUND = Workers(2), Workers(8), Workers(4, client=object())
MB = 1 << 20


@pytest.mark.parametrize(
    ("workers", "ours", "files", "size", "kind"),
    [
        (TWO, True, 2, 100, Workers(1)),
        (TWO, True, 9, 9 * 50 * MB, Workers(1)),  # nine `.raw`: 0.6 s of work, and 1 s to load dask
        (TWO, True, 40, 40 * 50 * MB, TWO),
        (TWO, True, 2000, 100_000 * MB, TWO),
        (TWO, False, 9, 9 * 25 * MB, Workers(1)),  # nine scans of NIfTI: 2 s of work, and 3 s to start
        (TWO, False, 100, 100 * 25 * MB, replace(TWO, processes=True)),
        (EIGHT, False, 9, 9 * 50 * MB, replace(EIGHT, processes=True)),
        (TWO, False, 300, 150 * MB, Workers(1)),  # one series of DICOM
        (TWO, False, 3000, 1500 * MB, replace(TWO, processes=True)),  # ten
        (TWO, False, 100_000, 0, replace(TWO, processes=True)),
    ],
)
def test_who_reads_is_decided_by_formats_files_and_bytes(
    workers: Workers, ours: bool, files: int, size: int, kind: Workers
) -> None:
    each = seconds_for([("scan.raw", size // files)], ours)
    assert suited(workers, ours, files * each) == kind
    assert seconds_for([("s.mhd", 500), ("s.zraw", MB)], True) > 2 * seconds_for([("s.raw", MB)], True)


@THREADS
@pytest.mark.parametrize("suffix", [".mhd", ".mha", ".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_the_voxels_of_no_file_are_read_by_simpleitk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, compressed: bool, dtype: type
) -> None:
    """A crash in there would take this process with it; threads read MetaImages, whose headers are simple."""
    from genesis_toolkit.pipeline.scans.read import read_scan

    path = tmp_path / f"scan{suffix}"
    image = sitk.GetImageFromArray(lungs(0).T.astype(dtype))
    sitk.WriteImage(image, str(path), compressed)
    read: list[str] = []
    monkeypatch.setattr(sitk.ImageFileReader, "Execute", lambda reader: read.append(reader.GetFileName()))
    monkeypatch.setattr(sitk, "ReadImage", read.append)
    np.testing.assert_array_equal(read_scan(path).voxels, lungs(0))
    assert not read
    assert readers(TWO, [path]) == (TWO if read_by_us(path) else Workers(1))
    assert read_by_us(path) == suffix.startswith(".mh")


@THREADS
def test_a_file_that_nobody_can_read_is_no_reason_for_processes(tmp_path: Path) -> None:
    write_scan(tmp_path / "short.mhd", lungs(0))
    (tmp_path / "short.raw").write_bytes(b"no")
    write_scan(tmp_path / "gone.mhd", lungs(0))
    (tmp_path / "gone.raw").unlink()
    (tmp_path / "empty.mhd").write_bytes(b"")
    paths = [tmp_path / name for name in ("short.mhd", "gone.mhd", "empty.mhd", "nowhere.mhd")]
    assert readers(TWO, paths[1:2] + paths[3:]) == TWO


@THREADS
def test_one_scan_of_another_format_among_many_is_not_read_in_a_thread(tmp_path: Path) -> None:
    ours = write_scan(tmp_path / "a.mhd", lungs(0))
    other = write_scan(tmp_path / "b.nrrd", lungs(1))
    assert readers(TWO, [ours] * 5) == TWO
    assert readers(TWO, [ours, other, ours]) == Workers(1)


def test_no_more_is_looked_at_than_settles_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "_A_FILE", 10.0)
    slices = tmp_path / "series"
    write_series(slices, np.zeros((4, 4, 5), np.int16))
    looked, files = list[Path](), spread._files
    monkeypatch.setattr(spread, "_files", lambda path: looked.append(path) or files(path))
    paths = [slices, *[tmp_path / "never"] * 5]
    assert readers(TWO, paths) == Workers(2, processes=True)
    assert looked == [slices]


@THREADS
def test_what_simpleitk_does_besides_reading_counts(tmp_path: Path) -> None:
    ours = write_scan(tmp_path / "a.mhd", lungs(0))
    assert readers(TWO, [ours], SMALL) == TWO
    assert readers(TWO, [ours], replace(SMALL, spacing=(1.0, 1.0, 1.0))) == Workers(1)
    assert readers(TWO, [ours], replace(SMALL, orient="LPS")) == Workers(1)
    assert readers(TWO, [tmp_path / "image.png"], ImageParameters()) == Workers(1)


@pytest.mark.parametrize("workers", [Workers(1), FOUND])
def test_one_worker_and_a_cluster_stay_what_they_are(workers: Workers, tmp_path: Path) -> None:
    assert readers(workers, [tmp_path / "a.nii"]) == workers
