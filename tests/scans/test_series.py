"""DICOM folders: series told apart, volumes put together, and what is none passed over by name."""

import hashlib
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from support.dicom import VOXELS, explicit, write_series, write_slice
from support.scans import lungs, write_scan

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.scans.find import find_scans
from genesis_toolkit.pipeline.scans.geometry import Scan
from genesis_toolkit.pipeline.scans.read import read_geometry, read_scan, scan_files, scan_sha256


def of_simple_itk(folder: Path) -> Scan:
    """The other truth: the only series of a folder, read and put in order by SimpleITK and GDCM."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    found = read_geometry(folder)
    np.testing.assert_allclose(found.spacing, image.GetSpacing(), rtol=1e-5)
    np.testing.assert_allclose(found.origin, image.GetOrigin(), rtol=1e-6)
    np.testing.assert_allclose(found.direction, image.GetDirection(), atol=1e-6)
    return Scan(sitk.GetArrayFromImage(image).T, found, "")


def test_a_series_is_a_scan(tmp_path: Path) -> None:
    files = write_series(tmp_path / "p1")
    (source,) = find_scans(tmp_path).sources
    assert (source.identifier, source.path, source.problem, source.skip) == ("1.2.840.1", "p1", "", "")
    scan = read_scan(tmp_path / "p1")
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    assert scan.voxels.dtype == np.int16
    assert scan.voxels.flags.f_contiguous
    assert scan.geometry.shape == (9, 8, 6)
    assert scan.geometry.spacing == pytest.approx((0.5, 0.75, 2.0))
    assert scan.geometry.origin == pytest.approx((-10, -20, 0))
    assert scan.sha256 == hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert scan_sha256(tmp_path / "p1") == scan.sha256
    assert read_geometry(tmp_path / "p1") == scan.geometry
    np.testing.assert_array_equal(of_simple_itk(tmp_path / "p1").voxels, scan.voxels)


def test_the_intercept_is_applied_to_unsigned_voxels(tmp_path: Path) -> None:
    signed = b"\x28\0\x03\x01\x02\0\0\0\x01\0"  # the element PixelRepresentation
    for path in write_series(tmp_path):
        written = path.read_bytes()
        assert signed in written
        path.write_bytes(written.replace(signed, signed[:-2] + b"\0\0"))
        stored = np.frombuffer(written[-9 * 8 * 2 :], np.uint16)
        assert stored.max() < 2048  # so HU + 1024, and the same bits for both signs
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, VOXELS)


def test_every_slice_has_its_own_intercept(tmp_path: Path) -> None:
    voxels = VOXELS.copy()
    voxels[:, :, 0] = np.abs(voxels[:, :, 0])
    write_series(tmp_path, voxels)
    plane = voxels[:, :, 0].astype(np.uint16)  # the first one unsigned, with no intercept
    write_slice(tmp_path / "006.dcm", plane, (-10, -20, 0), t0028_1052="0")
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, voxels)


def rescale(path: Path, slope: bytes) -> None:
    """Give a slice another slope, of two letters, its stored voxels as they are: HU + 1024."""
    written = path.read_bytes()
    element = b"\x28\0\x53\x10\x02\0\0\0"  # RescaleSlope
    assert written.count(element + b"1 ") == 1
    path.write_bytes(written.replace(element + b"1 ", element + slope))


@pytest.mark.parametrize(("slope", "dtype"), [(b".5", np.float32), (b".3", np.float64), (b"2 ", np.int16)])
@pytest.mark.parametrize("scaled", [range(6), [3], [0, 5]], ids=["all", "one", "two"])
def test_slopes_that_are_not_whole_give_real_numbers(
    tmp_path: Path, slope: bytes, dtype: type, scaled: list[int]
) -> None:
    files = write_series(tmp_path)
    expected = VOXELS.astype(np.float64)
    for k in scaled:
        rescale(files[k], slope)
        expected[:, :, k] = (expected[:, :, k] + 1024) * float(slope) - 1024
    scan = read_scan(tmp_path)
    assert scan.voxels.dtype == dtype
    assert scan.voxels.flags.f_contiguous
    assert (np.rint(expected) != expected).any() == (dtype != np.int16)
    np.testing.assert_allclose(scan.voxels, expected, rtol=0, atol=1e-12)
    if len(scaled) == 6:
        np.testing.assert_array_equal(of_simple_itk(tmp_path).voxels, scan.voxels)


def test_a_series_of_real_numbers_is_in_memory_once(tmp_path: Path) -> None:
    voxels = lungs(3, (128, 128, 24)).clip(-1024, 1000)
    for path in write_series(tmp_path, voxels):
        rescale(path, b".3")
    read_scan(tmp_path)
    tracemalloc.start()
    try:
        scan = read_scan(tmp_path)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert scan.voxels.dtype == np.float64
    assert most < 1.5 * scan.voxels.nbytes, "and the int16 that it began with, of which no slice was filled"


@pytest.mark.parametrize(
    "cosines",
    [(0, 1, 0, 0, 0, -1), (-1, 0, 0, 0, -1, 0), (0.8, 0.6, 0, -0.6, 0.8, 0)],
    ids=["sagittal", "flipped", "turned"],
)
def test_any_upright_orientation(tmp_path: Path, cosines: tuple[float, ...]) -> None:
    normal = np.cross(cosines[:3], cosines[3:])
    for k in range(6):
        place = tuple((np.array([1.0, 2.0, 3.0]) + 2.5 * k * normal).tolist())
        orientation = "\\".join(map(str, cosines))
        write_slice(tmp_path / f"{k}.dcm", VOXELS[:, :, k], place, t0020_0037=orientation)
    np.testing.assert_array_equal(read_scan(tmp_path).voxels, VOXELS)
    np.testing.assert_array_equal(of_simple_itk(tmp_path).voxels, VOXELS)


def test_a_series_that_changed_is_read_anew(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    assert scan_files(tmp_path) == sorted(files)
    before = read_scan(tmp_path)
    write_slice(files[0], VOXELS[:, :, 1], (-10, -20, 0))
    np.testing.assert_array_equal(read_scan(tmp_path).voxels[:, :, 0], VOXELS[:, :, 1])
    assert read_scan(tmp_path).sha256 != before.sha256
    files[-1].unlink()
    assert read_geometry(tmp_path).shape == (9, 8, 5)


def test_several_series_in_one_folder_are_several_scans(tmp_path: Path) -> None:
    write_series(tmp_path / "a", t0020_000e="1.2.840.11111111")
    write_series(tmp_path / "b", VOXELS + 1, t0020_000e="1.2.840.22222222")
    both = tmp_path / "both"
    both.mkdir()
    for name in "ab":  # and without a suffix: recognised by content
        for path in (tmp_path / name).iterdir():
            shutil.move(path, both / f"{name}{path.stem}")
    write_scan(both / "c.nii", lungs(0))
    (both / "notes.txt").write_text("no scan")
    found = find_scans(both)
    assert [(source.identifier, source.path) for source in found.sources] == [
        ("1.2.840.11111111", ".#11111111"),
        ("1.2.840.22222222", ".#22222222"),
        ("c", "c.nii"),
    ]
    np.testing.assert_array_equal(read_scan(found.root / ".#22222222").voxels, VOXELS + 1)
    with pytest.raises(
        DataError, match=r"no DICOM series of this name; the folder holds both#11111111, both#22222222$"
    ):
        read_scan(both)
    assert find_scans(tmp_path).sources[1].path == "both#11111111"


def test_many_series_in_one_folder_cost_no_more_for_each(tmp_path: Path) -> None:
    counts = []
    for count in (8, 16):
        for number in range(count):
            for path in write_series(tmp_path / "one", VOXELS[:, :, :2], t0020_000e=f"1.2.{number:08}"):
                (tmp_path / str(count)).mkdir(exist_ok=True)
                path.rename(tmp_path / str(count) / f"{number}_{path.name}")
        found = find_scans(tmp_path / str(count))
        assert len(found.sources) == count
        calls = 0

        def called(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(called)
        try:
            for source in found.sources:
                scan_files(found.root / source.path)
        finally:
            sys.setprofile(None)
        counts.append(calls)
    assert counts[1] < 2.2 * counts[0]


def test_series_whose_identifiers_end_alike(tmp_path: Path) -> None:
    write_series(tmp_path / "p", t0020_000e="1.2.1.00000001")
    for path in list((tmp_path / "p").iterdir()):
        path.rename(path.with_name("x" + path.name))
    write_series(tmp_path / "p", t0020_000e="1.2.2.00000001")
    assert [source.path for source in find_scans(tmp_path).sources] == [
        "p#1.2.1.00000001",
        "p#1.2.2.00000001",
    ]
    assert read_scan(tmp_path / "p#1.2.2.00000001").geometry.shape == (9, 8, 6)


def test_a_series_without_its_identifier_is_called_by_its_folder(tmp_path: Path) -> None:
    write_series(tmp_path / "case7")
    for path in (tmp_path / "case7").iterdir():
        path.write_bytes(path.read_bytes().replace(b"1.2.840.1\0", b"\0" * 10))
    assert [source.identifier for source in find_scans(tmp_path).sources] == ["case7"]
    (alone,) = find_scans(tmp_path / "case7").sources
    assert (alone.identifier, alone.path) == ("case7", ".")


def test_what_is_no_volume_is_passed_over_by_name(tmp_path: Path) -> None:
    write_series(tmp_path / "ct")
    write_series(tmp_path / "scout", t0008_0008="ORIGINAL\\PRIMARY\\LOCALIZER", t0020_000e="1.2.2")
    write_series(tmp_path / "mr", t0008_0060="MR", t0020_000e="1.2.3")
    write_series(tmp_path / "one", VOXELS[:, :, :1], t0020_000e="1.2.4")
    colour = sitk.Image((9, 8), sitk.sitkVectorUInt8, 3)
    colour.SetMetaData("0008|0060", "CT")
    sitk.WriteImage(colour, str(tmp_path / "colour.dcm"))
    (tmp_path / "rt").write_bytes(explicit(modality=b"RTSTRUCT", rows=False))
    (tmp_path / "DICOMDIR").write_bytes(
        explicit(modality=b"", rows=False, sop=b"1.2.840.10008.1.3.10\0", series=b"")
    )
    found = find_scans(tmp_path)
    sources = {source.path: source for source in found.sources}
    assert {path: source.skip for path, source in sources.items()} == {
        "ct": "",
        "mr": "the DICOM modality is MR; only CT is read",
        "one": "a single slice, not a volume",
    }
    kinds = ("a localizer", "the index of a disc", "a colour capture", "modality RTSTRUCT")
    assert dict(found.beside) == dict.fromkeys(kinds, 1)
    assert not any(source.problem for source in sources.values())
    with pytest.raises(DataError, match=r"^the file is not a CT scan: a localizer, not a volume$"):
        read_scan(tmp_path / "scout")
    np.testing.assert_array_equal(read_scan(tmp_path / "ct").voxels, VOXELS)


def odd_series(folder: Path, kind: str) -> None:
    """A series that is no whole upright volume."""
    if kind == "twice":
        write_series(folder, heights=(0, 2, 2, 4, 6, 6))
    elif kind == "missing":
        write_series(folder, heights=(0, 2, 4, 8, 10, 12))
    elif kind == "tilted":
        write_series(folder, lean=2 * np.tan(np.radians(15)))
    elif kind == "aside":
        write_series(folder)
        write_slice(folder / "004.dcm", VOXELS[:, :, 2], (-10, -18, 4.0))
    elif kind == "unreadable":
        path = write_series(folder)[2]
        path.write_bytes(path.read_bytes()[:-40])
    else:
        write_series(folder)
        plane, tags = VOXELS[:, :, 0], {}
        if kind == "size":
            plane = VOXELS[:5, :, 0]
        elif kind == "orientation":
            tags["t0020_0037"] = "0\\1\\0\\0\\0\\-1"
        elif kind == "localizer":
            tags["t0008_0008"] = "ORIGINAL\\PRIMARY\\LOCALIZER"
        write_slice(folder / "extra.dcm", plane, (-10, -20, 12.0), **tags)
        if kind == "spacing":
            path = folder / "extra.dcm"
            path.write_bytes(path.read_bytes().replace(b".75\\.5", b".95\\.5"))
        if kind == "nowhere":
            path = folder / "extra.dcm"
            position = b"-10\\-20\\12"
            assert position in path.read_bytes()
            path.write_bytes(path.read_bytes().replace(position, b" " * len(position)))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (
            "twice",
            "the file is damaged: 2 of the slices have the position of another slice but differ from it, for "
            "example 004.dcm in odd .*",
        ),
        (
            "missing",
            r"the file is not supported: the slices at 4\.00 and 8\.00 mm are 4\.00 mm apart, but usually "
            r"2\.00 mm: .*",
        ),
        (
            "tilted",
            "the file is not supported: the axes are tilted by 15 degrees, which moves voxels by .*",
        ),
        (
            "aside",
            "the file is not supported: the slices are shifted sideways by up to 2.00 mm; resample the scan",
        ),
        ("unreadable", r"slice 004\.dcm is cut short: 104 bytes, but 144 are needed"),
        (
            "size",
            r"the file is not supported: the slices have 2 sizes \(5 x 8, 9 x 8\); put them into separate .*",
        ),
        (
            "orientation",
            r"the file is not supported: the slices have several orientations: extra\.dcm is rotated .*",
        ),
        (
            "spacing",
            r"the file is not supported: the slices have several spacings: extra\.dcm and 001\.dcm .*",
        ),
        ("nowhere", r"the file is damaged: slice extra\.dcm has no position; copy .*"),
        (
            "localizer",
            r"the file is not supported: the series mixes slices of a volume with 1 of another kind \(a.*",
        ),
    ],
)
def test_a_series_that_is_no_volume_says_why(tmp_path: Path, kind: str, reason: str) -> None:
    write_series(tmp_path / "good", t0020_000e="1.2.9")
    (tmp_path / "odd").mkdir()
    odd_series(tmp_path / "odd", kind)
    good, odd = find_scans(tmp_path).sources
    assert (odd.path, odd.problem, odd.skip) == ("odd", "", "")
    with pytest.raises(DataError, match=f"^{reason}$"):
        read_scan(tmp_path / odd.path)
    np.testing.assert_array_equal(read_scan(tmp_path / good.path).voxels, VOXELS)


def test_positions_written_to_hundredths_are_no_gaps(tmp_path: Path) -> None:
    write_series(tmp_path, heights=(0, 0.62, 1.25, 1.88, 2.5, 3.12))
    assert read_geometry(tmp_path).spacing[2] == pytest.approx(0.624)


@pytest.mark.parametrize("lean", [0.0, 0.2, 0.45, 0.55, 3.0])
def test_half_a_voxel_of_lean_is_upright_and_more_is_tilted(tmp_path: Path, lean: float) -> None:
    write_series(tmp_path, lean=lean * 0.75 / 5)  # over the whole volume, in voxels along y
    if lean < 0.5:
        np.testing.assert_array_equal(read_scan(tmp_path).voxels, VOXELS)
        return
    angle = np.degrees(np.arctan(lean * 0.75 / 5 / 2.0))
    with pytest.raises(
        DataError, match=f"^the file is not supported: the axes are tilted by {angle:.2g} degrees"
    ):
        read_scan(tmp_path)


def test_files_that_should_be_dicom_are_named(tmp_path: Path) -> None:
    write_series(tmp_path / "ok")
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "page.dcm").write_text("<html>not found</html>")
    whole = (tmp_path / "ok" / "001.dcm").read_bytes()
    (tmp_path / "short").write_bytes(whole[:300])
    (tmp_path / "notes").write_bytes(b"")
    assert {source.path: source.problem for source in find_scans(tmp_path).sources} == {
        "empty.dcm": "the file is empty",
        "ok": "",
        "page.dcm": "the file is not a CT scan: the file has a DICOM file name but another format",
        "short": "the DICOM header cannot be read: the file is damaged",
    }


def test_a_single_file_is_no_series(tmp_path: Path) -> None:
    files = write_series(tmp_path)
    assert [source.skip for source in find_scans(files[0]).sources] == ["a single slice, not a volume"]
    (tmp_path / "none").mkdir()
    with pytest.raises(CallError, match="and DICOM"):
        find_scans(tmp_path / "none")


@pytest.mark.parametrize("name", ["totalseg_example_20sl", "cip_ct64"])
def test_real_series_are_read_as_simple_itk_reads_them(real_data: Path, name: str) -> None:
    folder = real_data / "dicom" / name
    if not folder.is_dir():
        pytest.skip(f"no {name} among the real scans")
    (source,) = find_scans(folder).sources
    assert (source.problem, source.skip, source.path) == ("", "", ".")
    assert source.identifier
    scan = read_scan(folder)
    np.testing.assert_array_equal(of_simple_itk(folder).voxels, scan.voxels)
    assert scan.voxels.min() < -900
    assert 300 < scan.voxels.max() < 3100
