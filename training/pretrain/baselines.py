"""What needs no network and must be beaten: three baselines, and how a loss compares with them.

No torch here: a command that only reads a run needs the words, too.
"""

from dataclasses import dataclass
from typing import Any

from genesis_toolkit.pipeline.errors import DataError


@dataclass(frozen=True)
class GroupBaselines:
    """How many validation pairs were degraded in one way, and their baselines, see `Baselines`."""

    pairs: int
    copy: float
    mean_image: float


@dataclass(frozen=True)
class Baselines:
    """Mean squared errors on the validation pairs that a network must beat; values in [0, 1], squared.

    Attributes:
        copy: of the degraded cube itself, taken for its restoration.
        mean_image: of the mean of training originals, voxel by voxel, given for every cube.
        constant: of the best single value for all voxels, the mean of the originals: their variance. A
            network that has collapsed is known by it. On real CT it can be lower than `mean_image`.
        by_degradation: the first two of every combination of degradations that there is, by
            `degradation_name`.
    """

    copy: float
    mean_image: float
    constant: float
    by_degradation: dict[str, GroupBaselines]

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> "Baselines":
        """What `dataclasses.asdict` gave; a `DataError` of anything else."""
        try:
            groups = {name: GroupBaselines(**group) for name, group in described["by_degradation"].items()}
            return cls(**{**described, "by_degradation": groups})
        except (AttributeError, KeyError, TypeError):
            raise DataError(
                "The baselines in run.json are damaged: put a copy of it back, or give --overwrite to begin "
                "again."
            ) from None

    def named(self) -> dict[str, float]:
        """The three by their names for people, the lowest first."""
        each = {"copying": self.copy, "mean image": self.mean_image, "best constant": self.constant}
        return dict(sorted(each.items(), key=lambda one: one[1]))

    def compare(self, loss: float) -> str:
        """Say how a validation loss stands to the lowest baseline.

        `13 % below the lowest baseline (mean image 0.0136)`.
        """
        name, best = next(iter(self.named().items()))
        side = "below" if loss < best else "above" if loss > best else "equal to"
        percent = 100 * abs(loss / best - 1) if best else 0.0  # it is 0 where all cubes are alike
        share = f"{percent:.0f} % " if percent >= 0.5 else "slightly " if percent else ""
        return f"{share}{side} the lowest baseline ({name} {best:.4f})"
