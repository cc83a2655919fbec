"""The plan of a comparison of arms on tasks: its trials, stores and weights (METHOD.md section 6).

An arm is a way to initialise a network, `NAME` or `NAME=WEIGHTS`. Six names are those of the published
comparisons, and each determines whether there are weights and the number of axes of the network; any other
name accepts any weights. The stores and the weights are opened here once, to check that every trial can run.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.store.open import open_targets
from genesis_toolkit.pipeline.wording import counted
from genesis_toolkit.training.compare.curves import Point
from genesis_toolkit.training.compare.scores import MOST_LETTERS
from genesis_toolkit.training.finetune.data import target_data
from genesis_toolkit.training.finetune.loop import new_state
from genesis_toolkit.training.finetune.parameters import FinetuneParameters, labels_words
from genesis_toolkit.training.machine.options import option
from genesis_toolkit.training.networks.registry import OF_THE_PAPERS, architecture
from genesis_toolkit.training.weights.load import Beginning, read_beginning

#: The names of the published comparisons: axes of the network, 3 or 2, and the part with pre-trained weights,
#: `network` or `encoder` (ImageNet's), or None from scratch.
KNOWN: dict[str, tuple[int, str | None]] = {
    "scratch-3d": (3, None),
    "scratch-2d": (2, None),
    "genesis-ct-3d": (3, "network"),
    "imagenet": (2, "encoder"),
    "genesis-ct-2d": (2, "network"),
    "genesis-xray-2d": (2, "network"),
}
_PARTS = {"network": "a whole network", "encoder": "an encoder, such as ImageNet's"}
_MOST_TRIALS = 1000
_SHOWN = 12  # digits of a sha256, enough to distinguish two files
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}")  # also names a folder and a bar in the chart


@dataclass(frozen=True)
class Arm:
    """One way to initialise a network.

    Attributes:
        name: 1 to 40 letters, digits and `.`, `_`, `+`, `-`, the first a letter or a digit.
        weights: a file or the folder of a run, as `load.read_beginning` accepts them; None from scratch.

    Raises:
        CallError: the name is not allowed, or weights are missing or not allowed for it.
    """

    name: str
    weights: Path | None = None

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise CallError(
                f"--arm {self.name!r} is not a valid name: give it 1 to 40 letters, digits or "
                "any of ._+-, beginning with a letter or a digit."
            )
        known, (_, pretrained) = self.name in KNOWN, KNOWN.get(self.name, (0, None))
        if not known and self.weights is None:
            raise CallError(
                f"--arm {self.name} is unknown without weights; allowed: scratch-3d or "
                "scratch-2d alone, or any other name with weights, such as --arm "
                f"{self.name}=run."
            )
        if pretrained and self.weights is None:
            raise CallError(
                f"--arm {self.name} needs weights: give a run or a file, such as --arm "
                f"{self.name}=run; weights are never downloaded."
            )
        if known and not pretrained and self.weights is not None:
            raise CallError(
                f"--arm {self.name}={self.weights} starts from scratch: omit the "
                "weights, or give the arm another name."
            )


def parse_arm(text: str) -> Arm:
    """Read an arm as written on the command line, `NAME` or `NAME=WEIGHTS`.

    Raises:
        CallError: it is neither; or as `Arm`.
    """
    name, equals, weights = text.partition("=")
    if equals and not weights:
        raise CallError(f"--arm {text} has no weights after the '=': add the weights, or omit the '='.")
    return Arm(name, Path(weights) if equals else None)


def check_arms(arms: Sequence[Arm]) -> None:
    """Check that arms can be compared: that there are at least two, with different names."""
    if len(arms) < 2:
        given = f"only {arms[0].name} was given" if arms else "none was given"
        raise CallError(
            f"A comparison needs two arms or more, but {given}: add one, such as --arm scratch-3d "
            "--arm genesis-ct-3d=run."
        )
    names = [arm.name for arm in arms]
    for name in names:
        if names.count(name) > 1:
            raise CallError(f"Two arms are named {name}: rename one of them, such as --arm {name}-2=WEIGHTS.")


def read_arms(arms: Sequence[Arm], width: int | None = None) -> list[Beginning]:
    """Return the initial weights of the arms, in their order.

    Arms from scratch should differ from the others only in their initial weights: if all weights with the
    same number of axes are of one network and one width, scratch uses these.

    Args:
        arms: see `check_arms`.
        width: width of the arms from scratch; by default that of the others, or the published one.

    Raises:
        CallError, DataError: as `read_beginning`; or the weights do not match the arm's name.
    """
    read = {arm.name: _read(arm) for arm in arms if arm.weights is not None}

    def scratch(axes: int) -> Beginning:
        others = {(one.network, one.width) for one in read.values() if axes_of(one) == axes}
        network, channels = others.pop() if len(others) == 1 else (OF_THE_PAPERS[axes], None)
        return read_beginning(None, network, channels if width is None else width)

    return [read[arm.name] if arm.name in read else scratch(KNOWN[arm.name][0]) for arm in arms]


def axes_of(beginning: Beginning) -> int:
    """Return the number of axes of the network: 3 or 2."""
    return architecture(beginning.network).axes


def _read(arm: Arm) -> Beginning:
    """Read the weights of an arm, and check that they match a published name."""
    beginning, (axes, pretrained) = read_beginning(arm.weights), KNOWN.get(arm.name, (0, None))
    part = str(beginning.describe()["pretrained"])
    if pretrained and (axes_of(beginning), part) != (axes, pretrained):
        raise CallError(
            f"--arm {arm.name} needs weights of {_PARTS[pretrained]} in {axes}D, but "
            f"{arm.weights} holds those of {_PARTS[part]} in {axes_of(beginning)}D "
            f"({beginning.network}): give other weights, or give the arm another name."
        )
    return beginning


@dataclass(frozen=True)
class Task:
    """One target task: the store as given, its name without suffixes, task code, and cube size.

    The fingerprint is the sha256 of the store's manifest, which covers all its files.
    """

    name: str
    targets: str | Path
    code: str
    size: tuple[int, ...]
    fingerprint: str


@dataclass(frozen=True)
class ReadyArm:
    """An arm with its weights checked: network, number of axes (3 or 2), and sha256 of the weights."""

    arm: Arm
    network: str
    width: int
    axes: int
    sha256: str | None

    @property
    def name(self) -> str:
        """The name of the arm."""
        return self.arm.name

    def taken(self, task: Task) -> str:
        """Return how the network takes the task's cubes: `3D`, `2D`, `slice by slice`, or `not` at all."""
        if self.axes > len(task.size):
            return "not"
        return f"{self.axes}D" if self.axes == len(task.size) else "slice by slice"


@dataclass(frozen=True)
class Trial:
    """One fine-tuning run of one arm on one task, or one point on its curve.

    Attributes:
        task: name of the task.
        arm: name of the arm.
        seed: seed of this trial.
        labels: on a curve over labels, the labelled cases, as `parse_labels` reads them.
        steps: on a curve over steps, the number of steps; all points of such a trial share its folder.
    """

    task: str
    arm: str
    seed: int
    labels: str = ""
    steps: int = 0

    def __str__(self) -> str:
        """Return its folder below `trials`, with `/`."""
        labels = f"labels-{self.labels}/" if self.labels else ""
        return f"{self.task}/{self.arm}/{labels}{self.seed}"

    @property
    def outcome(self) -> str:
        """The name of the task with the point on the curve, for tables."""
        point = f", {self.labels} labels" if self.labels else ""
        return f"{self.task}{point}" + (f", {counted(self.steps, 'step')}" if self.steps else "")

    @property
    def point(self) -> Point | None:
        """The position on a curve; None without one."""
        if self.labels.endswith("%"):
            return Point(self.task, "labelled cases, %", float(self.labels.removesuffix("%")))
        if self.labels:
            return Point(self.task, "labelled cases", float(self.labels))
        return Point(self.task, "steps", self.steps) if self.steps else None


@dataclass(frozen=True)
class Plan:
    """A comparison, ready to run: tasks in the order of the panels, arms in the order of the bars."""

    tasks: tuple[Task, ...]
    arms: tuple[ReadyArm, ...]
    seeds: tuple[int, ...]
    parameters: FinetuneParameters
    trials: tuple[Trial, ...]
    labels: tuple[str, ...] = ()

    def record(self) -> dict[str, dict[str, Any]]:
        """Return what must stay the same between calls, as plain JSON: `parameters`, `tasks`, `arms`."""
        parameters = self.parameters.as_dict()
        parameters.pop("seed")  # it is in the folders' names, and trials may be added
        if self.labels:  # likewise
            parameters["labels"] = "of a curve"
        return {
            "parameters": parameters,
            "tasks": {one.name: {"task": one.code, "manifest": one.fingerprint} for one in self.tasks},
            "arms": {
                one.name: {"network": one.network, "width": one.width, "weights": one.sha256}
                for one in self.arms
            },
        }


def trials_of(
    tasks: Mapping[str, Sequence[str]], seeds: Sequence[int], labels: Sequence[str] = ()
) -> list[Trial]:
    """Return all trials of tasks and arms seed by seed, so that partial results are balanced."""
    return [
        Trial(task, arm, seed, point)
        for seed in seeds
        for task, arms in tasks.items()
        for point in labels or [""]
        for arm in arms
    ]


def arms_by_task(tasks: Sequence[Task], arms: Sequence[ReadyArm]) -> dict[str, list[str]]:
    """Return by task the arms that can do it, two or more; for images only those in 2D."""
    taking = {task.name: [one.name for one in arms if one.taken(task) != "not"] for task in tasks}
    for task in tasks:
        if len(taking[task.name]) < 2:
            raise CallError(
                f"{task.targets} holds images, but only {len(taking[task.name])} of the arms "
                "are in 2D: give at least two, such as --arm scratch-2d --arm imagenet=FILE, "
                "or omit this store."
            )
    return taking


def make_plan(
    targets: Sequence[str | Path],
    arms: Sequence[Arm],
    parameters: FinetuneParameters,
    trials: int = 10,
    width: int | None = None,
    labels: Sequence[float | int] = (),
) -> Plan:
    """Open every store, read all weights, and check that each network accepts each task's cubes.

    3D networks are left out for tasks with images. For the arguments see `trials.compare_trials`.

    Raises:
        CallError: a store, an arm or a number is not suitable; the error says what to change.
        DataError: a store or a file of weights is damaged.
    """
    if not 2 <= trials <= _MOST_TRIALS:
        raise CallError(
            f"--trials {trials} is out of range: it must be between 2 (one trial has no spread) and "
            f"{_MOST_TRIALS:,}."
        )
    replace(parameters, seed=parameters.seed + trials - 1)  # raises an error if out of range
    check_arms(arms)
    seeds = range(parameters.seed, parameters.seed + trials)
    check_curve(parameters, labels)
    shared = [replace(parameters, labels=one) for one in labels] or [parameters]
    tasks = open_tasks(targets, [replace(one, seed=seed) for seed in seeds for one in shared])
    # Cubes first: all arms accept them, so the arms keep the order of the call.
    tasks.sort(key=lambda task: -len(task.size))
    beginnings = read_arms(arms, width)
    ready = [
        ReadyArm(arm, one.network, one.width, axes_of(one), one.sha256)
        for arm, one in zip(arms, beginnings, strict=True)
    ]
    taking = arms_by_task(tasks, ready)
    for task in tasks:
        data = target_data(open_targets(task.targets), shared[0])
        for one, beginning in zip(ready, beginnings, strict=True):
            if one.name in taking[task.name]:
                try:
                    new_state(beginning, data, torch.device("cpu"))
                except CallError as error:
                    raise CallError(
                        f"The arm {one.name} cannot be fine-tuned on {task.targets}: {error}"
                    ) from None
    points = tuple(map(labels_words, labels))
    every = tuple(trials_of(taking, seeds, points))
    return Plan(tuple(tasks), tuple(ready), tuple(seeds), parameters, every, points)


def check_curve(parameters: FinetuneParameters, labels: Sequence[float | int]) -> None:
    """Check that labels make a curve: only shares or only numbers, each once, and not along with steps."""
    words = list(map(labels_words, labels))
    if len({one.endswith("%") for one in words}) > 1 or len(set(words)) < len(words):
        raise CallError(
            f"--labels {','.join(words)} is not a curve: give either numbers of cases or shares in %, "
            "each value once, such as 20,60,200 or 10%,50%."
        )
    if words and parameters.at_steps:
        raise CallError(
            f"--labels {','.join(words)} and --at-steps request two curves at once: use only one of them."
        )


def open_tasks(targets: Sequence[str | Path], parameters: Sequence[FinetuneParameters]) -> list[Task]:
    """Return the tasks of target stores, named like them, after checking the labels for every trial."""
    if not targets:
        raise CallError(
            "No target store was given: give one or more stores from genesis-prep "
            "extract-targets, or a table with --from-csv."
        )
    names = [task_name(place) for place in targets]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise CallError(
                f"{targets[names.index(name)]} and {targets[number]} would both be the task "
                f"{name}: give each store once, and give every store a different name."
            )
    tasks = []
    for name, place in zip(names, targets, strict=True):
        store = open_targets(place)
        for one in parameters:
            try:  # before other trials spend hours
                target_data(store, one)
            except (CallError, DataError) as error:
                raise type(error)(f"The trial with seed {one.seed} on {name}: {error}") from None
        tasks.append(Task(name, place, store.task, store.size, store.manifest_sha256))
    return tasks


def task_name(place: str | Path) -> str:
    """Return the name of a store's task: `nodules` for `data/nodules.zarr` and for `nodules.zarr.zip`."""
    name = PurePosixPath(str(place).rstrip("/")).name
    name = Path(str(place)).resolve().name if name in ("", ".", "..") else name
    for suffix in (".zip", ".zarr"):
        name = name.removesuffix(suffix)
    if not name.strip() or name.startswith(".") or len(name) > MOST_LETTERS or not name.isprintable():
        raise CallError(
            f"{place} gives its task the name {name[: MOST_LETTERS + 1]!r}: give the store a "
            f"name of 1 to {MOST_LETTERS} printable letters that does not start with a dot."
        )
    return name


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return how two records (`Plan.record`) differ, in words; None if the later call may add to the earlier.

    Tasks and arms in only one of them do not count as a difference.
    """
    for name, asked in now["parameters"].items():
        was = before["parameters"].get(name)
        if was != asked:
            return f"{option(name)} {was}, but this call has {option(name)} {asked}"
    for name in before["tasks"].keys() & now["tasks"].keys():
        if before["tasks"][name] != now["tasks"][name]:
            return f"a different store {name}"
    for name, arm in now["arms"].items():
        was = before["arms"].get(name, arm)
        for part in arm:
            if was.get(part) != arm[part]:
                old, new = (str(one.get(part))[:_SHOWN] for one in (was, arm))
                return f"{part} {old} of the arm {name}, but this call has {new}"
    return None
