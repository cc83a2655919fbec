"""Trained weights on their way to others: write them in a format of theirs, with a model card beside.

One is the checkpoint with an adaptation plan that nnU-Net v2's pre-trained training reads (EXCHANGE.md). Its
arrays have the axes z, y, x where ours have x, y, z. So every kernel is turned, and so are spacing and patch
size; the plan then asks for no transposition of its own, and whoever reads it, with regard for
`transpose_forward` or without, feeds the network as it was trained.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import AnyPath, sha256_of, write_whole
from genesis_toolkit.training.machine.run_folder import Run, check_file
from genesis_toolkit.training.networks.registry import CLASS_ARGUMENTS, OF_THE_PAPERS, Architecture
from genesis_toolkit.training.weights.card import WeightsResult, model_card
from genesis_toolkit.training.weights.files import read_checkpoint, saved_bytes
from genesis_toolkit.training.weights.load import PREFIX, file_of, recognise

#: What `export` writes.
FORMATS = ("official", "nnssl", "state-dict")


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
    text = model_card(result, run, epochs[-1]["by_degradation"]).encode()
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


_PLANS = "genesis-toolkit"
_LOGGED = {"train_losses": "train_loss", "val_losses": "validation_loss", "lrs": "lr"}
_VOLUME = 5  # axes of a kernel: channel out, channel in, x, y, z


def nnssl_checkpoint(
    kind: Architecture,
    width: int,
    network: nn.Module,
    checkpoint: Mapping[str, Any],
    run: Mapping[str, Any],
    epochs: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What a file of format nnssl holds: plain tensors, numbers and text. The network is left as it is.

    Args:
        kind: of the network, one of nnU-Net's.
        width: channels of its first convolution.
        network: with the weights.
        checkpoint: the one that they are from.
        run: what `run.json` says of the run.
        epochs: the lines of `losses.jsonl` up to that epoch.

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
        "nnssl_adaptation_plan": _adaptation_plan(kind, width, network, run),
        "citations": [],
    }


def _adaptation_plan(
    kind: Architecture, width: int, network: nn.Module, run: Mapping[str, Any]
) -> dict[str, Any]:
    return {
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
