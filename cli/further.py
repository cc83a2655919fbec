"""The next command to run, for the Next line: it works when pasted.

Every function returns the line and the words for its `{}`, as `output.say_next` takes them. Names that the
command would write to do not exist yet in the current folder.
"""

from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

import genesis_toolkit as gt

Line = tuple[str, *tuple[object, ...]]

#: Divisors that networks require of every edge; nnU-Net's need the last, and one edge larger than that. Not
#: read from the networks, which import torch, since --help must not wait for it.
_OF_NETWORK, _OF_NNUNET = {"unet3d": 8, "unet2d": 32}, 32
#: Options shared by `finetune` and `compare`, and by `extract-cubes` and `explain`.
_OF_TRAINING = (
    "labels steps epochs select patience at_steps batch_size lr schedule warmup augment head keep "
    "freeze_encoder precision seed device"
).split()
_OF_RULE = ("size", "plane", "hu", "border", "max_tissue", "min_tissue")


def free_name(name: str) -> str:
    """Return an unused name here: this one, or `pairs-2.zarr` for `pairs.zarr`, and so on."""
    path = Path(name)
    names = chain([name], (f"{path.stem}-{number}{path.suffix}" for number in count(2)))
    return next(one for one in names if not (Path(one).exists() or Path(f"{one}.unfinished").exists()))


def explanation(source: Path, tried: str, given: Mapping[str, Any]) -> Line:
    """Return the command that explains why a scan gives nothing, with the options that were typed."""
    return "genesis-prep explain {}" + _typed(given, _OF_RULE), source / tried


def after_store(store: object, opened: "gt.CubeStore | gt.PairStore | gt.TargetStore") -> Line:
    """Return the command for the next step from a finished store, or one that shows it if there is none."""
    from genesis_toolkit.cli.cautions import cautions_of_size
    from genesis_toolkit.pipeline.degrade.recipes import get_recipe, smallest_edges
    from genesis_toolkit.training.feeding.split import split_cubes

    look = ("genesis-prep preview {} {}", store, "sheet.png")
    if isinstance(opened, gt.TargetStore):
        return after_targets(store, opened.size, opened.table.fold.tolist()) or look
    if isinstance(opened, gt.PairStore):
        if cautions_of_size(opened.size):
            return look
        try:
            split_cubes(opened.scans, opened.table, opened.images)
        except gt.DataError:
            return look
        return "genesis-train pretrain {} --out {}", store, free_name("pretrained")
    recipe = get_recipe("genesis")
    if min(opened.size) < max(smallest_edges(recipe).values()):
        return look
    return "genesis-prep degrade {} {}", store, free_name("pairs.zarr")


def after_targets(targets: object, size: Sequence[int], folds: Sequence[int]) -> Line | None:
    """Return the command to fine-tune on a target store, with suitable weights found here, or None."""
    if len(set(folds)) < len(("train", "validation", "test")):
        return None
    weights = _weights_here(size)
    begin: Line = ("genesis-train finetune {} --out {}", targets, free_name("finetuned"))
    if weights is not None:
        return f"{begin[0]} --weights {{}}", *begin[1:], weights
    return begin if _fits(size, _OF_NETWORK[f"unet{len(size)}d"]) else None


def after_pretraining(run: str, network: str) -> Line:
    """Return the command to export the weights of a run in the format for its network."""
    from genesis_toolkit.training.machine.run_folder import Run

    kind = "state-dict"
    if network == "unet3d":
        kind = "official"
    elif network != "unet2d":
        described = Run(Path(run)).described() or {"store": {}}
        if all(described["store"].get("spacing_mm", [0.0])):
            kind = "nnssl"
    return "genesis-train export {} {} --format " + kind, run, free_name("weights.pt")


def after_finetuning(targets: str, network: str, weights: Path | None, given: Mapping[str, Any]) -> Line:
    """Return the command to compare weights with training from scratch, with the options that were typed.

    Args:
        targets: path of the target store.
        network: name of the network.
        weights: initial weights of the run; None from scratch, then the command finds some first.
        given: the options typed, by name.
    """
    options = _typed(given, _OF_TRAINING)
    if weights is None:
        found = _weights_here(gt.open_store(targets).size)
        if found is None:
            return ("genesis-train pretrain --help",)
        line = f"genesis-train finetune {{}} --out {{}} --weights {{}}{options}"
        return line, targets, free_name("finetuned"), found
    scratch = "scratch-2d" if network == "unet2d" else "scratch-3d"
    line = f"genesis-train compare {{}} --out {{}} --arm {scratch} --arm {{}}{options}"
    return line, targets, free_name("comparison"), f"pretrained={weights}"


def _typed(given: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return those of the options that were given, as typed."""
    words = []
    for name in names:
        if name in given:
            value = given[name]
            words.append(f" --{'no-' if value is False else ''}{name.replace('_', '-')}")
            if not isinstance(value, bool):
                words.append(f" {','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return "".join(words)


def _weights_here(size: Sequence[int]) -> str | None:
    """Return the latest run `pretrained`, `pretrained-2`, ... here whose network accepts this cube size."""
    from genesis_toolkit.training.machine.run_folder import Run

    fitting = []
    for best in Path().glob("pretrained*/best.pt"):
        try:
            run = Run(best.parent).described()
        except (gt.CallError, gt.DataError):
            continue
        if run is not None and len(run["size"]) <= len(size):
            multiple = _OF_NETWORK.get(run["parameters"]["network"])
            taken = size[: len(run["size"])]
            if _fits(taken, multiple or _OF_NNUNET) and (multiple or max(taken) > _OF_NNUNET):
                fitting.append((best.stat().st_mtime, str(best.parent)))
    return max(fitting)[1] if fitting else None


def _fits(size: Sequence[int], multiple: int) -> bool:
    return all(edge % multiple == 0 for edge in size)
