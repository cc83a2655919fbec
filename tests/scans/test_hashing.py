"""The sha256 is of the bytes that were read, whatever is done meanwhile; a room holds one scan at a time."""

import hashlib
import threading
from pathlib import Path

import numpy as np
import pytest
from support.scans import SMALL, lungs, write_scan

from genesis_toolkit.pipeline.cubes import cut
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.scans import hashing
from genesis_toolkit.pipeline.scans.hashing import Hashing, Room, kept_room, leave_room
from genesis_toolkit.pipeline.scans.read import open_scan, read_scan, scan_files

RNG = np.random.default_rng(0)
MANY = RNG.integers(0, 256, 3 << 20, dtype=np.uint8).tobytes()


def sha256(path: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in scan_files(path))).hexdigest()


@pytest.mark.parametrize("count", [0, 1, 999, 1 << 20, (1 << 20) + 1, 3 << 20])
@pytest.mark.parametrize("step", [700, 1 << 18])
def test_it_is_that_of_all_blocks_in_order(count: int, step: int) -> None:
    digest, threads = Hashing(), threading.active_count()
    for start in range(0, count, step):
        digest.update(memoryview(MANY)[start : min(start + step, count)])
    assert threading.active_count() == threads + (count > 1 << 20)
    digest.close()
    assert digest.hexdigest() == hashlib.sha256(MANY[:count]).hexdigest()
    assert threading.active_count() == threads  # none is left waiting


@pytest.mark.parametrize("suffix", [".mhd", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_voxels_that_are_clipped_where_they_lie_are_hashed_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, dtype: type
) -> None:
    monkeypatch.setattr(hashing, "_ALONE", 0)
    voxels = lungs(1).astype(dtype)
    voxels[3:5] = 32767 if dtype is np.int16 else 1e5
    path, room = write_scan(tmp_path / f"s{suffix}", voxels), Room()
    for _ in range(3):
        scan = open_scan(path).read(room)
        assert scan.sha256 == sha256(path)
        np.testing.assert_array_equal(scan.voxels, voxels.clip(-32768, 32767))


def test_scans_read_into_one_room_take_its_memory_in_turn(tmp_path: Path) -> None:
    paths = [write_scan(tmp_path / f"{number}.mhd", lungs(number)) for number in range(2)]
    small, room = write_scan(tmp_path / "small.mhd", lungs(2, (9, 8, 7))), Room()
    first = open_scan(paths[0]).read(room)
    assert first.sha256 == sha256(paths[0])
    second = open_scan(paths[1]).read(room)
    assert np.shares_memory(first.voxels, second.voxels)
    np.testing.assert_array_equal(second.voxels, lungs(1))
    np.testing.assert_array_equal(open_scan(small).read(room).voxels, lungs(2, (9, 8, 7)))


def test_a_scan_that_is_read_for_its_own_sake_may_be_changed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "_ALONE", 0)
    path = write_scan(tmp_path / "s.mhd", lungs(0))
    one, other = read_scan(path), read_scan(path)
    assert isinstance(one.digest, str)
    assert not np.shares_memory(one.voxels, other.voxels)
    one.voxels[...] = 0
    assert one.sha256 == other.sha256 == sha256(path)


def test_threads_have_rooms_of_their_own_and_the_extraction_gives_its_own_back(
    luna16: Path, tmp_path: Path
) -> None:
    rooms = [kept_room(), kept_room()]
    thread = threading.Thread(target=lambda: rooms.append(kept_room()))
    thread.start()
    thread.join()
    assert rooms[0] is rooms[1] is not rooms[2]
    extract_cubes(luna16, tmp_path / "c.zarr", SMALL, workers=1)
    assert kept_room() is not rooms[0]
    leave_room()


def test_the_header_of_a_scan_is_read_once_to_cut_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And twice besides: to see what its files are before, and to hash it. SimpleITK reads it as well."""
    opened, known = list[str](), Path.open

    def noted(path: Path, *how, **more):  # type: ignore[no-untyped-def]
        opened.append(path.name)
        return known(path, *how, **more)

    monkeypatch.setattr(Path, "open", noted)
    looked, look = list[object](), cut.open_scan
    monkeypatch.setattr(cut, "open_scan", lambda path, mr=False: looked.append(path) or look(path, mr))
    path = write_scan(tmp_path / "s.mhd", lungs(0))
    extract_cubes(path, tmp_path / "c.zarr", SMALL, workers=1)
    assert len(looked) == 1
    assert opened.count("s.raw") == 1
    assert opened.count("s.mhd") == 3
