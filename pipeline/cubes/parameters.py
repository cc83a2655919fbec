"""What to cut, one record for CT scans and one for X-ray images, and the way back from a store's JSON.

See METHOD.md sections 2 and 5 for the published values.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from genesis_toolkit.pipeline.cubes.official import OFFICIAL_SEED
from genesis_toolkit.pipeline.cubes.rule import CubeRule, Plane, Triple
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Ends, GreyLevels, HounsfieldValues
from genesis_toolkit.pipeline.rng import checked_seed
from genesis_toolkit.pipeline.scans.find import IMAGE_LAYOUTS, Found, ImageLayout, Layout, find_scans
from genesis_toolkit.pipeline.scans.geometry import check_orientation, check_spacing
from genesis_toolkit.pipeline.scans.image_folder import find_image_folder
from genesis_toolkit.pipeline.scans.mapping import checked_ends
from genesis_toolkit.pipeline.scans.nih import Split, check_split, find_images

_MOST_CUBES = _MOST_CROPS = 10_000
_MOST_EDGE = 4096


@dataclass(frozen=True)
class ExtractParameters(HounsfieldValues):
    """What is cut, from where (METHOD.md section 2; the published values as defaults).

    Attributes:
        layout: of the source; `auto` looks.
        subsets: of LUNA16; None takes those for pre-training, 0-6.
        cubes_per_scan: how many corners are drawn in a scan.
        size: edges of a cube in voxels, x, y, z; or the two of a patch of a slice.
        plane: of the slices; None takes axial where `size` has two edges. Cubes have none.
        hu: the HU window, lowest and highest value kept.
        window: for scans without HU, as of MR: two ends, numbers or percentiles of a scan's non-zero
            voxels such as `p99.5`, between which its own values are mapped to -1000 .. 1000; `hu` stays.
        border: voxels in x, y, z that no cube may touch, on either side.
        max_tissue: a cube is refused when its tissue score exceeds this share of its voxels; None takes 0.15,
            as published, of patches 0.7, in which air counts like tissue; with `window` 1, no bound.
        min_tissue: a cube is refused when its tissue score is below this share; the published rule has none.
            Patches have none.
        sampler: `uniform` draws among the corners that pass; `official` replays the authors' generator, for
            cubes alone.
        seed: of the corners; None takes 0, or 1 with the official sampler, as the authors did.
        spacing: mm in x, y, z to resample every scan to; None keeps its own.
        orient: axes to turn every scan to, such as LPS; None keeps its own.

    Raises:
        CallError: a value out of range.
    """

    layout: Layout = "auto"
    subsets: tuple[int, ...] | None = None
    cubes_per_scan: int = 32
    size: tuple[int, ...] = (64, 64, 32)
    plane: Plane | None = None
    hu: tuple[int, int] = (-1000, 1000)
    window: Ends | None = None
    border: Triple = (100, 100, 30)
    max_tissue: float | None = None
    min_tissue: float = 0.0
    sampler: Literal["uniform", "official"] = "uniform"
    seed: int | None = None
    spacing: tuple[float, float, float] | None = None
    orient: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.cubes_per_scan <= _MOST_CUBES:
            found = f"--cubes-per-scan {self.cubes_per_scan}"
            raise CallError(f"{found}: a number from 1 to {_MOST_CUBES}, as in 32.")
        object.__setattr__(self, "seed", self.first_seed)
        checked_seed(self.first_seed)
        if self.spacing is not None:
            check_spacing(self.spacing)
        if self.orient is not None:
            object.__setattr__(self, "orient", check_orientation(self.orient))
        self.check_window(checked_ends)
        if self.mr and self.max_tissue is None:
            object.__setattr__(self, "max_tissue", 1.0)
        rule = self.rule
        object.__setattr__(self, "plane", rule.plane)
        object.__setattr__(self, "max_tissue", rule.max_tissue)
        if rule.plane and self.sampler == "official":
            raise CallError(
                "--sampler official replays the authors' draws of cubes, and they released no program for "
                "slices: leave --sampler out, or give three edges, as in --size 64,64,32."
            )

    @property
    def first_seed(self) -> int:
        """The seed, with the sampler's own where none was given."""
        own = OFFICIAL_SEED if self.sampler == "official" else 0
        return own if self.seed is None else self.seed

    @property
    def rule(self) -> CubeRule:
        """Where cubes may lie."""
        return CubeRule(self.size, self.border, self.max_tissue, self.min_tissue, self.plane)

    @property
    def box(self) -> Triple:
        """What is cut out of the scan, edges in x, y, z: of a patch 1 across its plane."""
        return self.rule.box


@dataclass(frozen=True)
class ImageParameters(GreyLevels):
    """What is taken of X-ray images.

    Attributes:
        layout: of the source: `nih` for NIH ChestX-ray14, or `images` for any folder of PNG, JPEG and DICOM
            of CR and DX.
        split: the official list of NIH that is taken, `train_val` where None is given; `all` looks at no
            list. Of `images` there are none.
        size: edges of a cube in pixels, x, y.
        cubes_per_scan: how many random crops of that size are cut out of an image as it is; None takes the
            whole image, resized by area averaging.
        seed: of the crops; the whole image needs none.

    Raises:
        CallError: a value out of range.
    """

    layout: ImageLayout = "nih"
    split: Split | None = None
    size: tuple[int, int] = (224, 224)
    cubes_per_scan: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layout not in IMAGE_LAYOUTS:
            raise CallError(
                f"--layout {self.layout}: X-ray images are laid out as {' or '.join(IMAGE_LAYOUTS)}."
            )
        if self.layout == "nih":
            object.__setattr__(self, "split", self.split or "train_val")
            check_split(str(self.split))
        elif self.split is not None:
            raise CallError(
                f"--split {self.split} chooses among the lists of NIH ChestX-ray14, and --layout images has "
                "none: leave it out, or deal the images with --split-file."
            )
        if len(self.size) != 2 or not all(1 <= edge <= _MOST_EDGE for edge in self.size):
            raise CallError(
                f"--size {','.join(map(str, self.size))}: an image needs two edges x,y from 1 to "
                f"{_MOST_EDGE}, as in --size 224,224."
            )
        if self.cubes_per_scan is not None and not 1 <= self.cubes_per_scan <= _MOST_CROPS:
            raise CallError(
                f"--cubes-per-scan {self.cubes_per_scan}: a number of crops from 1 to {_MOST_CROPS}, or "
                "leave it out for the whole image."
            )
        checked_seed(self.seed)


Parameters = ExtractParameters | ImageParameters


def find_sources(source: Path | str, parameters: Parameters) -> Found:
    """Find what is to be cut with these parameters.

    Raises:
        CallError: as `find_scans` and `find_images`.
        DataError: a table of the images is damaged.
    """
    if isinstance(parameters, ImageParameters):
        if parameters.layout == "images":
            return find_image_folder(source)
        return find_images(source, parameters.split or "train_val")
    return find_scans(source, parameters.layout, parameters.subsets, mr=parameters.mr)


def extraction(made: Mapping[str, Any]) -> Parameters:
    """How cubes were cut from scans or images, as the parameters of a cube store, any JSON, tell it.

    Raises:
        ValueError: they are not those of `extract-cubes`.
    """
    kind = ImageParameters if made.get("layout") in IMAGE_LAYOUTS else ExtractParameters
    left_out = ["hu" if "window" in made else "window"]
    left_out += [name for name in ("plane", "split") if name not in made]  # of patches, and of NIH's images
    names = [field.name for field in fields(kind) if field.name not in left_out]
    try:
        values: dict[str, Any] = {n: tuple(v) if isinstance(v := made[n], list) else v for n in names}
        return kind(**values)
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from None
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(str(error)) from None


def maps_values(made: Mapping[str, Any]) -> bool:
    """Whether a store's scans had values that were mapped, so that DICOM of MR is taken; of any JSON."""
    return made.get("window") is not None


def box_of(made: Mapping[str, Any], size: tuple[int, ...]) -> tuple[int, ...] | None:
    """What a cube of this size takes up in its scan, voxels in x, y, z.

    Args:
        made: the parameters of a cube store, any JSON.
        size: the edges of a cube in voxels.

    Returns:
        Of a slice 1 across its plane; of an image that was taken whole, its first pixel. None where that is
        not known.
    """
    if len(size) == 3:
        return size
    with suppress(ValueError):
        found = extraction(made)
        if isinstance(found, ExtractParameters):
            return found.box
        return (*size, 1) if found.cubes_per_scan else (1, 1, 1)
    return None
