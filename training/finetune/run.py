"""The folder of a fine-tuning run: what lies in it, what it came to, and its network, ready to be used.

run.json       what the run is made of: parameters, store, beginning, cubes
losses.jsonl   the same as its first line, then one object a finished epoch
last.pt        the checkpoint to go on from, now and then
best.pt        the network that is evaluated: of the last step, or of the epoch that validated best
result.json    what that network scored on the test fold; with it the run is finished
lock           held by the process at work

A checkpoint is a dict that `torch.load(..., weights_only=True)` reads: `format`, `version`, the position, the
network's `state_dict` and, of last.pt, the optimiser's.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from genesis_toolkit.pipeline.absent import no_finetuned
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.hounsfield import Ends, Window
from genesis_toolkit.pipeline.ledger import write_whole
from genesis_toolkit.pipeline.scans.mapping import checked_ends
from genesis_toolkit.training.finetune.heads import Kind, TargetNetwork, build_target_network
from genesis_toolkit.training.finetune.parameters import FIRST_VERSION, FinetuneParameters
from genesis_toolkit.training.machine.run_folder import Run
from genesis_toolkit.training.weights.files import (
    FINETUNED,
    POSITION,
    TrainingState,
    checkpoint_bytes,
    load_weights,
    read_checkpoint,
)
from genesis_toolkit.training.weights.load import Beginning

RESULT, VERSION = "genesis-finetune-result", 2

_CALLED = ("run", "status")  # of an outcome, what the call tells and not the result
_OF_NETWORK = ("network", "width")  # beside the `FinetuneParameters` among a run's parameters


@dataclass(frozen=True)
class FinetuneRecord:
    """One finished epoch, counted from 1, as it stands in `losses.jsonl`.

    The training loss is the mean over the labelled cubes, each as it was when its batch came; None for the
    validation loss means that this epoch was not validated. `kept` says whether its network is the one to
    evaluate, the last such epoch being the final word. The seconds are those of training and validation.
    `scores` has the metrics on the test fold after the steps of `at_steps` that fell into it.
    """

    epoch: int
    steps: int
    train_loss: float
    validation_loss: float | None
    kept: bool
    seconds: float
    scores: dict[str, dict[str, float | None]]

    def __str__(self) -> str:
        validation = f", validation {self.validation_loss:.4f}" if self.validation_loss is not None else ""
        kept = ", kept" if self.kept else ""
        return f"epoch {self.epoch}: train {self.train_loss:.4f}{validation}, {self.seconds:.1f} s{kept}"


@dataclass(frozen=True)
class FinetuneOutcome:
    """What a call of `finetune` came to. All but `run` and `status` stands in `result.json`.

    Attributes:
        run: the folder.
        status: `finished`, or `already finished` when there was nothing left to do.
        task: of the store: `ncc`, `segment` or `dxc`.
        kind: `classify` or `segment`.
        metric: the score of the task: `auc`, `mean_auc` or `iou`.
        score: that metric on the test fold, of the network that was kept, in 0 .. 1.
        metrics: all metrics on the test fold, in 0 .. 1; None where the cubes do not determine one.
        notes: why a metric is None, and what else to keep in mind; a sentence each.
        stopped_by: `steps`, `epochs` or `patience`.
        steps: finished ones.
        epochs: finished ones, the last perhaps cut short.
        select: `last` or `best`.
        kept_epoch: the one whose network was evaluated, counted from 1: the last, or that with the lowest
            validation loss.
        validation_loss: of that epoch.
        at_steps: by the number of steps, `score` and `metrics` after them, where that was asked for.
        train_scans: how many labelled scans trained.
        train_cubes: how many cubes they have.
        validation_cubes: how many validated.
        test_cubes: how many were evaluated.
        network: its name.
        width: channels of its first convolution.
        weights: its parameters, counted.
        beginning: what it began with (`Beginning.describe`).
    """

    run: str
    status: str
    task: str
    kind: str
    metric: str
    score: float
    metrics: dict[str, float | None]
    notes: list[str]
    stopped_by: str
    steps: int
    epochs: int
    select: str
    kept_epoch: int
    validation_loss: float
    at_steps: dict[str, dict[str, Any]]
    train_scans: int
    train_cubes: int
    validation_cubes: int
    test_cubes: int
    network: str
    width: int
    weights: int
    beginning: dict[str, Any]


@dataclass(frozen=True)
class Finetuned:
    """A finished run, to be used: its network on the CPU, in evaluation, and what it was trained on.

    Attributes:
        network: the one that was evaluated.
        kind: `classify` or `segment`.
        task: `ncc`, `segment` or `dxc`.
        classes: what its outputs tell.
        size: edges of the cubes in voxels, (x, y, z), or of the images in pixels, (x, y).
        window: of the values, which become [0, 1].
        ends: what of a scan's own values was mapped to that window (`scans.mapping`); None: they were HU.
        parameters: of the run.
    """

    network: TargetNetwork
    kind: Kind
    task: str
    classes: tuple[str, ...]
    size: tuple[int, ...]
    window: Window
    ends: Ends | None
    parameters: FinetuneParameters


class FinetuneRun(Run):
    """The folder of one fine-tuning run, held by this process. Made by `run_folder.hold_run`."""

    maker: ClassVar[str] = "genesis-train finetune"
    format: ClassVar[str] = "genesis-finetune-run"
    version: ClassVar[int] = 2
    keys: ClassVar[frozenset[str]] = frozenset(
        ("parameters", "store", "weights", "beginning", "kind", "task", "classes", "size", "window")
    )

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.result = folder / "result.json"

    def files(self) -> list[Path]:
        """All that a run may leave in its folder."""
        return [self.result, *super().files()]

    def outcome(self, status: str) -> FinetuneOutcome | None:
        """What `result.json` says; None where the run is not finished, a `DataError` where it is damaged."""
        names = {field.name for field in fields(FinetuneOutcome)}.difference(_CALLED)
        try:
            told = json.loads(self.result.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, OSError):
            raise DataError(f"{self.result} is damaged: give --overwrite to begin the run again.") from None
        ours = isinstance(told, dict) and (told.get("format"), told.get("version")) == (RESULT, VERSION)
        if not ours or not told.keys() >= names:
            raise DataError(
                f"{self.result} is of another version: use the one that wrote it, or --overwrite."
            )
        return FinetuneOutcome(str(self.folder), status, **{name: told[name] for name in names})

    def finish(self, outcome: FinetuneOutcome) -> None:
        """Write what the run came to. The same run gives the same bytes, wherever it lies."""
        told = {name: value for name, value in asdict(outcome).items() if name not in _CALLED}
        text = json.dumps({"format": RESULT, "version": VERSION, **told}, indent=1, allow_nan=False)
        write_whole(self.result, f"{text}\n".encode())

    def save(self, state: TrainingState, *, kept: bool) -> None:
        """Write where the run is, a network that is kept before what it goes on from."""
        content = state.content({})
        file = {name: content[name] for name in (*POSITION, "state_dict")}
        if kept:
            write_whole(self.best, checkpoint_bytes(FINETUNED, file))
        file |= {name: content[name] for name in ("optimizer_state_dict", "scaler_state_dict")}
        write_whole(self.last, checkpoint_bytes(FINETUNED, file))


class _FirstRun(FinetuneRun):
    """The folder of a run of the first version, which is read, and never gone on with."""

    version: ClassVar[int] = 1


def read_finetuned(run: Path) -> Finetuned:
    """The network of a finished fine-tuning run.

    Raises:
        CallError: there is no run at `run`, or it is not finished, or a package is not installed.
        DataError: a file of it is damaged.
    """
    folder, older = FinetuneRun(run), {}
    try:
        described = folder.described()
    except DataError:
        described, older = _FirstRun(run).described(), FIRST_VERSION
    if described is None:
        raise no_finetuned(run)
    if not folder.result.is_file():
        raise CallError(f"{run} is not finished: repeat the command that makes it, and it goes on.")
    told = {name: value for name, value in described["parameters"].items() if name not in _OF_NETWORK}
    parameters = FinetuneParameters.from_dict({**told, **older})
    kind, classes, size = described["kind"], tuple(described["classes"]), tuple(described["size"])
    first = described["beginning"]
    network = build_target_network(
        Beginning(first["network"], first["width"]),
        kind,
        len(classes),
        len(size),
        seed=0,
        all_levels=parameters.head == "all",
        probe=parameters.freeze_encoder and not older,
    )
    if parameters.freeze_encoder and not older:
        network.freeze_encoder()
    load_weights(network, read_checkpoint(folder.best, FINETUNED)["state_dict"], folder.best)
    network.eval()
    window = Window(*described["window"])
    ends = checked_ends(tuple(described["mapped"])) if "mapped" in described else None
    return Finetuned(network, kind, described["task"], classes, size, window, ends, parameters)
