"""Trained weights on their way to others: write them in a format of theirs, with a model card beside.

One is the checkpoint with an adaptation plan that nnU-Net v2's pre-trained training reads (EXCHANGE.md). Its
arrays have the axes z, y, x where ours have x, y, z. So every kernel is turned, and so are spacing and patch
size; the plan then asks for no transposition of its own, and whoever reads it, with regard for
`transpose_forward` or without, feeds the network as it was trained.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor, nn

from genesis_toolkit.pipeline.describe.card import PATENT
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import MANIFEST, AnyPath, sha256_of, write_whole
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.training.machine.run_folder import Run, check_file
from genesis_toolkit.training.networks.registry import CLASS_ARGUMENTS, OF_THE_PAPERS, Architecture
from genesis_toolkit.training.weights.files import read_checkpoint, saved_bytes
from genesis_toolkit.training.weights.load import PREFIX, file_of, recognise

#: What `export` writes.
FORMATS = ("official", "nnssl", "state-dict")

_PLANS = "genesis-toolkit"
_LOGGED = {"train_losses": "train_loss", "val_losses": "validation_loss", "lrs": "lr"}
_VOLUME = 5  # axes of a kernel: channel out, channel in, x, y, z
_OURS = """\
from genesis_toolkit import load_encoder, load_network

network = load_network("{file}")  # degraded cubes in, restored cubes out
encoder = load_encoder("{file}")  # cubes in, a list of features by level out
"""
_NNSSL = """\
import torch

checkpoint = torch.load("{file}", weights_only=True)
plan = checkpoint["nnssl_adaptation_plan"]
print(plan["architecture_plans"]["arch_class_name"], len(checkpoint["network_weights"]))
"""
_FORMATS = {
    "official": """\
a dict of `epoch`, `state_dict`, every key of which begins with `module.`, and
  `optimizer_state_dict`, as the method's authors publish theirs""",
    "state-dict": "the tensors by name, and nothing else",
    "nnssl": """\
a checkpoint with an adaptation plan, for nnU-Net v2's `nnUNetv2_preprocess_like_nnssl`,
  `nnUNetv2_plan_like_dynamic` and `nnUNetv2_train_pretrained`; the kernels are turned to its order of axes,
  and the network gives logits, whose sigmoid is the restored cube""",
}
_LICENCE = f"""\
## Licence and patent

No weights of the method's authors are in this file. Those who trained it say under which licence it is passed
on; the terms of the scans bind them.

{PATENT}

The method: Zhou et al., *Models Genesis: Generic Autodidactic Models for 3D Medical Image Analysis* (MICCAI
2019, arXiv 1908.06912); *Models Genesis* (Medical Image Analysis 67, 2021, arXiv 2004.07882).
"""


@dataclass(frozen=True)
class WeightsResult:
    """What `export` wrote, and what the card tells of it.

    Attributes:
        file: the weights.
        card: the model card beside them.
        format: `official`, `nnssl` or `state-dict`.
        network: name of the architecture.
        width: channels of the first convolution.
        weights: parameters of the network, counted.
        epoch: of the run, counted from 1.
        validation_loss: mean squared error of values in [0, 1] after that epoch.
        sha256: of the file, in hexadecimal.
    """

    file: str
    card: str
    format: str
    network: str
    width: int
    weights: int
    epoch: int
    validation_loss: float
    sha256: str


def export_weights(folder: AnyPath, out: AnyPath, kind: str, *, overwrite: bool = False) -> WeightsResult:
    """Write the best weights of a run in a format of others, and a model card beside them.

    Args:
        folder: of the run.
        out: the file to write; the card gets its name with `.md` after it.
        kind: `official` (METHOD.md section 4), `nnssl` (EXCHANGE.md), or `state-dict`: tensors by name.
        overwrite: replace what is there.

    Raises:
        CallError: there is no run or no finished epoch, something is in the way, or the format does not know
            the network; nothing is written.
        DataError: the checkpoint is damaged.
    """
    if kind not in FORMATS:
        raise CallError(f"--format {kind} is unknown; allowed: {', '.join(FORMATS)}.")
    folder, out = Path(folder), Path(out)
    card = out.with_name(f"{out.name}.md")
    for path in (out, card):
        check_file(path, folder, overwrite=overwrite)
    run = _described(folder)
    best = file_of(folder)
    checkpoint = read_checkpoint(best)
    found, width, network = recognise(checkpoint["state_dict"], best)
    count, losses = checkpoint["epoch"], Run(folder).losses
    try:
        epochs = Run(folder).records(range(1, count + 1))
    except (DataError, OSError):
        epochs = []
    if not epochs:
        raise DataError(f"{losses} is damaged: it does not tell of the {count} epochs that the weights had.")
    if kind == "nnssl":
        content = nnssl_checkpoint(found, width, network, checkpoint, run, epochs)
    else:
        content = _official(found, checkpoint) if kind == "official" else dict(checkpoint["state_dict"])
    data = saved_bytes(content)
    result = WeightsResult(
        file=str(out),
        card=str(card),
        format=kind,
        network=found.name,
        width=width,
        weights=sum(weights.numel() for weights in network.parameters()),
        epoch=checkpoint["epoch"],
        validation_loss=checkpoint["best_loss"],
        sha256=sha256_of(data),
    )
    text = model_card(result, found, run, epochs[-1]["by_degradation"]).encode()
    write_whole(out, data)
    write_whole(card, text)
    return result


def _official(kind: Architecture, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The dict of the authors' file, or a `CallError` where it is no network of theirs."""
    if kind.name != OF_THE_PAPERS[3]:
        others = "--format nnssl or --format state-dict" if kind.class_name else "--format state-dict"
        raise CallError(
            f"The official format holds the 3D U-Net only, and this run trained {kind.name}: give {others}."
        )
    weights = {PREFIX + key: tensor for key, tensor in checkpoint["state_dict"].items()}
    kept = {key: checkpoint[key] for key in ("epoch", "state_dict", "optimizer_state_dict")}
    return kept | {"state_dict": weights}


def _described(folder: Path) -> dict[str, Any]:
    """What `run.json` says."""
    try:
        described = Run(folder).described()
    except (CallError, DataError, NotADirectoryError):
        raise CallError(
            f"{folder} holds no run of genesis-train pretrain that this version of genesis-toolkit can read, "
            "going by its run.json: name the folder of one."
        ) from None
    if described is None:
        raise CallError(f"There is no run in {folder}: make one with genesis-train pretrain.")
    return described


def nnssl_checkpoint(
    kind: Architecture,
    width: int,
    network: nn.Module,
    checkpoint: Mapping[str, Any],
    run: Mapping[str, Any],
    epochs: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What a file of format nnssl holds: plain tensors, numbers and text. The network is left as it is.

    The checkpoint is the one that its weights are from, `run` what `run.json` says of the run, `epochs` what
    `losses.jsonl` says up to that epoch.

    Raises:
        CallError: nnU-Net has no such network, or the run does not know the spacing of its scans.
    """
    if not kind.class_name:
        raise CallError(
            f"nnU-Net has no {kind.words}, which this run trained ({kind.name}): give "
            f"{'--format official or ' if kind.name == OF_THE_PAPERS[3] else ''}--format state-dict."
        )
    turned = copy.deepcopy(network)
    for weights in turned.parameters():  # every tensor once, also where it has several names
        weights.data = _turn(weights.data)
    return {
        "network_weights": dict(turned.state_dict()),
        "optimizer_state": _turn(checkpoint["optimizer_state_dict"]),
        "grad_scaler_state": None,
        "logging": {name: [epoch[ours] for epoch in epochs] for name, ours in _LOGGED.items()},
        "_best_ema": float(checkpoint["best_loss"]),
        "current_epoch": int(checkpoint["epoch"]),
        "init_args": dict(run["parameters"]),
        "trainer_name": _PLANS,
        "nnssl_adaptation_plan": {
            "architecture_plans": {
                "arch_class_name": kind.class_name,
                "arch_kwargs": kind.arguments(width),
                "arch_kwargs_requiring_import": list(CLASS_ARGUMENTS),
            },
            "pretrain_plan": _pretrain_plan(run),
            "pretrain_num_input_channels": 1,
            "recommended_downstream_patchsize": list(reversed(run["size"])),
            "key_to_encoder": network.key_to_encoder,
            "key_to_stem": network.key_to_stem,
            "keys_to_in_proj": tuple(network.keys_to_in_proj),  # type: ignore[arg-type] # a tuple of text
            "key_to_lpe": None,
        },
        "citations": [],
    }


def _pretrain_plan(run: Mapping[str, Any]) -> dict[str, Any]:
    store = run["store"]
    if not all(store.get("spacing_mm", [0.0])):
        raise CallError(
            "The run does not know the spacing of its scans, which format nnssl has to tell: its cubes were "
            "imported, or it was begun with an earlier version. Give --format state-dict, or train again."
        )
    spacing = list(reversed(store["spacing_mm"]))
    name = "onemmiso" if spacing == [1.0, 1.0, 1.0] else "noresample"
    return {
        "dataset_name": PurePath(store["path"]).name,
        "plans_name": _PLANS,
        "original_median_spacing_after_transp": spacing,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": _PLANS,
        "configurations": {
            name: {
                "data_identifier": f"{_PLANS}_{name}",
                "preprocessor_name": "DefaultPreprocessor",
                "spacing_style": name,
                # nnU-Net standardises what it feeds, and has no scheme that maps a window to [0, 1]. The
                # first instance norm takes the scale away; the shift is felt from the cube's border on.
                "normalization_schemes": ["ZScoreNormalization"],
                "use_mask_for_norm": [False],
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": _resampling(is_seg=False, order=3),
                "resampling_fn_mask": "resample_data_or_seg_to_shape",
                "resampling_fn_mask_kwargs": _resampling(is_seg=True, order=1),
                "spacing": spacing,
                "patch_size": list(reversed(run["size"])),
            }
        },
    }


def _resampling(*, is_seg: bool, order: int) -> dict[str, Any]:
    return {"is_seg": is_seg, "order": order, "order_z": 0, "force_separate_z": None}


def _turn(tree: Any) -> Any:
    """Kernels `[out, in, x, y, z]` as `[out, in, z, y, x]`, in whatever dicts and lists they lie."""
    if isinstance(tree, Tensor):
        return tree.permute(0, 1, 4, 3, 2).contiguous() if tree.ndim == _VOLUME else tree
    if isinstance(tree, Mapping):
        return {key: _turn(value) for key, value in tree.items()}
    return [_turn(value) for value in tree] if isinstance(tree, list) else tree


def model_card(
    result: WeightsResult, kind: Architecture, run: Mapping[str, Any], by_degradation: Mapping[str, float]
) -> str:
    """The text of a card in Markdown, of what was written and what `run.json` says of its run.

    Beside it the validation loss of every combination of degradations, after that epoch.
    """
    first = run.get("initial_encoder")
    begun = f"- the encoder began with `{first['file']}`, sha256 `{first['sha256']}`\n" if first else ""
    training = f"## Training\n\n{_listed(run['parameters'])}{begun}"
    losses = _losses(result, run["baselines"], by_degradation)
    code = (_NNSSL if result.format == "nnssl" else _OURS).format(file=PurePath(result.file).name)
    loading = f"## Load it\n\n```python\n{code}```\n"
    return "\n".join((_heading(result, kind, run), _data(run), training, losses, loading, _LICENCE))


def _heading(result: WeightsResult, kind: Architecture, run: Mapping[str, Any]) -> str:
    low, high = run["window"]
    axes = "z, y, x" if result.format == "nnssl" else ", ".join("xyz"[: len(run["size"])])
    return f"""\
# {PurePath(result.file).name}

A {kind.words}, pre-trained on {_cubes(run)} of unlabelled scans: they were degraded, and
it learnt to restore them (Models Genesis). Trained with genesis-toolkit {run["genesis_toolkit"]}, exported
with {__version__}.

- format `{result.format}`: {_FORMATS[result.format]}
- sha256: `{result.sha256}`
- network: width {result.width}, {result.weights:,} parameters
- input: float32 `[batch, 1, {axes}]` in [0, 1]: voxels (HU in CT) clipped to [{low}, {high}] and scaled;
  every edge is a multiple of {kind.edge_multiple}
- output: the restored {_cubes(run)}, of the same shape and range
"""


def _data(run: Mapping[str, Any]) -> str:
    store = run["store"]
    lines = [f"store: `{PurePath(store['path']).name}` ({store['format']})"]
    if "manifest" in store:  # a run that was begun before it was kept does not have it
        known = f"{_times(store['spacing_mm'])} mm in x, y, z (median)"
        lines += [
            f"sha256 of the store's `{MANIFEST}`: `{store['manifest']}`",
            f"scans: {store['scans']}, of {known if all(store['spacing_mm']) else 'unknown spacing'}",
        ]
    if "seed" in store:
        lines.append(f"pairs: {store['variants']} variants of every cube, degraded with seed {store['seed']}")
    lines += [
        f"fingerprint of its tables and parameters: `{store['fingerprint']}`",
        f"{_cubes(run)} of {_times(run['size'])} voxels: {run['train_cubes']} train, "
        f"{run['validation_cubes']} validate ({run['split']})",
    ]
    told = "".join(f"- {line}\n" for line in lines)
    return f"## Data\n\n{told}\n## Degradations\n\n{_listed(store['recipe'])}"


def _losses(result: WeightsResult, baselines: Mapping[str, Any], by_degradation: Mapping[str, float]) -> str:
    rows = [("all", result.validation_loss, baselines)]
    rows += [(name, loss, baselines["by_degradation"][name]) for name, loss in by_degradation.items()]
    listed = "".join(
        f"| {name} | {loss:.6f} | {beside['copy']:.6f} | {beside['mean_image']:.6f} |\n"
        for name, loss, beside in rows
    )
    return f"""\
## Losses

Mean squared errors on the validation pairs, of values in [0, 1], after the best epoch, {result.epoch}; beside
the network, the degraded cube taken for its restoration, and the mean image of the training originals.

| pairs | network | copy | mean image |
|---|---|---|---|
{listed}"""


def _listed(parameters: Mapping[str, Any]) -> str:
    """Parameters as a list of Markdown; those that were left out are not told."""
    return "".join(
        f"- {name.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}\n"
        for name, value in parameters.items()
        if value is not None
    )


def _cubes(run: Mapping[str, Any]) -> str:
    """What the network restores: cubes, or in 2D slices and images."""
    return "cubes" if len(run["size"]) == len("xyz") else "images"


def _times(edges: Sequence[float]) -> str:
    return " x ".join(f"{edge:g}" for edge in edges)
