"""Refuses paths that do not exist before anything slow is imported."""

import os
from pathlib import Path

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import AnyPath, unfinished


def check_scans(source: AnyPath) -> Path:
    """Return the path of scans: a folder, or a file.

    Raises:
        CallError: the path is empty, does not exist, or cannot be accessed.
    """
    if source == "":  # which `Path` would read as the current folder
        raise CallError("The path of the scans is empty: give the folder that holds the scans.")
    if not _exists(Path(source)):
        raise CallError(f"There is no folder {source}: give the folder that holds the scans.")
    return Path(source)


def no_scan(path: Path) -> CallError:
    """Return the error for a path without a scan."""
    return CallError(f"There is no scan {path}: give a file, or the folder of a DICOM series.")


def check_scan(path: AnyPath) -> None:
    """Refuse a scan that does not exist; a name that may be listed in a table passes.

    Raises:
        CallError: there is no such scan.
    """
    text = os.fspath(path)
    if text and not any(mark in text for mark in ("#", "…", "subset")) and not _exists(Path(text)):
        raise no_scan(Path(text))


def check_store(place: AnyPath, maker: str) -> None:
    """Refuse a store that does not exist or is unfinished; a URL passes.

    Args:
        place: path of the store.
        maker: the command that makes such a store.

    Raises:
        CallError: there is no finished store.
    """
    if "://" in os.fspath(place) or _exists(Path(place)):
        return
    if unfinished(Path(place)).exists():
        raise CallError(f"{place} is not finished: repeat the command that makes the store to finish it.")
    raise CallError(f"There is no store at {place}: make one with genesis-prep {maker}.")


def check_cube_file(path: Path) -> None:
    """Refuse a missing file of the authors' cubes.

    Raises:
        CallError: it does not exist.
    """
    if not _exists(path):
        raise CallError(f"There is no file {path}: give the authors' files, such as bat_32_s_64x64x32_0.npy.")


def check_run(folder: Path) -> None:
    """Refuse a missing folder of a pre-training run.

    Raises:
        CallError: it does not exist.
    """
    if not _exists(folder):
        raise no_run(folder)


def no_run(folder: Path) -> CallError:
    """Return the error for a folder without a pre-training run."""
    return CallError(f"There is no run in {folder}: make one with genesis-train pretrain.")


def check_finetuned(folder: Path) -> None:
    """Refuse a missing folder of a fine-tuning run.

    Raises:
        CallError: it does not exist.
    """
    if not _exists(folder):
        raise no_finetuned(folder)


def no_finetuned(folder: Path) -> CallError:
    """Return the error for a folder without a fine-tuning run."""
    return CallError(f"There is no fine-tuning run at {folder}: make one with genesis-train finetune.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise CallError(f"{path} cannot be opened: {error.strerror}.") from None
