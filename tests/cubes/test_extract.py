"""Scans to a cube store: the right voxels, whoever does the work, however often it is stopped."""

import dataclasses
import random
from pathlib import Path

import numpy as np
import pytest
import zarr
from support.scans import SMALL, lungs, write_scan

from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import read_manifest, unfinished
from genesis_toolkit.pipeline.scans.geometry import reorient, resample
from genesis_toolkit.pipeline.scans.read import read_scan
from genesis_toolkit.pipeline.store.open import open_cubes


def brute_score(voxels: np.ndarray, corner: np.ndarray, size: tuple[int, ...]) -> float:
    """The tissue rule as METHOD.md states it, by plain slices."""
    x, y, z = corner
    first, second, third = (
        voxels[x : x + size[0], y : y + size[1], z + k : z + k + size[2]] >= -150 for k in range(3)
    )
    return float(np.where(first, 1.0, np.where(second, 0.5, np.where(third, 0.0, 0.0))).mean())


def test_plain_zarr_reads_cubes_that_lie_in_the_scans(luna16: Path, cube_store: Path) -> None:
    group = zarr.open_group(cube_store, mode="r")
    cubes = np.asarray(group["cubes"][...])
    assert cubes.shape == (12, 16, 16, 16)
    assert cubes.dtype == np.int16
    assert (cubes.min() >= -1000) & (cubes.max() <= 1000)
    paths, scan, corner = group["scans/path"][...], group["scan"][...], group["corner"][...]
    for cube, row, place, tissue in zip(cubes, scan, corner, group["tissue"][...], strict=True):
        voxels = read_scan(luna16 / str(paths[row])).voxels
        box = tuple(slice(start, start + 16) for start in place)
        np.testing.assert_array_equal(cube, np.clip(voxels[box], -1000, 1000))
        assert tissue == pytest.approx(brute_score(voxels, place, (16, 16, 16)))
        assert tissue <= 0.4
        assert (place >= 2).all()


def test_what_the_store_says_of_scans_and_itself(cube_store: Path) -> None:
    store = open_cubes(cube_store)
    assert store.scans.status.tolist() == ["used", "skipped", "used"]
    assert store.scans.reason.tolist() == ["", "20 slices, 24 needed", ""]
    assert store.scans.subset.tolist() == [0, 1, 5]
    assert store.scans.cubes.tolist() == [6, 0, 6]
    assert store.scans.spacing[0] == pytest.approx([0.7, 0.7, 1.5])
    assert store.table.number.tolist() == [*range(6)] * 2
    assert store.attributes["parameters"]["subsets"] == [0, 1, 2, 3, 4, 5, 6]
    array = zarr.open_group(cube_store, mode="r")["cubes"]
    assert isinstance(array, zarr.Array)
    assert array.metadata.dimension_names == ("cube", "x", "y", "z")  # type: ignore[union-attr]
    assert array.fill_value == -32768


def test_xarray_opens_it_without_a_warning(cube_store: Path) -> None:
    import xarray

    with xarray.open_zarr(cube_store) as dataset:
        assert dataset["cubes"].dims == ("cube", "x", "y", "z")
        assert dataset["corner"].dims == ("cube", "axis")
    with xarray.open_zarr(cube_store, group="scans") as scans:
        assert scans["identifier"].values.tolist() == ["1.2.3", "1.2.4", "1.2.5"]


@pytest.mark.full
@pytest.mark.parametrize(("processes", "workers"), [(False, 2), (True, 2), (True, 3)])
def test_workers_and_order_do_not_show(
    luna16: Path,
    cube_store: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    processes: bool,
    workers: int,
) -> None:
    if processes:
        request.getfixturevalue("processes")
    extract_cubes(luna16, tmp_path / "two.zarr", SMALL, workers=workers)
    assert read_manifest(tmp_path / "two.zarr") == read_manifest(cube_store)


def test_a_scan_gives_the_same_cubes_in_other_company(luna16: Path, cube_store: Path, tmp_path: Path) -> None:
    only_subset_5 = dataclasses.replace(SMALL, subsets=(5,))
    extract_cubes(luna16, tmp_path / "five.zarr", only_subset_5, workers=1)
    alone = zarr.open_group(tmp_path / "five.zarr", mode="r")["cubes"][...]
    np.testing.assert_array_equal(alone, zarr.open_group(cube_store, mode="r")["cubes"][6:])


def test_finished_work_is_left_alone_and_other_parameters_refused(luna16: Path, cube_store: Path) -> None:
    before = read_manifest(cube_store), cube_store.stat().st_mtime_ns
    assert extract_cubes(luna16, cube_store, SMALL).done_before
    other = dataclasses.replace(SMALL, seed=1)
    with pytest.raises(CallError, match=r"made with seed 0 \(requested: 1\).*--overwrite"):
        extract_cubes(luna16, cube_store, other)
    assert (read_manifest(cube_store), cube_store.stat().st_mtime_ns) == before
    assert not extract_cubes(luna16, cube_store, other, workers=1, overwrite=True).done_before
    assert read_manifest(cube_store) != before[0]


def test_a_failed_scan_stops_no_other(luna16: Path, tmp_path: Path) -> None:
    raw = luna16 / "subset0" / "1.2.3.raw"
    raw.write_bytes(raw.read_bytes()[:99])
    store = extract_cubes(luna16, tmp_path / "c.zarr", SMALL, workers=1).store
    assert store.scans.status.tolist() == ["failed", "skipped", "used"]
    assert "cut short: 99 bytes" in str(store.scans.reason[0])
    assert len(store) == 6


def test_no_cube_at_all_leaves_no_store(luna16: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"(?s)No scan gave a cube.*1\.2\.4\.mhd: skipped, .*265 x 265 needed"
    ):
        extract_cubes(luna16, tmp_path / "c.zarr", ExtractParameters(), workers=1)
    assert [path.name for path in tmp_path.iterdir()] == ["luna16"]


def test_what_is_not_ours_is_never_replaced(luna16: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(CallError, match="is not a genesis-cubes store, so it is left untouched"):
            extract_cubes(luna16, tmp_path / "thesis", SMALL, overwrite=overwrite)
    assert (tmp_path / "thesis" / "chapter1").read_text() == "years of work"


def test_the_real_scan_gives_what_the_rule_allows(real_data: Path, tmp_path: Path) -> None:
    store = extract_cubes(real_data / "luna16", tmp_path / "c.zarr", ExtractParameters()).store
    assert len(store) == 32
    assert store.scans.reason.tolist() == ["", "64 slices, 96 needed", "16 slices, 96 needed"]
    voxels = read_scan(real_data / "luna16" / str(store.scans.path[0])).voxels
    out = np.empty((64, 64, 32), np.int16)
    for cube, corner in enumerate(store.table.corner):
        store.cubes.read(cube, out)
        box = tuple(slice(start, start + edge) for start, edge in zip(corner, (64, 64, 32), strict=True))
        np.testing.assert_array_equal(out, np.clip(voxels[box], -1000, 1000))
        assert brute_score(voxels, corner, (64, 64, 32)) <= 0.15


def test_work_begun_with_other_files_of_the_same_names_is_not_taken_over(
    luna16: Path, tmp_path: Path
) -> None:
    broken = luna16 / "subset6" / "9.mhd"
    broken.parent.mkdir()
    broken.write_text("nothing")
    target = tmp_path / "mixed.zarr"
    with pytest.raises(DataError, match="--strict"):
        extract_cubes(luna16, target, SMALL, workers=1, strict=True)
    assert len(list((unfinished(target) / "done").iterdir())) == 4
    broken.unlink()
    write_scan(luna16 / "subset0" / "1.2.3.mhd", lungs(78, (48, 38, 36)))
    extract_cubes(luna16, target, SMALL, workers=1)
    extract_cubes(luna16, tmp_path / "plain.zarr", SMALL, workers=1)
    assert read_manifest(target) == read_manifest(tmp_path / "plain.zarr")


def test_strict_stops_at_the_first_scan_that_fails_and_goes_on_without(luna16: Path, tmp_path: Path) -> None:
    raw = luna16 / "subset0" / "1.2.3.raw"
    raw.write_bytes(raw.read_bytes()[:99])
    target = tmp_path / "c.zarr"
    for _ in range(2):  # what an earlier run found does not pass either
        with pytest.raises(DataError, match=r"subset0/1\.2\.3\.mhd: .*cut short.*--strict the command stops"):
            extract_cubes(luna16, target, SMALL, workers=1, strict=True)
        assert not target.exists()
    assert extract_cubes(luna16, target, SMALL, workers=1).store.scans.status.tolist()[0] == "failed"


def by_the_authors(folder: Path, subset: int, parameters: ExtractParameters) -> list[tuple[int, ...]]:
    """METHOD.md section 2 with Python's own generator, a subset from its start: the corners, scan by scan."""
    random.seed(1)
    found = []
    size, border = parameters.size, parameters.border
    for path in sorted((folder / f"subset{subset}").glob("*.mhd")):
        voxels = read_scan(path).voxels
        if any(edge < least for edge, least in zip(voxels.shape, parameters.rule.least_shape, strict=True)):
            continue
        cubes = attempts = 0
        while cubes < parameters.cubes_per_scan and attempts < 50 * parameters.cubes_per_scan:
            attempts += 1
            beyond = (1, 1, 4)
            corner = tuple(
                random.randint(border[a], voxels.shape[a] - size[a] - beyond[a] - border[a]) for a in range(3)
            )
            if brute_score(voxels, np.array(corner), size) <= parameters.max_tissue:
                found.append(corner)
                cubes += 1
    return found


def test_the_official_sampler_cuts_the_authors_cubes(luna16: Path, tmp_path: Path) -> None:
    for number in range(4):
        write_scan(luna16 / "subset0" / f"1.9.{number}.mhd", lungs(20 + number))
    (luna16 / "subset0" / "1.9.1.raw").write_bytes(b"cut short")
    official = dataclasses.replace(SMALL, sampler="official", seed=None)
    assert official.seed == 1
    store = extract_cubes(luna16, tmp_path / "o.zarr", official, workers=1).store
    (luna16 / "subset0" / "1.9.1.mhd").unlink()
    expected = by_the_authors(luna16, 0, official) + by_the_authors(luna16, 5, official)
    assert store.table.corner.tolist() == [list(corner) for corner in expected]


def test_official_scans_that_are_drawn_again_are_counted_once(luna16: Path, tmp_path: Path) -> None:
    """The first of a subset is flat between two runs, takes no draws, and the others are cut again.

    Counted twice, three flat scans and the two of before would be more than there are scans at all.
    """
    official = dataclasses.replace(SMALL, sampler="official", seed=None, subsets=(0,))
    for number in (4, 5):
        write_scan(luna16 / "subset0" / f"1.2.{number}.mhd", lungs(number, (40, 38, 20)))
    write_scan(luna16 / "subset0" / "1.2.6.mhd", lungs(6))
    broken = luna16 / "subset0" / "9.mhd"
    broken.write_text("nothing")
    target = tmp_path / "o.zarr"
    with pytest.raises(DataError, match="--strict"):
        extract_cubes(luna16, target, official, workers=1, strict=True)
    broken.unlink()
    write_scan(luna16 / "subset0" / "1.2.3.mhd", lungs(3, (40, 38, 20)))
    result = extract_cubes(luna16, target, official, workers=1)
    assert [outcome.path for outcome in result.unused] == [f"subset0/1.2.{n}.mhd" for n in (3, 4, 5)]
    assert result.store.scans.status.tolist() == ["skipped", "skipped", "skipped", "used"]
    fresh = extract_cubes(luna16, tmp_path / "fresh.zarr", official, workers=1).store
    assert fresh.manifest == result.store.manifest


def test_scans_are_turned_and_resampled_first(luna16: Path, tmp_path: Path) -> None:
    turned = dataclasses.replace(SMALL, orient="ras", spacing=(1.0, 1.0, 1.5), border=(0, 0, 0))
    store = extract_cubes(luna16, tmp_path / "t.zarr", turned, workers=1).store
    assert store.attributes["parameters"]["orient"] == "RAS"
    assert store.scans.shape[0].tolist() == [28, 26, 36]
    assert store.scans.spacing[0].tolist() == [1.0, 1.0, 1.5]
    scan = resample(reorient(read_scan(luna16 / "subset0" / "1.2.3.mhd"), "RAS"), (1.0, 1.0, 1.5))
    cube = np.empty((16, 16, 16), np.int16)
    store.cubes.read(0, cube)
    x, y, z = store.table.corner[0]
    box = scan.voxels[x : x + 16, y : y + 16, z : z + 16]
    np.testing.assert_array_equal(cube, np.clip(box, -1000, 1000))
