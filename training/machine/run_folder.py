"""The folder of a training run: its files, the lock on it, and the check that a call may resume it.

run.json       the description of the run: parameters, store, split, baselines
losses.jsonl   the description as first line, then one object per finished epoch
last.pt        the checkpoint to resume from: after every epoch, and sometimes within one
best.pt        the checkpoint of the epoch with the lowest validation loss
losses.png     plot of these losses and the baselines
restored.png   some validation cubes, restored by the best network
tensorboard/   with --tensorboard: events with the same figures, and the loss every few steps
profile.txt    with --profile: time spent in each operation during some steps; profile.json is the trace
lock           held by the process that trains
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import locked, write_whole
from genesis_toolkit.pipeline.store.write import check_place
from genesis_toolkit.training.machine.options import option

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Run:
    """The folder of one run, locked by this process; the module docstring lists its files. See `hold_run`.

    `maker` is the command that makes such runs; their `run.json` has this `format` and at least these `keys`.
    """

    maker: ClassVar[str] = "genesis-train pretrain"
    format: ClassVar[str] = "genesis-pretrain-run"
    version: ClassVar[int] = 3
    keys: ClassVar[frozenset[str]] = frozenset(("parameters", "store", "baselines"))

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.description, self.losses = folder / "run.json", folder / "losses.jsonl"
        self.last, self.best = folder / "last.pt", folder / "best.pt"
        self.curves, self.picture = folder / "losses.png", folder / "restored.png"
        self.profile = folder / "profile.txt"
        self.events = folder / "tensorboard"

    def described(self) -> dict[str, Any] | None:
        """Return the content of `run.json`, or None before the run starts; raises DataError if damaged."""
        try:
            described = json.loads(self.description.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise DataError(
                f"{self.description} is damaged: use --overwrite to start the run again."
            ) from None
        if not isinstance(described, dict) or described.get("format") != self.format:
            raise CallError(f"{self.folder} is not a run of {self.maker}: choose another folder.")
        if described.get("version") != self.version or not described.keys() >= self.keys:
            raise DataError(
                f"{self.description} was written by another version of genesis-toolkit: use "
                "that version, or --overwrite to start again."
            )
        return described

    def begin(self, description: Mapping[str, Any], finished: int) -> None:
        """Write the description of the run, plain JSON values as `described` returns them.

        Only the losses of `finished` epochs are kept, those covered by the last checkpoint.
        """
        header = {"format": self.format, "version": self.version, **description}
        self.records(range(1, finished + 1))
        lines = self.lines()[:finished]
        # The description first: it marks the folder as a run.
        write_whole(self.description, f"{json.dumps(header, indent=1)}\n".encode())
        write_whole(self.losses, "".join(f"{line}\n" for line in [json.dumps(header), *lines]).encode())

    def records(self, epochs: Iterable[int]) -> list[dict[str, Any]]:
        """Return the records of finished epochs, counted from 1.

        Raises:
            DataError: a line is missing or damaged.
        """
        lines, records = self.lines(), []
        for epoch in epochs:
            if epoch > len(lines):
                raise DataError(
                    f"{self.losses} lacks epochs that {self.last} has: use --overwrite to start again."
                )
            try:
                record = json.loads(lines[epoch - 1])
            except ValueError:
                record = None
            if not isinstance(record, dict) or record.get("epoch") != epoch:
                raise DataError(
                    f"{self.losses} is damaged in line {epoch + 1}, which should hold epoch {epoch}: restore "
                    "it from a copy, or use --overwrite to start again."
                )
            records.append(record)
        return records

    def lines(self) -> list[str]:
        """Return the lines of all epochs in the losses; the last may have no checkpoint yet."""
        text = self.losses.read_text(encoding="utf-8", errors="replace") if self.losses.exists() else ""
        return text.splitlines()[1:]

    def append(self, record: "DataclassInstance") -> None:
        """Append a finished epoch to the losses, before its checkpoint is written."""
        with self.losses.open("a") as file:
            file.write(f"{json.dumps(asdict(record))}\n")
            file.flush()
            os.fsync(file.fileno())

    def files(self) -> Sequence[Path]:
        """Return all paths that a run may leave in its folder."""
        files = (self.description, self.last, self.best, self.losses, self.curves, self.picture)
        return (
            *files,
            self.profile,
            self.profile.with_suffix(".json"),
            *self.events.glob("events.out.tfevents.*"),
        )

    def clear(self) -> None:
        """Delete the files of an earlier run and nothing else."""
        # The description last: without it the folder would not be recognised as a run.
        for path in sorted(self.files(), key=lambda path: path == self.description):
            path.unlink(missing_ok=True)


AnyRun = TypeVar("AnyRun", bound=Run)


@contextmanager
def hold_run(folder: Path, kind: type[AnyRun]) -> Iterator[AnyRun]:
    """Lock the folder of a new or existing run of that kind.

    Raises:
        CallError: another process holds it, it is not a run, or it is not writable.
    """
    run = kind(folder)
    check_folder(run)
    fresh = not folder.exists()
    with locked(
        folder, f"Another process is training in {folder}: wait until it ends, or use another --out."
    ):
        for left in folder.glob(".*.part"):  # files of a run that was killed while writing
            if any(left.name.startswith(f".{path.name}.") for path in run.files()):
                left.unlink(missing_ok=True)
        try:
            yield run
        except (CallError, DataError):
            if fresh and [path.name for path in folder.iterdir()] == ["lock"]:  # nothing was begun
                (folder / "lock").unlink()
                folder.rmdir()
            raise


def check_folder(run: Run) -> None:
    """Check that the folder is a run of that kind, or may become one.

    Raises:
        CallError: it is something else, or not writable.
    """
    folder = run.folder
    if folder.exists():
        if not folder.is_dir():
            raise CallError(f"{folder} is a file, not the folder of a run: use another --out.")
        foreign = [path.name for path in folder.iterdir() if path.name != "lock" and path.suffix != ".part"]
        if foreign and not _is_run(run):
            raise CallError(
                f"{folder} exists and is not a run of {run.maker} (it holds {min(foreign)}), so it is left "
                "unchanged: use another --out."
            )
    check_place(folder)


def check_file(out: Path, run: Path, *, overwrite: bool) -> None:
    """Check that `out`, an output of the run in the folder `run`, may be written.

    Raises:
        CallError: a file or folder is in the way, or `out` is inside the run or a store.
    """
    check_place(out)
    if run.resolve() in (out.resolve(), *out.resolve().parents):
        raise CallError(f"{out} is inside the run {run}, which holds its own files: choose another location.")
    if out.is_dir():
        raise CallError(f"{out} is a folder, but a file is needed: choose another name.")
    if out.exists() and not overwrite:
        raise CallError(f"{out} exists: choose another name, or use --overwrite to replace it.")


def check_same(
    run: Run,
    earlier: Mapping[str, Any],
    described: Mapping[str, Any],
    stopping_rules: Sequence[str],
    weights_key: str = "initial_encoder",
) -> None:
    """Check that a call may resume an earlier run; both are described as in `run.json`.

    The stopping rules may differ. `weights_key` is the key, and option, of the file of initial weights.

    Raises:
        CallError: another parameter differs, or the store or the file of initial weights holds other data.
    """
    again = "to continue, or start again with another --out or with --overwrite."
    store, given = earlier["store"], described["store"]
    if store["fingerprint"] != given["fingerprint"]:
        raise CallError(
            f"{run.folder} was started with the store {store['path']}, but {given['path']} "
            f"holds other data: name the original store {again}"
        )
    for name, now in described["parameters"].items():
        before = earlier["parameters"].get(name)
        # A run started before this parameter existed had it off, which is 0 or None.
        if name not in stopping_rules and (before or None) != (now or None):
            raise CallError(
                f"{run.folder} was started with {_words(name, before)}, but this call has "
                f"{_words(name, now)}: use the original value {again}"
            )
    first, asked = earlier.get(weights_key), described[weights_key]
    if first != asked:
        before, now = (_words(weights_key, one and one["file"]) for one in (first, asked))
        other = " (with other content)" if before == now else ""
        raise CallError(
            f"{run.folder} was started with {before}, but this call has {now}{other}: use the "
            f"original file {again}"
        )


def _words(name: str, value: Any) -> str:
    return f"no {option(name)}" if value is None else f"{option(name)} {value}"


def _is_run(run: Run) -> bool:
    """Return whether the folder holds such a run, of any version.

    The format in `run.json` decides or, if that is damaged, in the first line of the losses, its copy.
    """
    for path, lines in ((run.description, None), (run.losses, 1)):
        with suppress(OSError, ValueError):
            described = json.loads(b"\n".join(path.read_bytes().splitlines()[:lines]))
            return isinstance(described, dict) and described.get("format") == run.format
    return False
