"""Who trains and who validates: no scan or patient on both sides, and the test set on neither."""

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from support.scan_rows import scan_rows

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.store.schema import CubeTable, ImageTable, ScanTable
from genesis_toolkit.training.feeding.split import split_cubes


def scan_table(subset: list[int], stream: list[int]) -> ScanTable:
    return scan_rows([1] * len(subset), stream, subset)


def cube_table(scan: list[int]) -> CubeTable:
    number = [scan[:place].count(row) for place, row in enumerate(scan)]
    n = len(scan)
    return CubeTable(
        np.array(scan, np.int32), np.array(number, np.int32), np.zeros((n, 3), np.int32), np.zeros(n)
    )


def test_luna16_subsets_decide_where_both_sides_have_cubes() -> None:
    split = split_cubes(scan_table([0, 4, 5, 6, 7, 9, -1], range(7)), cube_table([0, 0, 1, 2, 3, 4, 5, 6]))
    assert split.train.tolist() == [0, 1, 2]
    assert split.validation.tolist() == [3, 4]
    assert "subsets 0-4 train" in split.rule
    assert split.warning is None


def test_images_of_a_patient_are_on_one_side() -> None:
    names = ["11", "11", "12", "13", "13", "", ""]
    empty = np.full(len(names), "", dtype=object)
    images = ImageTable(np.array(names, dtype=object), empty, empty)
    scans = scan_table([-1] * len(names), [1, 2, 3, 4, 5, 20, 7])
    split = split_cubes(scans, cube_table([0, 0, 1, 2, 3, 4, 5, 6]), images)
    # The first eight bytes of the sha256 of the names, modulo ten: 6 of "11", 9 of "12", 2 of "13". An
    # unknown patient has one image, and its scan's stream key.
    keys = [int.from_bytes(sha256(name.encode()).digest()[:8], "little") for name in ("11", "12", "13")]
    assert all(key % 10 for key in keys)
    assert split.validation.tolist() == [6]
    assert split.train.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert "one patient in 10 validates" in split.rule

    smallest = np.argmin(keys)
    split = split_cubes(scan_table([-1] * 5, [10] * 5), cube_table(list(range(5))), _first(images, 5))
    assert split.validation.tolist() == [[0, 1], [2], [3, 4]][smallest]

    single = split_cubes(scan_table([-1, -1], [1, 2]), cube_table([0, 1]), _first(images, 2))
    assert single.validation.tolist() == [0]
    assert "All images are from one patient" in str(single.warning)


def _first(images: ImageTable, count: int) -> ImageTable:
    return ImageTable(images.patient[:count], images.view[:count], images.labels[:count])


def test_without_validation_subsets_one_scan_in_ten_validates_and_the_test_subsets_stay_out() -> None:
    scans = scan_table([0, 1, 2, 7, 3], [11, 20, 31, 30, 41])
    split = split_cubes(scans, cube_table([0, 1, 1, 2, 3]))
    assert split.train.tolist() == [0, 3]
    assert split.validation.tolist() == [1, 2]
    assert "7-9 left out" in split.rule


@pytest.mark.parametrize(
    ("stream", "validating"),
    [([13, 12, 11], [2]), ([30, 20, 10], [2]), ([2**64 - 6, 1, 3], [0])],
    ids=["none divisible", "all divisible", "large keys"],
)
def test_some_scan_validates_and_some_scan_trains(stream: list[int], validating: list[int]) -> None:
    split = split_cubes(scan_table([-1] * 3, stream), cube_table([0, 1, 2]))
    assert split.validation.tolist() == validating
    assert sorted([*split.train, *split.validation]) == [0, 1, 2]


def test_scans_without_cubes_do_not_count() -> None:
    split = split_cubes(scan_table([-1, -1], [10, 3]), cube_table([1] * 32))
    assert split.validation.tolist() == [0, 10, 20, 30]
    assert len(split.train) == 28
    assert split.warning is not None
    assert "overlap" in split.warning


def test_test_subsets_alone_are_used_with_a_warning() -> None:
    split = split_cubes(scan_table([8, 9], [1, 2]), cube_table([0, 1]))
    assert split.validation.tolist() == [0]
    assert split.warning is not None
    assert "nodule task" in split.warning


@pytest.mark.parametrize("scan", [[], [0]])
def test_fewer_than_two_cubes_cannot_be_split(scan: list[int]) -> None:
    with pytest.raises(DataError, match=r"no cube|1 cube"):
        split_cubes(scan_table([-1], [1]), cube_table(scan))


def test_two_scans_of_each_patient_are_never_parted() -> None:
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        people = rng.integers(1, 2**63, rng.integers(2, 30)).astype(np.uint64)
        stream = rng.permutation(2**20)[: 2 * people.size].tolist()
        scans = replace(scan_table([-1] * len(stream), stream), patient=rng.permutation(np.repeat(people, 2)))
        whose = np.asarray(scans.patient)
        split = split_cubes(scans, cube_table(list(range(len(stream)))))
        assert not set(whose[split.train]) & set(whose[split.validation])
        assert split.train.size
        assert split.validation.size
        assert split.train.size + split.validation.size == len(stream)
        assert "patient" in split.rule
        assert split.warning is None


def test_scans_of_a_single_patient_are_split_by_scan_with_a_warning() -> None:
    scans = replace(scan_table([-1] * 3, [3, 20, 7]), patient=np.full(3, 9, np.uint64))
    split = split_cubes(scans, cube_table([0, 1, 1, 2]))
    assert (split.validation.tolist(), split.train.tolist()) == ([1, 2], [0, 3])
    assert "one patient" in str(split.warning)


def test_a_split_file_decides_before_subsets_and_patients() -> None:
    parts = np.array([1, 0, 2, 3, 0], np.uint8)
    people = np.full(5, 7, np.uint64)
    scans = replace(scan_table([0, 5, 1, 2, 6], [10] * 5), part=parts, patient=people)
    split = split_cubes(scans, cube_table([0, 1, 1, 2, 3, 4]))
    assert (split.train.tolist(), split.validation.tolist()) == ([1, 2, 5], [0])
    with pytest.raises(DataError, match="3 cubes for training and 0 for validation"):
        split_cubes(replace(scans, part=parts % 3 % 1), cube_table([0, 1, 2]))
