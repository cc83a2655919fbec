"""From the call to the loop: store, network, what an earlier call left; and what came of it.

Nothing in a run is random: the labelled scans and the first weights depend on the seed, the order on
(seed, epoch). So a run that was killed goes on from its last finished epoch as if nothing had happened.
"""

from contextlib import ExitStack
from pathlib import Path

import torch
from torch.amp import GradScaler

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import AnyPath
from genesis_toolkit.pipeline.progress import Progress, TrainingBars, callback, shows
from genesis_toolkit.pipeline.store.open import open_targets
from genesis_toolkit.training.finetune.data import TargetBatches, TargetData, check_foreground, target_data
from genesis_toolkit.training.finetune.heads import build_target_network
from genesis_toolkit.training.finetune.loop import FineTuner
from genesis_toolkit.training.finetune.parameters import SCORES, FinetuneParameters
from genesis_toolkit.training.finetune.run import FinetuneOutcome, FinetuneRun, describe_finetuning
from genesis_toolkit.training.machine.devices import choose_device, steady
from genesis_toolkit.training.machine.run_folder import check_same, hold_run
from genesis_toolkit.training.machine.steps import Say, stop_on_signals
from genesis_toolkit.training.networks.registry import OF_THE_PAPERS, check_batch
from genesis_toolkit.training.weights.beginning import Beginning, read_beginning
from genesis_toolkit.training.weights.files import FINETUNED, TrainingState, read_checkpoint


@shows(TrainingBars)
def finetune(
    targets: AnyPath,
    out: AnyPath,
    parameters: FinetuneParameters | None = None,
    *,
    weights: AnyPath | None = None,
    network: str | None = None,
    width: int | None = None,
    beginning: Beginning | None = None,
    device: str = "auto",
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | bool = False,
    say: Say = lambda _: None,
) -> FinetuneOutcome:
    """Fine-tune a network on a target task and evaluate it on the test fold, or go on with what was begun.

    Args:
        targets: a target store, of cubes or images; it tells the task.
        out: the folder of the run. A run that is there goes on; one that is finished is left as it is.
        parameters: of the run; the defaults when left out.
        weights: to begin with, as `beginning.read_beginning` takes them; None: from scratch.
        network: of scratch: `unet3d` for cubes and `unet2d` for images when left out.
        width: of scratch: channels of the first convolution, the published ones when left out.
        beginning: in place of these three, what was read before.
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.
        threads: of torch on the CPU; None takes as many as there are cores. Another number, other rounding.
        overwrite: begin again where a run is.
        progress: True shows bars on stderr; a callback is told as the work goes on.
        say: told one sentence an epoch, and warnings.

    Raises:
        CallError: the store, the run folder, the weights or a parameter does not fit; the sentence says what
            to change.
        DataError: a fold lacks cubes or one kind of label, a cube or a checkpoint cannot be read, or the loss
            is no number any more.
        KeyboardInterrupt: when interrupted, by Ctrl-C or SIGTERM. All finished epochs are on the disk.
    """
    report, out = callback(progress), Path(out)
    weights = Path(weights) if weights is not None else None
    store = open_targets(targets)
    if beginning is None:
        scratch = OF_THE_PAPERS[len(store.size)] if weights is None else None
        beginning = read_beginning(weights, network or scratch, width)
    elif (weights, network, width) != (None, None, None):
        raise CallError("A beginning was given, and weights, network or width beside it: give one of both.")
    data = target_data(store, parameters or FinetuneParameters())
    with ExitStack() as stack:
        stack.enter_context(steady(threads=threads))
        run = stack.enter_context(hold_run(out, FinetuneRun))
        described = describe_finetuning(data.parameters, beginning, data.describe())
        if overwrite:
            run.clear()
        earlier = run.described()
        if earlier is not None:
            check_same(run, earlier, described, (), "weights")
        done = run.outcome("already finished")
        if done is not None:
            read_checkpoint(run.best, FINETUNED)  # what a finished run is for
            return done
        state = new_state(beginning, data, choose_device(device))
        batches = TargetBatches(data, pin=state.device.type == "cuda")
        check_foreground(batches, data)
        warnings = _warnings(beginning, data)
        for warning in warnings:
            say(f"Warning: {warning}")
        if earlier is not None and run.last.exists():
            state.restore(read_checkpoint(run.last, FINETUNED), run.last)
            if state.best_epoch:
                read_checkpoint(run.best, FINETUNED)
            say(f"Continuing after epoch {state.epoch}.")
        run.begin(described, state.epoch)
        stop = stack.enter_context(stop_on_signals())
        tuner = FineTuner(run, state, data, batches, stop, report, say)
        tuner.train()
        metrics, notes = tuner.evaluate()
        outcome = _outcome(tuner, beginning, metrics, [*warnings, *notes])
        run.finish(outcome)
        return outcome


def new_state(beginning: Beginning, data: TargetData, device: torch.device) -> TrainingState:
    """Return the network with its first weights, which depend on the seed and not on the device, and Adam.

    Raises:
        CallError: the network cannot take the store's cubes.
        DataError: the weights do not fit.
    """
    store, given = data.store, data.parameters
    classes, axes = len(store.classes), len(store.size)
    network = build_target_network(beginning, data.kind, classes, axes, given.seed)
    network.check_size(store.size)
    check_batch(beginning.network, store.size, min(data.sizes))
    if given.freeze_encoder:
        network.freeze_encoder()
    if device.type == "cpu":  # there a step takes 0.7 of the time (`pretrain.state.new_state`)
        network.to(memory_format=network.memory_format)  # type: ignore[call-overload] # torch leaves it out
    network.to(device)
    learnt = [one for one in network.parameters() if one.requires_grad]
    return TrainingState(network, torch.optim.Adam(learnt, lr=given.lr), GradScaler(enabled=False))


def _outcome(
    tuner: FineTuner, beginning: Beginning, metrics: dict[str, float | None], notes: list[str]
) -> FinetuneOutcome:
    """Return what a finished run came to."""
    state, data = tuner.state, tuner.data
    name = SCORES[data.store.task]
    score = metrics[name]
    assert score is not None  # `target_data` and `check_foreground` have seen to it
    return FinetuneOutcome(
        run=str(tuner.run.folder),
        status="finished",
        task=data.store.task,
        kind=data.kind,
        metric=name,
        score=score,
        metrics=metrics,
        notes=notes,
        stopped_by=tuner.stopped_by,
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        validation_loss=state.best_loss,
        train_scans=data.train_scans,
        train_cubes=len(data.train),
        validation_cubes=sum(map(len, data.validation)),
        test_cubes=sum(map(len, data.test)),
        network=beginning.network,
        width=beginning.width,
        weights=sum(weights.numel() for weights in state.model.parameters()),
        beginning=beginning.describe(),
    )


def _warnings(beginning: Beginning, data: TargetData) -> list[str]:
    """What to keep in mind from the start; a sentence each."""
    window = data.store.window
    if beginning.window in (None, (window.low, window.high)):
        return []
    low, high = beginning.window or (0, 0)
    return [
        f"the weights were trained on values from {low} to {high}, and the store's run from {window.low} to "
        f"{window.high}: both become [0, 1], so one and the same value looks different to the network."
    ]
