"""What a call of `pretrain` came to, and by which rule a run stops."""

from dataclasses import asdict, dataclass

from genesis_toolkit.training.machine.run_folder import Run
from genesis_toolkit.training.pretrain.data import PretrainData
from genesis_toolkit.training.pretrain.validation import Baselines
from genesis_toolkit.training.weights.files import TrainingState


@dataclass(frozen=True)
class PretrainOutcome:
    """What a call of `pretrain` came to. Losses are mean squared errors of values in [0, 1].

    Attributes:
        run: the folder.
        status: `finished`, or `already finished` when there was nothing left to do.
        stopped_by: `epochs`, `patience` or `max_steps`.
        epochs: finished ones.
        best_epoch: counted from 1.
        validation_loss: of the best epoch.
        copy_loss: of taking the degraded cube for its restoration.
        mean_image_loss: of the mean of training originals, voxel by voxel.
        by_degradation: of every combination of degradations that occurs: `pairs`, and the `loss` of the best
            epoch beside `copy` and `mean_image`.
        train_cubes: how many cubes trained.
        validation_cubes: how many validated.
        split: the rule that told them apart.
        warning: what to keep in mind about the figures; None where there is nothing.
        network: its name.
        weights: its parameters, counted.
        checkpoint: the best one.
        losses: the file with every epoch's losses.
        picture: restored validation cubes.
    """

    run: str
    status: str
    stopped_by: str
    epochs: int
    best_epoch: int
    validation_loss: float
    copy_loss: float
    mean_image_loss: float
    by_degradation: dict[str, dict[str, float]]
    train_cubes: int
    validation_cubes: int
    split: str
    warning: str | None
    network: str
    weights: int
    checkpoint: str
    losses: str
    picture: str


def stopped_by(state: TrainingState, data: PretrainData) -> str | None:
    """The rule by which a run stops where it is: `epochs`, `patience`, `max_steps`; None while it goes on."""
    parameters = data.parameters
    if state.step:
        return None
    if parameters.max_steps is not None and state.epoch * data.steps >= parameters.max_steps:
        return "max_steps"
    if state.epoch >= parameters.epochs:
        return "epochs"
    if state.stale >= parameters.patience:
        return "patience"
    return None


def outcome_of(
    run: Run, state: TrainingState, data: PretrainData, baselines: Baselines, status: str
) -> PretrainOutcome:
    """What a run has come to, read from its state and its losses."""
    losses = run.record_of(state.best_epoch)["by_degradation"] if state.best_epoch else {}
    return PretrainOutcome(
        run=str(run.folder),
        status=status,
        stopped_by=stopped_by(state, data) or "",
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        validation_loss=state.best_loss,
        copy_loss=baselines.copy,
        mean_image_loss=baselines.mean_image,
        by_degradation={
            name: {**asdict(baselines.by_degradation[name]), "loss": loss} for name, loss in losses.items()
        },
        train_cubes=len(data.split.train),
        validation_cubes=len(data.split.validation),
        split=data.split.rule,
        warning=data.split.warning,
        network=data.network.name,
        weights=sum(weights.numel() for weights in state.model.parameters()),
        checkpoint=str(run.best),
        losses=str(run.losses),
        picture=str(run.picture),
    )
