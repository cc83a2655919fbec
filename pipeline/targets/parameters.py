"""Parameters of a target store, one record per task (METHOD.md section 6)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from genesis_toolkit.pipeline.cubes.rule import Triple
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.hounsfield import Ends, GreyLevels, HounsfieldValues
from genesis_toolkit.pipeline.rng import checked_seed
from genesis_toolkit.pipeline.scans.find import ImageLayout, Layout
from genesis_toolkit.pipeline.scans.mapping import checked_ends

_MOST_CUBES = 10_000
_MOST_EDGE = 1024
_MOST_NEGATIVES = 1_000_000
_MOST_LABEL = 32767


@dataclass(frozen=True)
class _CtParameters(HounsfieldValues):
    """Parameters shared by tasks on CT scans.

    Attributes:
        size: edges of a cube in voxels, x, y, z.
        hu: the HU window, lowest and highest value kept.
        seed: seed of all random draws.
        window: for scans without HU, see `ExtractParameters`; not for LUNA16's.
    """

    size: Triple = (64, 64, 32)
    hu: tuple[int, int] = (-1000, 1000)
    seed: int = 0
    window: Ends | None = None

    def __post_init__(self) -> None:
        if len(self.size) != 3 or not all(1 <= edge <= _MOST_EDGE for edge in self.size):
            raise CallError(
                f"--size {','.join(map(str, self.size))} is invalid: it must be three edges "
                f"x,y,z from 1 to {_MOST_EDGE}, for example --size 64,64,32."
            )
        self.check_window(checked_ends)
        checked_seed(self.seed)


@dataclass(frozen=True)
class NoduleParameters(_CtParameters):
    """NCC: is a candidate a nodule? From LUNA16 and its `candidates_V2.csv`.

    Attributes:
        negatives: number of candidates that are not nodules, per nodule of a fold; None takes all. LUNA16 has
            1,557 nodules among 754,975 candidates; cubes of all would take 100 GB.

    Raises:
        CallError: a value is out of range.
    """

    task: ClassVar = "ncc"
    classes: ClassVar = ("nodule",)

    negatives: int | None = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window is not None:
            raise CallError(
                "--window is for scans without HU, such as MR, but LUNA16's scans are CT: omit the option."
            )
        if self.negatives is not None and not 0 <= self.negatives <= _MOST_NEGATIVES:
            allowed = f"it must be a number per nodule from 0 to {_MOST_NEGATIVES:,}, or all"
            raise CallError(f"--negatives {self.negatives} is out of range: {allowed}.")


@dataclass(frozen=True)
class MaskParameters(_CtParameters):
    """Segmentation: which voxels are foreground? From scans and their masks.

    Attributes:
        layout: organisation of the scans; `auto` detects it.
        masks: the folder of the masks; None takes LUNA16's lung masks, `seg-lungs-LUNA16`.
        foreground: values of a mask that are foreground; None takes all but 0.
        cubes_per_scan: number of cubes drawn per scan, half of them around foreground.

    Raises:
        CallError: a value is out of range.
    """

    task: ClassVar = "segment"
    classes: ClassVar = ("foreground",)

    layout: Layout = "auto"
    masks: Path | None = None
    foreground: tuple[int, ...] | None = None
    cubes_per_scan: int = 32

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.foreground is not None:
            object.__setattr__(self, "foreground", _checked_foreground(self.foreground))
        if not 1 <= self.cubes_per_scan <= _MOST_CUBES:
            allowed = f"it must be between 1 and {_MOST_CUBES}; the default is 32"
            raise CallError(f"--cubes-per-scan {self.cubes_per_scan} is out of range: {allowed}.")


def _checked_foreground(values: tuple[int, ...]) -> tuple[int, ...]:
    """Return the foreground values of a mask, each once, in order."""
    if not all(1 <= value <= _MOST_LABEL for value in values):
        raise CallError(
            f"--foreground {','.join(map(str, values))} is invalid: values of the mask must "
            f"be from 1 to {_MOST_LABEL:,}, for example --foreground 1,2; 0 is background."
        )
    return tuple(sorted(set(values)))


@dataclass(frozen=True)
class FindingParameters(GreyLevels):
    """DXC: which of NIH's fourteen findings does a chest X-ray show? From NIH ChestX-ray14 and its table.

    Attributes:
        size: edges in pixels, x, y, to which the whole image is resized by area averaging.

    Raises:
        CallError: a value is out of range.
    """

    task: ClassVar = "dxc"
    classes: ClassVar = tuple(
        "Atelectasis Cardiomegaly Consolidation Edema Effusion Emphysema Fibrosis Hernia Infiltration Mass "
        "Nodule Pleural_Thickening Pneumonia Pneumothorax".split()
    )

    size: tuple[int, int] = (224, 224)

    def __post_init__(self) -> None:
        _check_image_size(self.size)


def _check_image_size(size: tuple[int, ...]) -> None:
    if len(size) != 2 or not all(1 <= edge <= _MOST_EDGE for edge in size):
        raise CallError(
            f"--size {','.join(map(str, size))} is invalid: for images it must be two edges "
            f"x,y from 1 to {_MOST_EDGE}, for example --size 224,224."
        )


@dataclass(frozen=True)
class _Table:
    """Parameters shared by tasks whose labels are columns of a table.

    Attributes:
        label_table: path of the CSV table.
        label_columns: the requested columns, see `label_table`; each gives one class or several.
        classes: the classes they give, as found in the table.
    """

    label_table: Path | None = None
    label_columns: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def _check_table(self) -> None:
        if self.label_table is None or not self.label_columns or not all(self.label_columns):
            raise CallError(
                "--task classify needs a table and its columns, for example --label-table labels.csv "
                "--label-columns pneumonia."
            )


@dataclass(frozen=True)
class ScanLabelParameters(_Table, _CtParameters):
    """Classification of scans by columns of a table.

    Attributes:
        layout: organisation of the scans; `auto` detects it.
        cubes_per_scan: number of cubes drawn per scan, each with its scan's labels; None takes the whole
            scan, clipped and averaged down to `size`.

    Raises:
        CallError: a value is out of range.
    """

    task: ClassVar = "classify"

    layout: Layout = "auto"
    cubes_per_scan: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_table()
        if self.cubes_per_scan is not None and not 1 <= self.cubes_per_scan <= _MOST_CUBES:
            raise CallError(
                f"--cubes-per-scan {self.cubes_per_scan} is out of range: it must be between "
                f"1 and {_MOST_CUBES}; omit the option to use the whole scan."
            )


@dataclass(frozen=True)
class ImageLabelParameters(_Table, GreyLevels):
    """Classification of X-ray images by columns of a table.

    Attributes:
        layout: organisation of the images.
        size: edges in pixels, x, y, to which the whole image is resized by area averaging.

    Raises:
        CallError: a value is out of range.
    """

    task: ClassVar = "classify"

    layout: ImageLayout = "nih"
    size: tuple[int, int] = (224, 224)

    def __post_init__(self) -> None:
        self._check_table()
        _check_image_size(self.size)


@dataclass(frozen=True)
class ImageMaskParameters(GreyLevels):
    """Segmentation of X-ray images: which pixels are foreground? From images and their masks, PNG.

    Attributes:
        masks: the folder of the masks.
        foreground: values of a mask that are foreground; None takes all but 0.
        layout: organisation of the images: any folder.
        size: edges in pixels, x, y, to which image and mask are resized.

    Raises:
        CallError: a value is out of range.
    """

    task: ClassVar = "segment"
    classes: ClassVar = ("foreground",)

    masks: Path | None = None
    foreground: tuple[int, ...] | None = None
    layout: ImageLayout = "images"
    size: tuple[int, int] = (224, 224)

    def __post_init__(self) -> None:
        _check_image_size(self.size)
        if self.layout != "images":
            raise CallError(
                f"--layout {self.layout} does not fit masks of X-ray images: use --layout images."
            )
        if self.masks is None:
            raise CallError("Masks of X-ray images are needed: give their folder, for example --masks masks.")
        if self.foreground is not None:
            object.__setattr__(self, "foreground", _checked_foreground(self.foreground))


TargetParameters = (
    NoduleParameters
    | MaskParameters
    | FindingParameters
    | ScanLabelParameters
    | ImageLabelParameters
    | ImageMaskParameters
)

_OF_SCANS: dict[str, type[TargetParameters]]
_OF_SCANS = {one.task: one for one in (NoduleParameters, MaskParameters, ScanLabelParameters)}
_OF_IMAGES: dict[str, type[TargetParameters]]
_OF_IMAGES = {one.task: one for one in (FindingParameters, ImageLabelParameters, ImageMaskParameters)}

#: The tasks.
TASKS = tuple(
    kind.task for kind in (NoduleParameters, MaskParameters, FindingParameters, ScanLabelParameters)
)

_BESIDES = {"task", "source_sha256"}  # stored with the parameters without being one


def kind_of(task: str, images: bool) -> type[TargetParameters]:
    """Return the parameters of a task, for X-ray images or for scans.

    Raises:
        CallError: the task is unknown, or only for the other kind.
    """
    kinds, others = (_OF_IMAGES, _OF_SCANS) if images else (_OF_SCANS, _OF_IMAGES)
    if task in kinds:
        return kinds[task]
    if task in others:
        what, allowed = ("X-ray images", "CT scans") if images else ("CT scans", "X-ray images")
        raise CallError(f"--task {task} is for {allowed}, but these are {what}: use {' or '.join(kinds)}.")
    raise CallError(f"--task {task} is unknown: it must be one of {', '.join(TASKS)}.")


def described(parameters: TargetParameters, source_sha256: str) -> dict[str, Any]:
    """Return the parameters as written to a store; files and folders by name only, as paths are private."""
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in vars(parameters).items()}
    values |= {name: value.name for name, value in values.items() if isinstance(value, Path)}
    if isinstance(parameters, _CtParameters):
        del values["window" if parameters.window is None else "hu"]
    return {"task": parameters.task, **values, "source_sha256": source_sha256}


def _kind_in(made: Mapping[str, Any]) -> type[TargetParameters]:
    flat = len(made.get("size") or ()) == 2
    return (_OF_IMAGES if flat else _OF_SCANS)[made["task"]]


def as_now(made: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a store's parameters under their current names: `foreground` was once called `labels`."""
    if made.get("task") != MaskParameters.task or "labels" not in made:
        return made
    return {"foreground" if name == "labels" else name: value for name, value in made.items()}


def parameters_of(made: Mapping[str, Any]) -> TargetParameters:
    """Return the parameters recorded in a store, any JSON; for files and folders only the name is known.

    Raises:
        ValueError: they are not those of `extract-targets`.
    """
    try:
        kind, made = _kind_in(made), as_now(made)
        names = {field.name for field in fields(kind)} - {"hu" if "window" in made else "window"}
        if set(made) - {"split_file"} != names | _BESIDES:
            others = ", ".join(sorted((set(made) - {"split_file"}) ^ (names | _BESIDES)))
            raise ValueError(f"{others} is missing or unknown")
        values: dict[str, Any] = {name: made[name] for name in names}
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        paths = {"masks", "label_table"} & values.keys()
        values |= {name: Path(values[name]) for name in paths if values[name] is not None}
        return kind(**values)
    except KeyError:
        raise ValueError(f"their task is not one of {', '.join(TASKS)}") from None
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(str(error)) from None
