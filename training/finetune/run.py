"""The folder of a fine-tuning run: its files, its outcome, and its network, ready to use.

run.json       the description of the run: parameters, store, beginning, cubes
losses.jsonl   the description as first line, then one object per finished epoch
last.pt        the checkpoint to resume from, written now and then
best.pt        the network that is evaluated: after the last step, or of the epoch that validated best
result.json    the scores of that network on the test fold; its presence means the run is finished
lock           held by the process that trains

A checkpoint is a dict that `torch.load(..., weights_only=True)` reads: `format`, `version`, the position, the
network's `state_dict` and, in last.pt, the optimiser's.
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

_CALLED = ("run", "status")  # parts of an outcome that belong to the call, not to the result
_OF_NETWORK = ("network", "width")  # a run's parameters besides `FinetuneParameters`


@dataclass(frozen=True)
class FinetuneRecord:
    """One finished epoch, counted from 1: one line of `losses.jsonl`.

    The training loss is the mean over the labelled cubes, each taken at its own step; a validation loss of
    None means that this epoch was not validated. `kept` says whether its network is the one to evaluate; the
    last such epoch decides. `seconds` covers training and validation. `scores` has the metrics on the test
    fold after the steps of `at_steps` in this epoch.
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
    """The outcome of a `finetune` call. `result.json` holds all but `run` and `status`.

    Attributes:
        run: the run folder.
        status: `finished`, or `already finished` if there was nothing left to do.
        task: task of the store: `ncc`, `segment` or `dxc`.
        kind: `classify` or `segment`.
        metric: name of the task's main metric: `auc`, `mean_auc` or `iou`.
        score: that metric on the test fold for the network that was kept, in 0 .. 1.
        metrics: all metrics on the test fold, in 0 .. 1; None if the cubes do not determine one.
        notes: why a metric is None, and other cautions, one sentence each.
        stopped_by: `steps`, `epochs` or `patience`.
        steps: number of finished steps.
        epochs: number of finished epochs, the last possibly cut short.
        select: `last` or `best`.
        kept_epoch: epoch of the network that was evaluated, counted from 1: the last, or that with the lowest
            validation loss.
        validation_loss: loss of that epoch.
        at_steps: by number of steps, `score` and `metrics` after them, if requested.
        train_scans: number of labelled training scans.
        train_cubes: number of their cubes.
        validation_cubes: number of validation cubes.
        test_cubes: number of test cubes.
        network: name of the network.
        width: channels of its first convolution.
        weights: number of its parameters.
        beginning: initial weights (`Beginning.describe`).
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
    """A finished run, ready to use: its network on the CPU, in evaluation mode, and its training data.

    Attributes:
        network: the network that was evaluated.
        kind: `classify` or `segment`.
        task: `ncc`, `segment` or `dxc`.
        classes: meaning of its outputs.
        size: edges of the cubes in voxels, (x, y, z), or of the images in pixels, (x, y).
        window: range of voxel values that is mapped to [0, 1].
        ends: the scan's own values that were mapped to that window (`scans.mapping`); None for HU.
        parameters: parameters of the run.
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
    """The folder of one fine-tuning run, locked by this process. Made by `run_folder.hold_run`."""

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
        """Return all paths that a run may leave in its folder."""
        return [self.result, *super().files()]

    def outcome(self, status: str) -> FinetuneOutcome | None:
        """Return the outcome in `result.json`; None before the run has finished, `DataError` if damaged."""
        names = {field.name for field in fields(FinetuneOutcome)}.difference(_CALLED)
        try:
            result = json.loads(self.result.read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, OSError):
            raise DataError(f"{self.result} is damaged: use --overwrite to start the run again.") from None
        ours = isinstance(result, dict) and (result.get("format"), result.get("version")) == (RESULT, VERSION)
        if not ours or not result.keys() >= names:
            raise DataError(
                f"{self.result} was written by another version of genesis-toolkit: use that "
                "version, or --overwrite to start again."
            )
        return FinetuneOutcome(str(self.folder), status, **{name: result[name] for name in names})

    def finish(self, outcome: FinetuneOutcome) -> None:
        """Write the outcome of the run. The same run gives the same bytes, whatever its folder."""
        result = {name: value for name, value in asdict(outcome).items() if name not in _CALLED}
        text = json.dumps({"format": RESULT, "version": VERSION, **result}, indent=1, allow_nan=False)
        write_whole(self.result, f"{text}\n".encode())

    def save(self, state: TrainingState, *, kept: bool) -> None:
        """Save the state of the run; a network that is kept is written before the checkpoint."""
        content = state.content({})
        file = {name: content[name] for name in (*POSITION, "state_dict")}
        if kept:
            write_whole(self.best, checkpoint_bytes(FINETUNED, file))
        file |= {name: content[name] for name in ("optimizer_state_dict", "scaler_state_dict")}
        write_whole(self.last, checkpoint_bytes(FINETUNED, file))


class _FirstRun(FinetuneRun):
    """The folder of a run of the first version, which can be read but not resumed."""

    version: ClassVar[int] = 1


def read_finetuned(run: Path) -> Finetuned:
    """Read the network of a finished fine-tuning run.

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
        raise CallError(f"{run} is not finished: repeat the command that started the run to finish it.")
    trained = {name: value for name, value in described["parameters"].items() if name not in _OF_NETWORK}
    parameters = FinetuneParameters.from_dict({**trained, **older})
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
