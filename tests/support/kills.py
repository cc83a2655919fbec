"""A program that has a run killed again and again, each time begun in a process of its own: see test_resume.

    cd tests; python -m support.kills STORE FOLDER SEED KILLS

Prints the exit codes and the positions that were on the disk after each kill, as JSON; `FOLDER/whole` is a
run that nobody kills, `FOLDER/killed` the other one, and the files of the same names and the suffix `.steps`
have the loss of every step that was taken.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as genesis-train does, before torch is loaded

import torch
from support.spawned import spawned
from support.training_runs import SMALL, position

from genesis_toolkit.training.pretrain.call import pretrain
from genesis_toolkit.training.pretrain.loop import Trainer
from genesis_toolkit.training.pretrain.parameters import Execution

RUN = replace(SMALL, epochs=5)  # 30 steps of 24 training cubes


def noting(path: Path) -> None:
    """Append the loss of every step, before anything is done with it."""
    agree = Trainer._agree

    def told(self: Trainer, loss: torch.Tensor) -> tuple[float, bool]:
        value, stopping = agree(self, loss)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{self.state.epoch} {self.state.step} {value.hex()}\n")
        return value, stopping

    Trainer._agree = told  # type: ignore[method-assign]


def work(store: Path, folder: Path, step: Callable[[], None]) -> None:
    """Train, in a process of its own."""
    noting(folder.with_suffix(".steps"))

    def report(what: str, done: int, total: int) -> None:
        if "training" in what:
            step()

    pretrain(store, folder, RUN, Execution(save_steps=1), report=report)


def main() -> None:
    store, folder, seed, kills = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    draw = random.Random(seed)
    codes = [spawned(work, store, folder / "whole", None)]
    positions = []
    for _ in range(kills):
        codes.append(spawned(work, store, folder / "killed", (draw.randint(1, 2), draw.uniform(0, 0.1))))
        positions.append(position(folder / "killed"))
    codes.append(spawned(work, store, folder / "killed", None))
    sys.stdout.write(json.dumps({"codes": codes, "positions": positions}))


if __name__ == "__main__":
    main()
