"""Finds the images in a folder of NIH ChestX-ray14, and reads its table.

The layout is that of the download (METHOD.md section 5): PNGs in `images_001/images` .. `images_012/images`,
in one folder `images`, or at the top; the table `Data_Entry_2017*.csv`; and the official split in
`train_val_list.txt` and `test_list.txt`. No image is opened here.
"""

import csv
import io
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.scans.files import HERE, bad_name, is_folder, listed, not_opened, shown, within
from genesis_toolkit.pipeline.scans.find import NIH_TABLE, NO_SUBSET, Found, Source, check_source

Split = Literal["train_val", "test", "all"]

SUFFIX = ".png"
_LISTS = {"train_val": "train_val_list.txt", "test": "test_list.txt"}
_FOLDER = re.compile(r"images(_\d+)?")

#: Columns that are read, by the names they have in every edition of the table.
_NAME, _LABELS, _PATIENT, _VIEW = "Image Index", "Finding Labels", "Patient ID", "View Position"


@dataclass(frozen=True)
class Row:
    """An image's row in the table.

    Attributes:
        patient: the number of the patient.
        view: PA or AP.
        labels: the findings, joined by `|`.
    """

    patient: str
    view: str
    labels: str


@dataclass(frozen=True)
class ImageSource(Source):
    """An image that was found but not yet opened; its identifier is its name without the suffix.

    Attributes:
        patient, view, labels: see `Row`; empty if the table has no row for it.
    """

    patient: str = ""
    view: str = ""
    labels: str = ""


def find_images(source: Path | str, split: Split = "train_val") -> Found:
    """Find the images of a folder with the layout of NIH ChestX-ray14.

    Images on neither list are among the sources, to be skipped by name; images on the other list, and listed
    images that are missing, are only counted. `all` ignores the lists and takes every image.

    Args:
        source: the folder; an empty text is refused.
        split: the official list to take.

    Raises:
        CallError: the folder does not exist, lacks the table or a list, or holds no image of the split.
        DataError: a table or list cannot be read, or a patient is on both lists.
    """
    check_split(split)
    root, alone = check_source(source)
    if alone:
        raise CallError(f"{root} is a file: give the folder that holds Data_Entry_2017*.csv and the images.")
    entries = listed(root)
    table = _table_of(root, [entry.name for entry in entries])
    rows = parse_table(_text(table), table.name)
    lists = {} if split == "all" else official_lists(root)
    if lists:
        check_split_of_patients(lists["train_val"], lists["test"], rows)
    files = _image_files(root, entries)
    if not files:
        raise CallError(
            f"There is no image ({SUFFIX}) in {root}, its folder images, or its folders "
            "images_001 .. 012: unpack the archives of the download there."
        )
    listed_names = {name for names in lists.values() for name in names}
    selected: Collection[str] = lists.get(split, rows)
    sources, other_list = [], 0
    for name, folder in files:
        if split == "all" or name in selected or name not in listed_names:
            unlisted = split != "all" and name not in listed_names
            sources.append(_source(root, name, folder, rows.get(name), table.name, unlisted))
        else:
            other_list += 1
    if all(one.skip for one in sources):
        raise CallError(
            f"{root} holds {len(files):,} images, but none is on {_LISTS[split]}: choose another --split."
        )
    absent = len(set(selected) - {name for name, _ in files})
    return Found(root, "nih", tuple(sources), other_list=other_list, absent=absent)


def official_lists(root: Path) -> dict[str, dict[str, None]]:
    """Return the names of the images on each official list, in order, by `train_val` and `test`.

    Raises:
        CallError: a list is missing.
        DataError: one cannot be read.
    """
    return {name: _names_on(root / file) for name, file in _LISTS.items()}


def check_split(split: str) -> None:
    """Refuse an unknown split.

    Raises:
        CallError: the split is unknown.
    """
    if split not in get_args(Split):
        raise CallError(f"--split {split} is unknown: it must be one of {', '.join(get_args(Split))}.")


def parse_table(text: str, name: str) -> dict[str, Row]:
    """Parse NIH's table; return its rows by image name.

    Columns are found by name, in any order; the column of the sex, whose name differs between two editions,
    and those of sizes, whose names contain commas, are not read.

    Args:
        text: contents of the table.
        name: its file name, for messages.

    Raises:
        DataError: a column is missing, a row is cut short, or an image has two rows.
    """
    try:
        lines = list(csv.reader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise DataError(f"{name} is not a CSV table: {error}. Download NIH's table again.") from None
    header = [column.strip() for column in lines[0]] if lines else []
    missing = [column for column in (_NAME, _LABELS, _PATIENT, _VIEW) if column not in header]
    if missing:
        there = ", ".join(header) or "none"
        raise DataError(
            f"{name} has no column {', '.join(missing)}; its columns are {there}. Download NIH's table again."
        )
    at, labels, patient, view = map(header.index, (_NAME, _LABELS, _PATIENT, _VIEW))
    least = max(at, labels, patient, view) + 1
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line:
            continue
        if len(line) < least:
            raise DataError(
                f"{name} has {len(line)} columns in row {number}; at least {least} are needed. The table was "
                "truncated or edited: download NIH's table again."
            )
        image = line[at].strip()
        if image in rows:
            raise DataError(f"{name} has two rows for {image}: keep the correct one.")
        rows[image] = Row(line[patient].strip(), line[view].strip(), line[labels].strip())
    return rows


def check_split_of_patients(train_val: Iterable[str], test: Iterable[str], rows: Mapping[str, Row]) -> None:
    """Refuse lists that share a patient: training data would leak into the test set.

    Args:
        train_val, test: names of images.
        rows: rows of the table. An image without one is assigned to the patient in its name.

    Raises:
        DataError: a patient is on both lists.
    """
    trained = {_patient(name, rows): name for name in train_val}
    for name in test:
        other = trained.get(_patient(name, rows))
        if other is not None:
            raise DataError(
                f"Patient {_patient(name, rows)} is on both lists: {other} on {_LISTS['train_val']}, {name} "
                f"on {_LISTS['test']}. Training data would leak into the test set: download NIH's lists "
                "again."
            )


def _patient(name: str, rows: Mapping[str, Row]) -> str:
    return rows[name].patient if name in rows else name.partition("_")[0].lstrip("0")


def _table_of(root: Path, names: Iterable[str]) -> Path:
    tables = sorted(name for name in names if NIH_TABLE.fullmatch(name))
    if not tables:
        raise CallError(
            f"{root} holds no table Data_Entry_2017*.csv, so its layout is not NIH "
            "ChestX-ray14's: copy the table from the download into this folder."
        )
    if len(tables) > 1:
        raise CallError(f"{root} holds {len(tables)} tables, {', '.join(tables)}: keep one.")
    return root / tables[0]


def _names_on(path: Path) -> dict[str, None]:
    """Return the names on a list, each once, in order."""
    if not path.exists():
        raise CallError(
            f"{path} is missing: copy it from the download, next to the images. The list "
            "names the images that may be used for training; --split all takes every image "
            "without a list."
        )
    return dict.fromkeys(name for line in _text(path).splitlines() if (name := line.strip()))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {not_opened(error)}.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not text in UTF-8. Download NIH's list or table again.") from None


def _image_files(root: Path, entries: Iterable[os.DirEntry[str]]) -> list[tuple[str, str]]:
    """Return name and folder, relative to the root, of every image, sorted by name."""
    files = []
    waiting = [(HERE, list(entries))]
    for folder, listing in waiting:  # grows by folders of images, at most two levels deep
        for entry in listing:
            path = within(folder, entry.name)
            if not is_folder(entry):
                if entry.name.lower().endswith(SUFFIX):
                    files.append((entry.name, folder))
            elif _FOLDER.fullmatch(entry.name) and path.count("/") < 2:
                waiting.append((path, listed(root / path)))
    return sorted(files)


def _source(root: Path, name: str, folder: str, row: Row | None, table: str, unlisted: bool) -> ImageSource:
    path = within(folder, name)
    place = shown(path)
    skip = f"the image is on neither {' nor '.join(_LISTS.values())}" if unlisted else ""
    problem = "" if row or skip else f"{table} has no row for the image"
    row = row or Row("", "", "")
    return ImageSource(
        identifier=place.rpartition("/")[2][: -len(SUFFIX)],
        subset=NO_SUBSET,
        path=place,
        problem=bad_name(f"{root}/{path}") or problem,
        skip=skip,
        patient=row.patient,
        view=row.view,
        labels=row.labels,
    )
