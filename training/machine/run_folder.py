"""The folder of a training run: what lies in it, who holds it, and whether a call may go on with it.

run.json       what the run is made of: parameters, store, split, baselines
losses.jsonl   the same as its first line, then one object a finished epoch
last.pt        the checkpoint to go on from: after every epoch, and now and then within one
best.pt        the checkpoint of the epoch with the lowest validation loss
losses.png     those losses and the baselines, drawn
restored.png   what that network makes of some validation cubes
tensorboard/   with --tensorboard: events, the same figures, and the loss of every few steps
profile.txt    with --profile: where the time of some steps went; profile.json is the trace of it
lock           held by the process at work
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
    """The folder of one run, held by this process; its files stand in the docstring above. See `hold_run`.

    `maker` is the command that makes such runs. By its `format` their `run.json` is known, which has at least
    these keys.
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
        """What `run.json` says; None where the run has not begun, a `DataError` where it is damaged."""
        try:
            described = json.loads(self.description.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            raise DataError(
                f"{self.description} is damaged: give --overwrite to begin the run again."
            ) from None
        if not isinstance(described, dict) or described.get("format") != self.format:
            raise CallError(f"{self.folder} is no run of {self.maker}: name another folder.")
        if described.get("version") != self.version or not described.keys() >= self.keys:
            raise DataError(
                f"{self.description} is of another version: use the one that wrote it, or --overwrite."
            )
        return described

    def begin(self, description: Mapping[str, Any], finished: int) -> None:
        """Write what the run is made of, plain JSON values, as what `described` gives back.

        Of the losses only the finished epochs are left, those that the last checkpoint has.
        """
        header = {"format": self.format, "version": self.version, **description}
        self.records(range(1, finished + 1))
        lines = self.told()[:finished]
        # The description first: it is what says that the folder is a run's.
        write_whole(self.description, f"{json.dumps(header, indent=1)}\n".encode())
        write_whole(self.losses, "".join(f"{line}\n" for line in [json.dumps(header), *lines]).encode())

    def records(self, epochs: Iterable[int]) -> list[dict[str, Any]]:
        """What the losses say of finished epochs, counted from 1.

        Raises:
            DataError: a line is gone or damaged.
        """
        lines, records = self.told(), []
        for epoch in epochs:
            if epoch > len(lines):
                raise DataError(
                    f"{self.losses} has lost epochs that {self.last} has: give --overwrite to begin again."
                )
            try:
                record = json.loads(lines[epoch - 1])
            except ValueError:
                record = None
            if not isinstance(record, dict) or record.get("epoch") != epoch:
                raise DataError(
                    f"{self.losses} is damaged in line {epoch + 1}, which should tell of epoch {epoch}: put "
                    "a copy of it back, or give --overwrite to begin again."
                )
            records.append(record)
        return records

    def told(self) -> list[str]:
        """The lines of all epochs that stand in the losses; the last may have no checkpoint yet."""
        text = self.losses.read_text(encoding="utf-8", errors="replace") if self.losses.exists() else ""
        return text.splitlines()[1:]

    def append(self, record: "DataclassInstance") -> None:
        """Add one finished epoch to the losses, before its checkpoint is written."""
        with self.losses.open("a") as file:
            file.write(f"{json.dumps(asdict(record))}\n")
            file.flush()
            os.fsync(file.fileno())

    def files(self) -> Sequence[Path]:
        """All that a run may leave in its folder."""
        files = (self.description, self.last, self.best, self.losses, self.curves, self.picture)
        return (
            *files,
            self.profile,
            self.profile.with_suffix(".json"),
            *self.events.glob("events.out.tfevents.*"),
        )

    def clear(self) -> None:
        """Throw away what an earlier run left; nothing else in the folder is touched."""
        # The description last: without it the rest would be nobody's.
        for path in sorted(self.files(), key=lambda path: path == self.description):
            path.unlink(missing_ok=True)


AnyRun = TypeVar("AnyRun", bound=Run)


@contextmanager
def hold_run(folder: Path, kind: type[AnyRun]) -> Iterator[AnyRun]:
    """Take hold of the folder of a run of that kind, new or begun.

    Raises:
        CallError: another process holds it, it is something else, or it cannot be written.
    """
    run = kind(folder)
    check_folder(run)
    fresh = not folder.exists()
    with locked(folder, f"Another process is training in {folder}: wait for it, or give another --out."):
        for left in folder.glob(".*.part"):  # of a run that was killed while it wrote
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
    """Check that the folder is such a run's, or may become it.

    Raises:
        CallError: it is something else, or cannot be written.
    """
    folder = run.folder
    if folder.exists():
        if not folder.is_dir():
            raise CallError(f"{folder} is a file, not the folder of a run: give another --out.")
        foreign = [path.name for path in folder.iterdir() if path.name != "lock" and path.suffix != ".part"]
        if foreign and not _is_run(run):
            raise CallError(
                f"{folder} exists and is no run of {run.maker} (it holds {min(foreign)}), so it is left "
                "alone: give another --out."
            )
    check_place(folder)


def check_file(out: Path, run: Path, *, overwrite: bool) -> None:
    """Check that `out`, made from the run in the folder `run`, may be written.

    Raises:
        CallError: something is in the way, or `out` lies in the run or in a store.
    """
    check_place(out)
    if run.resolve() in (out.resolve(), *out.resolve().parents):
        raise CallError(f"{out} lies inside the run {run}, which keeps its own files: choose another place.")
    if out.is_dir():
        raise CallError(f"{out} is a folder, and a file is to be written there: choose another name.")
    if out.exists() and not overwrite:
        raise CallError(f"{out} exists: choose another name, or give --overwrite to replace it.")


def check_same(
    run: Run,
    earlier: Mapping[str, Any],
    described: Mapping[str, Any],
    stopping_rules: Sequence[str],
    weights_key: str = "initial_encoder",
) -> None:
    """Check that a call may go on with a run that was begun earlier; both are described as in `run.json`.

    The rules of stopping may differ. The file of first weights stands under `weights_key`, its option's name.

    Raises:
        CallError: another parameter differs, or the store or the file of first weights holds other data.
    """
    again = "to continue, give another --out, or --overwrite to begin again."
    store, given = earlier["store"], described["store"]
    if store["fingerprint"] != given["fingerprint"]:
        raise CallError(
            f"{run.folder} was begun with the store {store['path']}, and {given['path']} holds other data: "
            f"name the first {again}"
        )
    for name, now in described["parameters"].items():
        before = earlier["parameters"].get(name)
        # A run that was begun before there was such a parameter had it off, which is 0 or None.
        if name not in stopping_rules and (before or None) != (now or None):
            raise CallError(
                f"{run.folder} was begun with {_words(name, before)}, this call asks for "
                f"{_words(name, now)}: repeat the first {again}"
            )
    first, asked = earlier.get(weights_key), described[weights_key]
    if first != asked:
        before, now = (_words(weights_key, one and one["file"]) for one in (first, asked))
        other = " (another content)" if before == now else ""
        raise CallError(
            f"{run.folder} was begun with {before}, this call asks for {now}{other}: repeat the first {again}"
        )


def _words(name: str, value: Any) -> str:
    return f"no {option(name)}" if value is None else f"{option(name)} {value}"


def _is_run(run: Run) -> bool:
    """Whether such a run lies there, be it of another version.

    Its `run.json` tells, and where that is damaged the first line of its losses, which is the same.
    """
    for path, lines in ((run.description, None), (run.losses, 1)):
        with suppress(OSError, ValueError):
            described = json.loads(b"\n".join(path.read_bytes().splitlines()[:lines]))
            return isinstance(described, dict) and described.get("format") == run.format
    return False
