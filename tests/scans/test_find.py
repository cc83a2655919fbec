"""Finding scans by name, at a cost that does not grow with what was found already."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.dicom import VOXELS, explicit, write_series, write_slice
from support.scans import lungs, write_scan

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.scans.find import find_scans
from genesis_toolkit.pipeline.scans.read import read_scan, scan_files


def test_luna16_is_recognised_and_held_out_subsets_stay_out(luna16: Path) -> None:
    write_scan(luna16 / "subset7" / "1.2.6.mhd", lungs(3))
    found = find_scans(luna16)
    assert found.layout == "luna16"
    assert [(scan.identifier, scan.subset, scan.path) for scan in found.sources] == [
        ("1.2.3", 0, "subset0/1.2.3.mhd"),
        ("1.2.4", 1, "subset1/1.2.4.mhd"),
        ("1.2.5", 5, "subset5/1.2.5.mhd"),
    ]
    assert found.passed_over == (7,)
    assert [scan.subset for scan in find_scans(luna16, subsets=(7,)).sources] == [7]


def test_files_are_found_in_any_folders(tmp_path: Path) -> None:
    for name in ("a.mhd", "p1/ct.nii.gz", "p1/two.nrrd", "p2/deep/er/ct.nii", "b.mha"):
        write_scan(tmp_path / name, lungs(0))
    (tmp_path / "notes.txt").write_text("no scan")
    found = find_scans(tmp_path)
    assert found.layout == "files"
    assert [scan.identifier for scan in found.sources] == ["a", "b", "p1/ct", "p1/two", "p2/deep/er/ct"]
    assert {scan.subset for scan in found.sources} == {-1}
    single = find_scans(tmp_path / "p1" / "ct.nii.gz")
    assert [scan.path for scan in single.sources] == ["ct.nii.gz"]


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(CallError, match="There is no folder"):
        find_scans(tmp_path / "absent")
    with pytest.raises(
        CallError, match=r"^The path of the scans is empty: give the folder that holds the scans"
    ):
        find_scans("")
    with pytest.raises(
        CallError, match=r"There is no scan in .*searched for \.mhd, \.mha, \.nii, \.nii\.gz, \.nrrd"
    ):
        find_scans(tmp_path)
    with pytest.raises(CallError, match="no folder subset0"):
        find_scans(tmp_path, "luna16")
    write_scan(tmp_path / "subset8" / "1.mhd", lungs(0))
    with pytest.raises(
        CallError, match=r"--subsets does not fit .* has no subset 0, 1, 2, 3, 4, 5, 6: choose from 8"
    ):
        find_scans(tmp_path)
    with pytest.raises(CallError, match="--subsets"):
        find_scans(tmp_path, "files", (0,))


def test_folders_that_are_not_looked_into_are_named(tmp_path: Path) -> None:
    write_scan(tmp_path / "p" / "a.mhd", lungs(0))
    (tmp_path / "p" / "again").symlink_to(tmp_path)
    (tmp_path / "b.mhd").mkdir()
    write_scan(tmp_path / "b.mhd" / "c.nii", lungs(0))
    named = "a folder named like a scan; its contents are listed separately"
    assert [(source.path, source.problem, source.skip) for source in find_scans(tmp_path).sources] == [
        ("b.mhd", "", named),
        ("b.mhd/c.nii", "", ""),
        ("p/a.mhd", "", ""),
        ("p/again", "", "a link to one of its parent folders, which would create a loop"),
    ]
    (tmp_path / "subset0" / "d.mhd").mkdir(parents=True)
    write_scan(tmp_path / "subset0" / "e.mhd", lungs(0))
    assert [(source.path, source.skip) for source in find_scans(tmp_path).sources] == [
        ("subset0/d.mhd", named),
        ("subset0/e.mhd", ""),
    ]


def test_links_to_folders_are_followed_once_and_never_in_a_circle(tmp_path: Path) -> None:
    root, away = tmp_path / "in", tmp_path / "away"
    write_scan(root / "p" / "a.mhd", lungs(0))
    write_scan(away / "q" / "b.mhd", lungs(1))
    (root / "a-link-to-p").symlink_to(root / "p")  # its scans are taken where they lie
    (root / "patients").symlink_to(away)
    (root / "q").symlink_to(away / "q")
    (away / "q" / "up").symlink_to(away)
    (away / "home").symlink_to(tmp_path)
    (away / "gone").symlink_to(tmp_path / "nowhere")
    found = {source.path: source.skip for source in find_scans(root).sources}
    circle = "a link to one of its parent folders, which would create a loop"
    assert found == {"p/a.mhd": "", "patients/q/b.mhd": "", "patients/home": circle}


def test_what_lies_beside_the_scans_of_a_study_is_counted(tmp_path: Path) -> None:
    write_series(tmp_path / "study" / "lung")
    beside = {
        "scout": {"t0008_0008": "ORIGINAL\\PRIMARY\\LOCALIZER"},
        "other": {"t0008_0008": "ORIGINAL\\PRIMARY\\LOCALIZER"},
        "shot": {"t0008_0060": "OT"},
    }
    for number, (name, told) in enumerate(beside.items()):
        place = (0.0, 0.0, 0.0)
        write_slice(
            tmp_path / "study" / f"{name}.dcm", VOXELS[:, :, 0], place, t0020_000e=f"1.3.{number}", **told
        )
    (tmp_path / "study" / "report.dcm").write_bytes(explicit(b"SR", rows=False))
    (tmp_path / "DICOMDIR").write_bytes(explicit(b"", rows=False, sop=b"1.2.840.10008.1.3.10\0", series=b""))
    found = find_scans(tmp_path)
    assert [source.path for source in found.sources] == ["study/lung"]
    wanted = {"the index of a disc": 1, "a localizer": 2, "modality OT": 1, "modality SR": 1}
    assert dict(found.beside) == wanted
    assert found.said[0].startswith("5 DICOM objects skipped next to the scans: ")
    shutil.rmtree(tmp_path / "study" / "lung")
    assert len(find_scans(tmp_path).sources) == 5  # where there is nothing else each is told by itself


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    good = write_scan(tmp_path / "subset0" / "a.mhd", lungs(0))
    odd = os.fsdecode(b"m\xfc.mhd")
    try:
        good.with_name(odd).write_bytes(good.read_bytes())
    except OSError:
        pytest.skip("this file system takes no such name")
    for layout, paths in (("luna16", ["subset0/a.mhd", r"subset0/m\xfc.mhd"]), ("files", None)):
        sources = find_scans(tmp_path, layout).sources  # type: ignore[arg-type]
        assert [source.path for source in sources] == (paths or ["subset0/a.mhd", r"subset0/m\xfc.mhd"])
        assert [source.problem for source in sources] == [
            "",
            "the file name is not valid UTF-8: rename the file",
        ]


def test_what_may_not_be_read_says_so(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    write_scan(tmp_path / "a.mhd", lungs(0))
    write_scan(tmp_path / "b.mhd", lungs(0)).chmod(0)
    (tmp_path / "c.dcm").write_bytes(b"x")
    (tmp_path / "c.dcm").chmod(0)
    (tmp_path / "d").mkdir(mode=0)
    try:
        problems = {source.path: source.problem for source in find_scans(tmp_path).sources}
        with pytest.raises(DataError, match=r"^the file cannot be opened: Permission denied$"):
            read_scan(tmp_path / "b.mhd")
        with pytest.raises(DataError, match=r"^the file cannot be opened: Permission denied$"):
            read_scan(tmp_path / "d" / "e.mhd")
        for closed in (tmp_path / "d", tmp_path / "d" / "e"):
            with pytest.raises(CallError, match="cannot be opened: Permission denied"):
                find_scans(closed)
    finally:
        (tmp_path / "d").chmod(0o700)
    denied = "the file cannot be opened: Permission denied"
    assert problems == {"a.mhd": "", "b.mhd": "", "c.dcm": denied, "d": denied}


def test_a_folder_one_level_off_is_refused(luna16: Path, tmp_path: Path) -> None:
    write_scan(luna16 / "subset8" / "1.2.8.mhd", lungs(8))
    for wrong in (tmp_path, luna16 / "subset8"):
        with pytest.raises(
            CallError, match=rf"looks like one of its subsets: give {luna16}, or use --layout files"
        ):
            find_scans(wrong)
    assert len(find_scans(tmp_path, "files").sources) == 4
    assert len(find_scans(luna16 / "subset8" / "1.2.8.mhd").sources) == 1, "one file is somebody's own choice"


def made_luna16(root: Path, count: int) -> None:
    for number in range(count):
        path = root / f"subset{number % 7}" / f"1.2.{number}.mhd"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"ObjectType = Image\nElementDataFile = 1.2.{number}.raw\n")
        path.with_suffix(".raw").write_bytes(b"0")


def made_files(root: Path, count: int) -> None:
    for number in range(count):
        path = root / f"site{number % 3}" / f"patient{number // 2}" / f"{number}.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"0")
        path.with_suffix(".txt").write_bytes(b"0")


def calls_of(work: Callable[[], object]) -> int:
    """How many functions of Python and of C, so system calls too, are called."""
    count = 0

    def called(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("made", [made_luna16, made_files])
def test_finding_costs_the_same_for_every_scan(
    tmp_path: Path, made: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for count in (60, 120):
        made(tmp_path / str(count), count)
        found = find_scans(tmp_path / str(count))
        assert len(found.sources) == count
        finding = calls_of(lambda count=count: find_scans(tmp_path / str(count)))  # type: ignore[misc]
        files = calls_of(lambda found=found: [scan_files(found.root / one.path) for one in found.sources])  # type: ignore[misc]
        counts.append((finding, files))
    (finding, files), (finding_twice, files_twice) = counts
    assert finding_twice < 2.2 * finding
    assert files_twice < 2.2 * files
    resolved = []
    monkeypatch.setattr(Path, "resolve", lambda path: resolved.append(path) or path)
    find_scans(tmp_path / "120")
    assert len(resolved) <= 1, "the root alone: it costs a system call for each of its folders"
