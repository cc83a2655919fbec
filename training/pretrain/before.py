"""What an earlier call of `pretrain` left in the folder of a run: looked at before more is built on it."""

from collections.abc import Mapping
from typing import Any

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.training.machine.run_folder import Run, check_same
from genesis_toolkit.training.pretrain.data import PretrainData
from genesis_toolkit.training.pretrain.validation import Baselines
from genesis_toolkit.training.weights.files import read_checkpoint


def begun_before(
    run: Run, described: Mapping[str, Any], data: PretrainData, overwrite: bool
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Look at what an earlier call left, and see to it that this one may go on from there.

    Args:
        run: the folder, held.
        described: what this call would write of the run.
        data: of this call.
        overwrite: throw away what is there.

    Returns:
        The description and the checkpoint; None where there is none.

    Raises:
        CallError: the run was begun with other parameters, weights or data.
        DataError: a file of it is gone or damaged.
    """
    if overwrite:
        run.clear()
    begun = run.described()
    if begun is None:
        return None, None
    check_same(run, begun, described, data.parameters.stopping_rules)
    if run.last.exists():
        checkpoint = read_checkpoint(run.last)
        if checkpoint["best_epoch"]:
            _check_best(run, begun, checkpoint["best_epoch"])
        return begun, checkpoint
    if run.epochs_told() > 1:  # the first may be told and its checkpoint not yet written
        raise DataError(
            f"{run.last}, from which the run would go on, is gone: give --overwrite to begin again."
        )
    return begun, None


def _check_best(run: Run, begun: Mapping[str, Any], epoch: int) -> None:
    """See to it that what a run has of its best epoch is there, before more is built on it.

    Raises:
        DataError: a file of it is gone or damaged.
    """
    try:
        read_checkpoint(run.best)
    except DataError as error:
        raise DataError(
            f"The network of epoch {epoch}, the best so far, is lost: {error} Put a copy of it back, or give "
            "--overwrite to begin again."
        ) from None
    told = run.record_of(epoch).get("by_degradation")
    if (
        not isinstance(told, dict)
        or not told.keys() <= Baselines.from_json(begun["baselines"]).by_degradation.keys()
    ):
        raise DataError(
            f"{run.description} and {run.losses} tell of other degradations, so one of them is damaged: put "
            "a copy of it back, or give --overwrite to begin again."
        )
