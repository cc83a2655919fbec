"""The tasks, told apart by their parameters: how each is planned and cut, and how a store tells of it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.targets.findings import cut_findings, plan_findings
from genesis_toolkit.pipeline.targets.mask_files import plan_masks
from genesis_toolkit.pipeline.targets.masks import cut_masks
from genesis_toolkit.pipeline.targets.nodules import cut_nodules, plan_nodules
from genesis_toolkit.pipeline.targets.parameters import (
    TASKS,
    FindingParameters,
    MaskParameters,
    NoduleParameters,
    TargetParameters,
)
from genesis_toolkit.pipeline.targets.plan import Cut, Piece, Plan

_BESIDES = {"task", "source_sha256"}  # what stands among the parameters in a store, and is none


def plan_task(source: Path, parameters: TargetParameters) -> Plan:
    """Find the scans of a source, and what is wanted of each.

    Raises:
        CallError: no such source, or nothing of it can be cut.
        DataError: a table or a list is damaged.
    """
    if isinstance(parameters, NoduleParameters):
        return plan_nodules(source, parameters)
    return plan_masks(source, parameters) if isinstance(parameters, MaskParameters) else plan_findings(source)


def cut_piece(path: Path, masks: Sequence[Path], piece: Piece, parameters: TargetParameters) -> Cut:
    """Cut what is wanted of one scan.

    Args:
        path: of the scan.
        masks: those that have its name; none but for segmentation.
        piece: what is wanted.
        parameters: the task, and how it is cut.

    Raises:
        DataError: it cannot be read, or has several masks.
    """
    if isinstance(parameters, NoduleParameters):
        return cut_nodules(path, piece, parameters)
    if isinstance(parameters, FindingParameters):
        return cut_findings(path, piece, parameters)
    if len(masks) > 1:
        raise DataError(f"it has {len(masks)} masks, {', '.join(mask.name for mask in masks)}: keep one")
    return cut_masks(path, masks[0], piece, parameters)


def wanted_labels(piece: Piece, parameters: TargetParameters) -> list[list[int]]:
    """The labels of the cubes that a scan would give, one row a cube, 0 or 1 a class.

    It may give fewer: whether it can be read, and reaches as far as its candidates, is known once it is cut.

    Returns:
        Of segmentation, whose cubes have masks, rows without a class.
    """
    if piece.source.problem or piece.source.skip:
        return []
    if isinstance(parameters, NoduleParameters):
        return [[row[4]] for row in piece.wanted]
    if isinstance(parameters, FindingParameters):
        return [piece.wanted]
    return [[] for _ in range(parameters.cubes_per_scan)] if len(piece.wanted) == 1 else []


def described(parameters: TargetParameters, source_sha256: str) -> dict[str, Any]:
    """The parameters as they stand in a store; of the masks' folder its name, for its path is nobody's."""
    values = {
        name: list(value) if isinstance(value, tuple) else value for name, value in vars(parameters).items()
    }
    if isinstance(parameters, MaskParameters):
        values["masks"] = parameters.masks.name if parameters.masks else None
    return {"task": parameters.task, **values, "source_sha256": source_sha256}


def parameters_of(made: Mapping[str, Any]) -> TargetParameters:
    """The parameters that a store tells, any JSON; of the masks' folder the name is all that is known.

    Raises:
        ValueError: they are not those of `extract-targets`.
    """
    try:
        kind = TASKS[made["task"]]
        names = {field.name for field in fields(kind)}
        if set(made) != names | _BESIDES:
            others = ", ".join(sorted(set(made) ^ (names | _BESIDES)))
            raise ValueError(f"{others} is missing, or is none of them")
        values: dict[str, Any] = {
            name: tuple(v) if isinstance(v := made[name], list) else v for name in names
        }
        if values.get("masks") is not None:
            values["masks"] = Path(values["masks"])
        return kind(**values)
    except KeyError:
        raise ValueError(f"their task is none of {', '.join(TASKS)}") from None
    except (AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(str(error)) from None
