"""The names of both trainers' parameters as options, and the checks that the trainers share."""

from typing import Any

from genesis_toolkit.pipeline.errors import CallError

_MOST_LR = 1e30  # above it, a step overflows float32
_MOST = {"batch_size": 4096, "width": 512, "warmup": 10**9}


def option(name: str) -> str:
    """Return a parameter's option on the command line: `--batch-size` for `batch_size`."""
    return "--" + name.replace("_", "-")


def check_counts(parameters: Any, *names: str, least: int = 1) -> None:
    """Check that whole numbers, or None, are between `least` and their upper limit.

    Raises:
        CallError: a number is out of range; the error names it.
    """
    for name in names:
        value, most = getattr(parameters, name), _MOST.get(name)
        if value is None:
            continue
        if value < least:
            raise CallError(f"{option(name)} {value} is out of range: it must be at least {least}.")
        if most is not None and value > most:
            raise CallError(f"{option(name)} {value} is out of range: it must be at most {most}.")


def check_lr(lr: float, example: str) -> None:
    """Check that a learning rate is above 0 and small enough to compute a step."""
    if not 0 < lr <= _MOST_LR:  # also refuses nan
        raise CallError(
            f"--lr {lr:g} is out of range: it must be above 0 and at most {_MOST_LR:g}, such as {example}."
        )


def check_seed(seed: int) -> None:
    """Check that a seed fits the random streams."""
    if not 0 <= seed < 2**63:
        raise CallError(f"--seed {seed} is out of range: it must be a whole number from 0 to 2^63 - 1.")
