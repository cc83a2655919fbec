"""Extraction parameters, one record for CT scans and one for X-ray images, and their parsing from a store.

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
from genesis_toolkit.pipeline.progress import waited_for
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
    """Extraction parameters for scans (METHOD.md section 2; the published values are the defaults).

    Attributes:
        layout: organisation of the source; `auto` detects it.
        subsets: subsets of LUNA16; None takes those for pre-training, 0-6.
        cubes_per_scan: number of corners drawn per scan.
        size: edges of a cube in voxels, x, y, z; or the two of a patch of a slice.
        plane: plane of the slices; None takes axial if `size` has two edges. Cubes have none.
        hu: the HU window, lowest and highest value kept.
        window: for scans without HU, such as MR: two ends, numbers or percentiles of a scan's non-zero
            voxels such as `p99.5`, that are mapped to -1000 .. 1000; `hu` is then left alone.
        border: voxels in x, y, z on either side that no cube may touch.
        max_tissue: largest tissue score of a cube, as a share of its voxels; None takes 0.15 as published,
            0.7 for patches, in which air counts as tissue, and 1 (no limit) with `window`.
        min_tissue: smallest tissue score of a cube, as a share of its voxels; the published rule has no such
            limit, and patches have none.
        sampler: `uniform` draws among the corners that pass; `official` replays the authors' generator, for
            cubes only.
        seed: random seed for the corners; None takes 0, or 1 with the official sampler, like the authors.
        spacing: mm in x, y, z to resample every scan to; None keeps its own.
        orient: axes to turn every scan to, such as LPS; None keeps its own.

    Raises:
        CallError: a value is out of range.
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
            raise CallError(
                f"{found} is out of range: it must be between 1 and {_MOST_CUBES}; the published value is 32."
            )
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
                "--sampler official repeats the authors' own draws of cubes, and they "
                "released no program for slices: omit --sampler, or give three edges, for "
                "example --size 64,64,32."
            )

    @property
    def first_seed(self) -> int:
        """Return the seed, or the sampler's default."""
        own = OFFICIAL_SEED if self.sampler == "official" else 0
        return own if self.seed is None else self.seed

    @property
    def rule(self) -> CubeRule:
        """Return the rule for positions of cubes."""
        return CubeRule(self.size, self.border, self.max_tissue, self.min_tissue, self.plane)

    @property
    def box(self) -> Triple:
        """Return the edges of the box cut from the scan, in x, y, z: for a patch 1 across its plane."""
        return self.rule.box


@dataclass(frozen=True)
class ImageParameters(GreyLevels):
    """Extraction parameters for X-ray images.

    Attributes:
        layout: organisation of the source: `nih` for NIH ChestX-ray14, or `images` for any folder of PNG,
            JPEG and DICOM of CR and DX.
        split: the official list of NIH to take, by default `train_val`; `all` ignores the lists. `images`
            has no lists.
        size: edges of a cube in pixels, x, y.
        cubes_per_scan: number of random crops of that size cut from the image at full resolution; None takes
            the whole image, resized by area averaging.
        seed: random seed for the crops; the whole image needs none.

    Raises:
        CallError: a value is out of range.
    """

    layout: ImageLayout = "nih"
    split: Split | None = None
    size: tuple[int, int] = (224, 224)
    cubes_per_scan: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layout not in IMAGE_LAYOUTS:
            raise CallError(
                f"--layout {self.layout} is invalid: for X-ray images it must be "
                f"{' or '.join(IMAGE_LAYOUTS)}."
            )
        if self.layout == "nih":
            object.__setattr__(self, "split", self.split or "train_val")
            check_split(str(self.split))
        elif self.split is not None:
            raise CallError(
                f"--split {self.split} selects a list of NIH ChestX-ray14, but --layout "
                "images has no such lists: omit --split, or assign images to parts with "
                "--split-file."
            )
        if len(self.size) != 2 or not all(1 <= edge <= _MOST_EDGE for edge in self.size):
            raise CallError(
                f"--size {','.join(map(str, self.size))} is invalid: for images it must be "
                f"two edges x,y from 1 to {_MOST_EDGE}, for example --size 224,224."
            )
        if self.cubes_per_scan is not None and not 1 <= self.cubes_per_scan <= _MOST_CROPS:
            raise CallError(
                f"--cubes-per-scan {self.cubes_per_scan} is out of range: it must be between "
                f"1 and {_MOST_CROPS} crops; omit the option to use the whole image."
            )
        checked_seed(self.seed)


Parameters = ExtractParameters | ImageParameters


def find_sources(source: Path | str, parameters: Parameters) -> Found:
    """Find the scans or images to cut with these parameters.

    Raises:
        CallError: see `find_scans` and `find_images`.
        DataError: a table of the images is damaged.
    """
    with waited_for(f"finding scans in {source}"):
        if isinstance(parameters, ImageParameters):
            if parameters.layout == "images":
                return find_image_folder(source)
            return find_images(source, parameters.split or "train_val")
        return find_scans(source, parameters.layout, parameters.subsets, mr=parameters.mr)


def extraction(made: Mapping[str, Any]) -> Parameters:
    """Return the extraction parameters recorded in a cube store (any JSON).

    Raises:
        ValueError: they are not those of `extract-cubes`.
    """
    kind = ImageParameters if made.get("layout") in IMAGE_LAYOUTS else ExtractParameters
    left_out = ["hu" if "window" in made else "window"]
    left_out += [name for name in ("plane", "split") if name not in made]  # only patches and NIH's have them
    names = [field.name for field in fields(kind) if field.name not in left_out]
    try:
        values: dict[str, Any] = {n: tuple(v) if isinstance(v := made[n], list) else v for n in names}
        return kind(**values)
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from None
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(str(error)) from None


def maps_values(made: Mapping[str, Any]) -> bool:
    """Return whether a store's scans had mapped values, so DICOM of MR is accepted; `made` is any JSON."""
    return made.get("window") is not None


def box_of(made: Mapping[str, Any], size: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the space that a cube of this size takes up in its scan, voxels in x, y, z.

    Args:
        made: the parameters of a cube store, any JSON.
        size: the edges of a cube in voxels.

    Returns:
        For a slice 1 across its plane; for a whole image its first pixel. None if unknown.
    """
    if len(size) == 3:
        return size
    with suppress(ValueError):
        found = extraction(made)
        if isinstance(found, ExtractParameters):
            return found.box
        return (*size, 1) if found.cubes_per_scan else (1, 1, 1)
    return None
