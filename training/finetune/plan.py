"""A dry run: describe a fine-tuning run without starting it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genesis_toolkit.pipeline.ledger import AnyPath
from genesis_toolkit.pipeline.store.open import open_targets
from genesis_toolkit.training.finetune.data import target_data
from genesis_toolkit.training.finetune.loop import describe_run, new_state
from genesis_toolkit.training.finetune.parameters import FinetuneParameters
from genesis_toolkit.training.finetune.run import FinetuneRun
from genesis_toolkit.training.machine.devices import choose_device, device_words, steady
from genesis_toolkit.training.machine.memory import FLOAT, batch_bytes, weights_of
from genesis_toolkit.training.machine.run_folder import check_folder, check_same
from genesis_toolkit.training.networks.registry import OF_THE_PAPERS
from genesis_toolkit.training.weights.load import read_beginning

_KEPT = 4  # numbers per weight: itself, its gradient and the two of Adam


@dataclass(frozen=True)
class FinetunePlan:
    """Description of what a call of `finetune` would do.

    Attributes:
        run: the run folder.
        status: `new`, `continues after epoch 3` or `already finished`.
        device: the device in words.
        task, kind: those of the store.
        network, width, weights: its name, channels of the first convolution, number of parameters.
        beginning: initial weights (`Beginning.describe`).
        parameters: those of the run, by name.
        steps: steps per epoch.
        train_scans, train_cubes, validation_cubes, test_cubes: see `FinetuneOutcome`.
        model_bytes: memory for weights, gradients and Adam's two averages, at most: frozen ones need none.
        batch_bytes: memory kept from the largest batch until its backward pass, in float32.
        files: files that the run would write.
    """

    run: str
    status: str
    device: str
    task: str
    kind: str
    network: str
    width: int
    weights: int
    beginning: dict[str, Any]
    parameters: dict[str, Any]
    steps: int
    train_scans: int
    train_cubes: int
    validation_cubes: int
    test_cubes: int
    model_bytes: int
    batch_bytes: int
    files: list[str]


def plan_finetuning(
    targets: AnyPath,
    out: AnyPath,
    parameters: FinetuneParameters,
    *,
    weights: AnyPath | None = None,
    network: str | None = None,
    width: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> FinetunePlan:
    """Describe what `finetune` would do with the same arguments, without writing anything.

    Raises:
        CallError, DataError: the errors `finetune` would raise before its first step.
    """
    run = FinetuneRun(Path(out))
    check_folder(run)
    store = open_targets(targets)
    scratch = OF_THE_PAPERS[len(store.size)] if weights is None else None
    beginning = read_beginning(Path(weights) if weights is not None else None, network or scratch, width)
    data = target_data(store, parameters)
    status, earlier = "new", None if overwrite else run.described()
    if earlier is not None:
        check_same(run, earlier, describe_run(data, beginning), (), "weights")
        done = run.outcome("already finished")
        status = done.status if done else f"continues after epoch {len(run.lines())}"
    with steady():
        where = device_words(choose_device(device))
    state, described = new_state(beginning, data, torch.device("cpu")), data.describe()
    same = ("task", "kind", "train_scans", "train_cubes", "validation_cubes", "test_cubes")
    written = (run.best, run.last, run.losses, run.description, run.result)
    return FinetunePlan(
        run=str(run.folder),
        status=status,
        device=where,
        network=beginning.network,
        width=beginning.width,
        weights=weights_of(state.model),
        beginning=beginning.describe(),
        parameters=data.parameters.as_dict(),
        steps=len(data.training(0)),
        model_bytes=_KEPT * FLOAT * weights_of(state.model),
        batch_bytes=batch_bytes(state.model, (max(data.sizes), 1, *store.size)),
        files=[path.name for path in written],
        **{name: described[name] for name in same},
    )
