"""A program that has a fine-tuning run killed again and again, each time in a process of its own.

    cd tests; python -m support.finetune_kills STORE FOLDER SEED KILLS

Processes are forked, so torch is imported once. Prints the exit codes, and how many epochs were on the disk
after each kill, as JSON; `FOLDER/whole` is a run that nobody kills, `FOLDER/killed` the other one.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as genesis-train does, before torch is loaded

import numpy as np
import torch
from monai.losses import DiceLoss
from support.forked import forked
from support.training_runs import position

from genesis_toolkit.pipeline.hounsfield import Window
from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.finetune.call import finetune
from genesis_toolkit.training.finetune.parameters import FinetuneParameters

RUN = FinetuneParameters(epochs=5, batch_size=4, lr=0.01)  # 6 steps an epoch


def begun(store: Path, folder: Path, kill: tuple[int, float] | None) -> int:
    """The exit code of one process that trains; SIGKILL so many seconds after so many of its steps."""

    def work(folder: Path, step: Callable[[], None]) -> None:
        finetune(store, folder, RUN, width=2, threads=1, report=lambda *_: step())

    return forked(work, folder, kill)


def main() -> None:
    store, folder, seed, kills = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    # What is loaded late is loaded once, before any process is begun.
    normalise(torch.from_numpy(np.zeros((1, 2, 2, 2), np.int16)), Window())
    DiceLoss()
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # loads torch's compiler, for seconds
    draw = random.Random(seed)
    codes = [begun(store, folder / "whole", None)]
    epochs = []
    for _ in range(kills):
        codes.append(begun(store, folder / "killed", (draw.randint(7, 10), draw.uniform(0, 0.05))))
        epochs.append(position(folder / "killed")[0])
    codes.append(begun(store, folder / "killed", None))
    sys.stdout.write(json.dumps([codes, epochs]))


if __name__ == "__main__":
    main()
