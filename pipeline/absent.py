"""Refuses paths at which there is nothing, before anything is loaded that takes longer than looking."""

import os
from pathlib import Path

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import AnyPath, unfinished


def check_scans(source: AnyPath) -> Path:
    """Return the path of scans: a folder, or a file.

    Raises:
        CallError: an empty text, nothing there, or it cannot be looked at.
    """
    if source == "":  # which `Path` would take for the folder at work in
        raise CallError("'' is no path: give the folder that holds the scans.")
    if not _exists(Path(source)):
        raise CallError(f"There is no folder {source}: give the folder that holds the scans.")
    return Path(source)


def no_scan(path: Path) -> CallError:
    """The refusal of a path at which there is no scan."""
    return CallError(f"There is no scan {path}: give a file, or the folder of a DICOM series.")


def check_scan(path: AnyPath) -> None:
    """Refuse a scan that is not there; what may be the name of one in a table passes.

    Raises:
        CallError: it is not.
    """
    text = os.fspath(path)
    if text and not any(mark in text for mark in ("#", "…", "subset")) and not _exists(Path(text)):
        raise no_scan(Path(text))


def check_store(place: AnyPath, maker: str) -> None:
    """Refuse a store that is not there, or not yet; a URL passes.

    Args:
        place: where it should be.
        maker: the command that makes such a store.

    Raises:
        CallError: it is not.
    """
    if "://" in os.fspath(place) or _exists(Path(place)):
        return
    if unfinished(Path(place)).exists():
        raise CallError(f"{place} is not finished: repeat the command that makes it, and it goes on.")
    raise CallError(f"There is no store at {place}: make one with genesis-prep {maker}.")


def check_cube_file(path: Path) -> None:
    """Refuse a file of the authors' cubes that is not there.

    Raises:
        CallError: it is not.
    """
    if not _exists(path):
        raise CallError(f"There is no file {path}: give the authors' cube files, as bat_32_s_64x64x32_0.npy.")


def check_run(folder: Path) -> None:
    """Refuse the folder of a pre-training run that is not there.

    Raises:
        CallError: it is not.
    """
    if not _exists(folder):
        raise no_run(folder)


def no_run(folder: Path) -> CallError:
    """The refusal of a folder that is not of a pre-training run."""
    return CallError(f"There is no run in {folder}: make one with genesis-train pretrain.")


def check_finetuned(folder: Path) -> None:
    """Refuse the folder of a fine-tuning run that is not there.

    Raises:
        CallError: it is not.
    """
    if not _exists(folder):
        raise no_finetuned(folder)


def no_finetuned(folder: Path) -> CallError:
    """The refusal of a folder that is not of a fine-tuning run."""
    return CallError(f"There is no fine-tuning run at {folder}: make one with genesis-train finetune.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise CallError(f"{path} cannot be opened: {error.strerror}.") from None
