"""Tasks for worker processes, which import them by name."""

import os
import signal
import time
from pathlib import Path

import numpy as np

from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import get_recipe
from genesis_toolkit.pipeline.ledger import sha256_of
from genesis_toolkit.pipeline.store.open import open_cubes


def square(number: int) -> tuple[int, int]:
    return number, number * number


def process_of(_: int) -> int:
    time.sleep(1)
    return os.getpid()


def fail_at_3(number: int) -> int:
    if number == 3:
        raise ValueError("three")
    return number


def die_at_3(number: int) -> tuple[int, int]:
    """As a segmentation fault or the kernel's out-of-memory killer would have it."""
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number, number * number


def nap(seconds: float) -> None:
    time.sleep(seconds)


def degraded_pair(task: tuple[Path, int]) -> tuple[int, str]:
    """Degrade one pair of a store, in whatever process this runs."""
    path, pair = task
    store = open_cubes(path)
    variant, cube = divmod(pair, len(store))
    original, out = np.empty((2, 1, *store.size), store.cubes.dtype)
    store.cubes.read(cube, original[0])
    bits = np.empty(1, np.uint8)
    degrader = Degrader(get_recipe("genesis"), (16, 16, 16), store.window, 0)
    degrader(original, store.streams()[[cube]], store.table.number[[cube]], variant, out, bits, bits.copy())
    return pair, sha256_of(out.tobytes())
