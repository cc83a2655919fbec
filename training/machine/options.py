"""The parameters of both trainers: how they are written as options, and the checks that they share."""

from typing import Any

from genesis_toolkit.pipeline.errors import CallError

_MOST_LR = 1e30  # beyond, a step is no float32 any more
_MOST = {"batch_size": 4096, "width": 512, "warmup": 10**9}


def option(name: str) -> str:
    """Return a parameter as it is written on the command line: `batch_size` is `--batch-size`."""
    return "--" + name.replace("_", "-")


def check_counts(parameters: Any, *names: str, least: int = 1) -> None:
    """Check that whole numbers, or None, are not below `least`, nor beyond what can be computed with.

    Raises:
        CallError: a number is out of range; the sentence names it.
    """
    for name in names:
        value, most = getattr(parameters, name), _MOST.get(name)
        if value is None:
            continue
        if value < least:
            raise CallError(f"{option(name)} {value} is out of range: it must be at least {least}.")
        if most is not None and value > most:
            raise CallError(f"{option(name)} {value} is out of range: at most {most}.")


def check_lr(lr: float, example: str) -> None:
    """Refuse a learning rate that is not above 0, or with which no step could be computed."""
    if not 0 < lr <= _MOST_LR:  # which nan is not either
        raise CallError(
            f"--lr {lr:g} is out of range: it must be above 0 and at most {_MOST_LR:g}, as in --lr {example}."
        )


def check_seed(seed: int) -> None:
    """Refuse a seed that does not fit the random streams."""
    if not 0 <= seed < 2**63:
        raise CallError(f"--seed {seed} is out of range: it must be a whole number from 0 to 2^63 - 1.")
