"""Pre-training: degraded cubes in, restored cubes out, mean squared error (METHOD.md section 4).

The loop is `_train` with `_train_epoch`. Nothing in it is random: the first weights depend on the seed, the
order and the degradations on (seed, epoch), so a run that was killed goes on from its last finished epoch as
if nothing had happened.
"""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter

from torch.nn import functional

from pipeline import __version__
from pipeline.engine import Report, silent
from pipeline.errors import DataError
from pipeline.ledger import write_whole
from training.batches import Batches, Work, normalise
from training.checkpoints import TrainingState, new_state, pack, read_checkpoint, restore
from training.data import PretrainData, open_data
from training.devices import choose_device, steady
from training.parameters import PretrainParameters
from training.pictures import draw_restored
from training.runs import EpochRecord, Run, check_same, hold_run
from training.validation import Baselines, Validation, mean_original, measure_baselines, validate

# Batches that are looked at for the mean voxel, from which the network starts.
_FIRST_LOOK = 64

#: Told in sentences what a person should know: an epoch's figures, a warning.
Say = Callable[[str], None]


@dataclass(frozen=True)
class PretrainOutcome:
    """What a call of `pretrain` came to. Losses are mean squared errors of values in [0, 1].

    Attributes:
        run: the folder.
        status: `finished`, or `already finished` when there was nothing left to do.
        stopped_by: `epochs` or `patience`.
        epochs: finished ones.
        best_epoch: counted from 1.
        validation_loss: of the best epoch.
        copy_loss: of taking the degraded cube for its restoration.
        constant_loss: of the best single value.
        train_cubes: how many cubes trained.
        validation_cubes: how many validated.
        split: the rule that told them apart.
        warning: what to keep in mind about the figures; None where there is nothing.
        weights: parameters of the network, counted.
        checkpoint: the best one.
        losses: the file with every epoch's losses.
        picture: restored validation cubes.
    """

    run: str
    status: str
    stopped_by: str
    epochs: int
    best_epoch: int
    validation_loss: float
    copy_loss: float
    constant_loss: float
    train_cubes: int
    validation_cubes: int
    split: str
    warning: str | None
    weights: int
    checkpoint: str
    losses: str
    picture: str


def pretrain(
    store: str | Path,
    out: Path,
    parameters: PretrainParameters | None = None,
    *,
    device: str = "auto",
    overwrite: bool = False,
    report: Report = silent,
    say: Say = lambda _: None,
) -> PretrainOutcome:
    """Train a 3D U-Net to restore degraded cubes, or go on with a run that was begun.

    Args:
        store: a pair store, or a cube store, whose cubes are then degraded on the fly.
        out: the folder of the run. A run that is there goes on; one that is finished is left as it is, unless
            `epochs` or `patience` ask for more.
        parameters: of the run; the published ones when left out.
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        overwrite: begin again where a run is.
        report: told (what, done, total) after every step.
        say: told one sentence an epoch, and warnings.

    Raises:
        CallError: the store, the run folder or a parameter does not fit; the sentence says what to change.
        DataError: a cube or a checkpoint cannot be read, or the loss is no number any more.
        KeyboardInterrupt: when interrupted; the last finished epoch is on the disk.
    """
    parameters = parameters or PretrainParameters()
    where = choose_device(device)
    data = open_data(store, parameters)
    description = {
        "genesis_toolkit": __version__,
        "parameters": parameters.as_dict(),
        **data.describe(),
    }
    with hold_run(out) as run, steady():
        if overwrite:
            run.clear()
        begun = run.described()
        state = new_state(parameters, where)
        if begun is not None:
            check_same(run, begun, description)
            if run.last.exists():
                restore(state, read_checkpoint(run.last), run.last)
            elif run.epochs_told() > 1:  # the first may be told and its checkpoint not yet written
                raise DataError(
                    f"{run.last}, from which the run would go on, is gone: give --overwrite to begin again."
                )
        if data.split.warning:
            say(f"Warning: {data.split.warning}")
        finished = stopped_by(state, parameters) is not None
        if state.epoch and not finished:
            say(f"Continuing after epoch {state.epoch}.")
        batches = data.batches(pin=where.type == "cuda")
        if begun is not None:
            baselines = Baselines(**begun["baselines"])
        else:
            tick = _counter(report, "before epoch 1: ", len(data.validation))
            baselines = measure_baselines(batches, data.validation, tick)
        if not state.epoch:
            state.model.out_tr.start_at(mean_original(batches, data.training(0)[:_FIRST_LOOK]))
        if not finished:
            run.begin({**description, "baselines": asdict(baselines)}, state.epoch)
            _train(run, state, data, batches, baselines, report, say)
        return _outcome(run, state, data, baselines, "already finished" if finished else "finished")


def stopped_by(state: TrainingState, parameters: PretrainParameters) -> str | None:
    """The rule by which a run stops where it is, `epochs` or `patience`; None while it goes on."""
    if state.epoch >= parameters.epochs:
        return "epochs"
    if state.stale >= parameters.patience:
        return "patience"
    return None


def _train(
    run: Run,
    state: TrainingState,
    data: PretrainData,
    batches: Batches,
    baselines: Baselines,
    report: Report,
    say: Say,
) -> None:
    """Epoch after epoch until a rule of stopping holds; after each, all it takes to go on is on the disk."""
    while not stopped_by(state, data.parameters):
        works = data.training(state.epoch)
        lr = float(state.schedule.get_last_lr()[0])
        tick = _counter(report, f"epoch {state.epoch + 1}: ", len(works) + len(data.validation))
        begun = perf_counter()
        try:
            train_loss = _train_epoch(state, batches, works, tick)
            trained = perf_counter()
            validation = validate(state.model, batches, data.validation, tick)
            _check_finite(validation.loss, "in validation")
        except FloatingPointError as error:
            raise DataError(_no_number(run, state, lr, str(error))) from None
        best = state.finish_epoch(validation.loss)
        record = EpochRecord(
            epoch=state.epoch,
            variant=works[0].variant,
            lr=lr,
            train_loss=train_loss,
            validation_loss=validation.loss,
            copy_loss=baselines.copy,
            constant_loss=baselines.constant,
            best=best,
            seconds=round(perf_counter() - begun, 3),
            cubes_per_second=round(len(data.split.train) / (trained - begun), 3),
        )
        run.append(record)
        checkpoint = pack(state, data.parameters)
        if best:
            write_whole(run.best, checkpoint)
            title = f"epoch {state.epoch}, validation loss {validation.loss:.4f}"
            draw_restored(run.picture, validation.slices, title)
        write_whole(run.last, checkpoint)
        say(str(record))
        if validation.collapsed(baselines):
            say(_collapse(validation, lr))


def _train_epoch(
    state: TrainingState, batches: Batches, works: list[Work], tick: Callable[[str], None]
) -> float:
    """One pass over the training cubes; their mean loss, each as it was when its batch came.

    Raises:
        FloatingPointError: the loss is no finite number; that step has not touched the weights.
    """
    state.model.train()
    window = batches.feed.window
    total, seen = 0.0, 0
    with closing(batches.stream(works)) as stream:
        for step, batch in enumerate(stream, start=1):
            original = normalise(batch.original.to(state.device), window)
            degraded = normalise(batch.degraded.to(state.device), window)
            loss = functional.mse_loss(state.model(degraded), original)
            value = loss.item()
            _check_finite(value, f"in step {step}")
            state.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it without types
            state.optimiser.step()
            total += value * len(batch)
            seen += len(batch)
            tick(f"training, loss {total / seen:.4f}")
    return total / seen


def _outcome(
    run: Run, state: TrainingState, data: PretrainData, baselines: Baselines, status: str
) -> PretrainOutcome:
    return PretrainOutcome(
        run=str(run.folder),
        status=status,
        stopped_by=stopped_by(state, data.parameters) or "",
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        validation_loss=state.best_loss,
        copy_loss=baselines.copy,
        constant_loss=baselines.constant,
        train_cubes=len(data.split.train),
        validation_cubes=len(data.split.validation),
        split=data.split.rule,
        warning=data.split.warning,
        weights=sum(weights.numel() for weights in state.model.parameters()),
        checkpoint=str(run.best),
        losses=str(run.losses),
        picture=str(run.picture),
    )


def _counter(report: Report, prefix: str, total: int) -> Callable[[str], None]:
    done = 0

    def tick(what: str) -> None:
        nonlocal done
        done += 1
        report(prefix + what, done, total)

    return tick


def _check_finite(loss: float, place: str) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(place)


def _no_number(run: Run, state: TrainingState, lr: float, place: str) -> str:
    kept = f"{run.last} keeps epoch {state.epoch}" if state.epoch else "there is no checkpoint yet"
    return (
        f"The loss is no number any more in epoch {state.epoch + 1}, {place}; {kept}. Begin again with a "
        f"lower learning rate, such as --lr {lr / 10:g}, and another --out or --overwrite."
    )


def _collapse(validation: Validation, lr: float) -> str:
    return (
        "Warning: the network gives nearly one value whatever it sees (standard deviation "
        f"{validation.spread:.4f}), no better than the best constant. If the next epochs do not change that, "
        f"begin again with a lower learning rate, such as --lr {lr / 10:g}."
    )
