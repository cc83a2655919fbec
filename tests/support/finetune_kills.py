"""A program that has a fine-tuning run killed again and again, each time in a process of its own.

    cd tests; python -m support.finetune_kills STORE FOLDER SEED KILLS

Prints the exit codes, and how many epochs were on the disk after each kill, as JSON; `FOLDER/whole` is a run
that nobody kills, `FOLDER/killed` the other one.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as genesis-train does, before torch is loaded

from support.spawned import spawned
from support.training_runs import position

from genesis_toolkit.training.finetune.loop import finetune
from genesis_toolkit.training.finetune.parameters import FinetuneParameters

RUN = FinetuneParameters(epochs=5, batch_size=4, lr=0.01, select="best")  # 6 steps an epoch, and a checkpoint


def work(store: Path, folder: Path, step: Callable[[], None]) -> None:
    """Fine-tune, in a process of its own."""
    finetune(store, folder, RUN, width=2, threads=1, progress=lambda *_: step())


def main() -> None:
    store, folder, seed, kills = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    draw = random.Random(seed)
    codes = [spawned(work, store, folder / "whole", None)]
    epochs = []
    for _ in range(kills):
        codes.append(spawned(work, store, folder / "killed", (draw.randint(7, 10), draw.uniform(0, 0.05))))
        epochs.append(position(folder / "killed")[0])
    codes.append(spawned(work, store, folder / "killed", None))
    sys.stdout.write(json.dumps([codes, epochs]))


if __name__ == "__main__":
    main()
