"""The three baselines that a network must beat, and how a loss compares with them.

No torch here, so that commands that only read a run start fast.
"""

from dataclasses import dataclass
from typing import Any

from genesis_toolkit.pipeline.errors import DataError


@dataclass(frozen=True)
class GroupBaselines:
    """Validation pairs with one combination of degradations: number and baselines, see `Baselines`."""

    pairs: int
    copy: float
    mean_image: float


@dataclass(frozen=True)
class Baselines:
    """Mean squared errors on the validation pairs that a network must beat, for values in [0, 1].

    Attributes:
        copy: error of the degraded cube itself, taken as the restoration.
        mean_image: error of the mean of training originals, voxel by voxel, returned for every cube.
        constant: error of the best single value for all voxels, the mean of the originals: their variance. A
            collapsed network has this loss. On real CT it can be lower than `mean_image`.
        by_degradation: the first two for every combination of degradations that occurs, by
            `degradation_name`.
    """

    copy: float
    mean_image: float
    constant: float
    by_degradation: dict[str, GroupBaselines]

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> "Baselines":
        """Restore what `dataclasses.asdict` gave; raise `DataError` for anything else."""
        try:
            groups = {name: GroupBaselines(**group) for name, group in described["by_degradation"].items()}
            return cls(**{**described, "by_degradation": groups})
        except (AttributeError, KeyError, TypeError):
            raise DataError(
                "The baselines in run.json are damaged: restore run.json from a copy, or "
                "use --overwrite to start again."
            ) from None

    def named(self) -> dict[str, float]:
        """Return the three by name, the lowest first."""
        each = {"copying": self.copy, "mean image": self.mean_image, "best constant": self.constant}
        return dict(sorted(each.items(), key=lambda one: one[1]))

    def compare(self, loss: float) -> str:
        """Compare a validation loss with the lowest baseline, in words.

        `13 % below the lowest baseline (mean image 0.0136)`.
        """
        name, best = next(iter(self.named().items()))
        side = "below" if loss < best else "above" if loss > best else "equal to"
        percent = 100 * abs(loss / best - 1) if best else 0.0  # 0 if all cubes are equal
        share = f"{percent:.0f} % " if percent >= 0.5 else "slightly " if percent else ""
        return f"{share}{side} the lowest baseline ({name} {best:.4f})"
