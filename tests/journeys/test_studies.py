"""The study of evidence deals its folds by a hash of its settings, by patient, and reads MedMNIST's file."""

import csv
import sys
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

STUDIES = Path(__file__).resolve().parents[2] / "studies"


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(sys, "path", [str(STUDIES), *sys.path])
    return import_module("evidence")


def folds_of(evidence: ModuleType, source: Path, setting: object, out: Path) -> dict[str, str]:
    evidence.write_split(source, setting, out)
    with out.open(newline="") as lines:
        return {row["scan"]: row["part"] for row in csv.DictReader(lines)}


def xrays(source: Path, patients: int, each: int) -> Path:
    """A folder like NIH's, with images of `patients` patients."""
    (source / "images").mkdir(parents=True)
    lines = ["Image Index,Patient ID,View Position"]
    for number in range(patients * each):
        name = f"{number // each:08}_{number % each:03}.png"
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(source / "images" / name)
        lines.append(f"{name},{number // each},PA")
    (source / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    return source


def test_each_patient_is_in_one_fold_and_the_settings_alone_choose_it(
    evidence: ModuleType, tmp_path: Path
) -> None:
    source, setting = xrays(tmp_path / "nih", 30, 2), replace(evidence.VIEWS, test=9, validation=4, most=25)
    folds = folds_of(evidence, source, setting, tmp_path / "split.csv")
    assert Counter(folds.values()) == {"test": 9, "validation": 4, "train": 12, "exclude": 5}
    assert len({scan.partition("_")[0] for scan in folds}) == len(folds) == 30
    assert folds_of(evidence, source, setting, tmp_path / "again.csv") == folds
    other = replace(setting, epochs=setting.epochs + 1)
    assert folds_of(evidence, source, other, tmp_path / "other.csv") != folds


def test_the_file_of_medmnist_becomes_padded_images_with_their_labels(
    evidence: ModuleType, tmp_path: Path
) -> None:
    draw = np.random.default_rng(3)
    held = {
        f"{part}_{kind}": draw.integers(0, high, (count, *shape)).astype(np.uint8)
        for part, count in (("train", 3), ("val", 2), ("test", 2))
        for kind, high, shape in (("images", 256, (28, 28)), ("labels", 2, (1,)))
    }
    np.savez(tmp_path / "pneumoniamnist.npz", **held)
    folder = evidence.unpack(tmp_path / "pneumoniamnist.npz", tmp_path / "out")
    with (folder / "labels.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert [row["part"] for row in rows] == ["train"] * 3 + ["val"] * 2
    for number, row in enumerate(rows):
        part, at = (row["part"], number if row["part"] == "train" else number - 3)
        image = np.asarray(Image.open(folder / "images" / row["image"]))
        assert image.shape == (32, 32)
        np.testing.assert_array_equal(image[2:-2, 2:-2], held[f"{part}_images"][at])
        assert int(row["pneumonia"]) == held[f"{part}_labels"][at, 0]
        assert image.sum(dtype=int) == held[f"{part}_images"][at].sum(dtype=int)
