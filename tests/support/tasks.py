"""Tasks for worker processes, which import them by name."""

import multiprocessing
import os
import signal
import time
from contextlib import suppress
from multiprocessing.synchronize import Lock
from pathlib import Path

import numpy as np

from genesis_toolkit.pipeline.degrade.compose import Degrader
from genesis_toolkit.pipeline.degrade.recipes import get_recipe
from genesis_toolkit.pipeline.ledger import sha256_of
from genesis_toolkit.pipeline.store.open import open_cubes

_locks: list[Lock] = []


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
    """As a segmentation fault or the kernel's out-of-memory killer would have it, with a lock in hand."""
    if number == 3:
        _locks.append(multiprocessing.Lock())  # as numcodecs and tqdm make one
        os.kill(os.getpid(), signal.SIGKILL)
    return number, number * number


def record_or_die_at_2(number: int) -> dict[str, int]:
    """A record for a ledger; ends its process without a signal."""
    if number == 2:
        os._exit(1)
    return {"square": number * number}


def listening(_: int) -> list[str]:
    """Where this process takes connections, as /proc has it."""
    sockets = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            sockets.add(str(descriptor.readlink()))
    tables = [Path(f"/proc/self/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table]
    return [row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]


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
