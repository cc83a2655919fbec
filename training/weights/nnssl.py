"""Weights for nnU-Net v2: a checkpoint with the adaptation plan that its fine-tuning commands read.

EXCHANGE.md describes it; nnU-Net's own training takes the same file as `-pretrained_weights`. Its arrays have
the axes z, y, x where ours have x, y, z, so kernels, spacing and patch size are reversed here. The plan then
requests no transposition, so any reader, whether or not it respects `transpose_forward`, feeds the network
as it was trained.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from torch import Tensor, nn

from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.training.networks.registry import CLASS_ARGUMENTS, OF_THE_PAPERS, PACKAGE, Architecture

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
    """Return the content of an nnssl file: plain tensors, numbers and text. `network` stays unchanged.

    `checkpoint` is the source of the weights, `run` the content of `run.json`, `epochs` the lines of
    `losses.jsonl` up to that epoch.

    Raises:
        CallError: nnU-Net has no such network, or the run does not record the spacing of its scans.
    """
    if not kind.class_name:
        raise CallError(
            f"nnU-Net has no {kind.words}, the network of this run ({kind.name}): use "
            f"{'--format official or ' if kind.name == OF_THE_PAPERS[3] else ''}--format "
            "state-dict."
        )
    turned = copy.deepcopy(network)
    for weights in turned.parameters():  # each tensor once, even if it has several names
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


def folder_files(checkpoint: Mapping[str, Any], kind: Architecture, width: int) -> dict[str, bytes]:
    """Return the other files of an nnssl folder, next to `checkpoint_final.pth`, by file name.

    `adaptation_plan.json` holds the checkpoint's plan and also the network as nnU-Net's plans name it.
    `config.json` describes the network's input, and holds a configuration that can be pasted into an nnU-Net
    plan to give its network the shapes of the weights.
    """
    plan = checkpoint["nnssl_adaptation_plan"]
    (pretrained,) = plan["pretrain_plan"]["configurations"].values()
    architecture = {
        "network_class_name": f"{PACKAGE}.architectures.unet.{kind.class_name}",
        "arch_kwargs": kind.arguments(width),
        "_kw_requires_import": list(CLASS_ARGUMENTS),
    }
    config = {
        "library_name": _PLANS,
        "version": __version__,
        "network": kind.name,
        "width": width,
        "input_channels": plan["pretrain_num_input_channels"],
        "axes": ["z", "y", "x"],
        "spacing": pretrained["spacing"],
        "nnunet_configuration": {
            "inherits_from": "3d_fullres",
            "patch_size": pretrained["patch_size"],
            "architecture": architecture,
        },
    }
    files = {
        "adaptation_plan.json": plan | {"architecture_kwargs": architecture},
        "config.json": config,
    }
    return {name: f"{json.dumps(content, indent=1)}\n".encode() for name, content in files.items()}


def _pretrain_plan(run: Mapping[str, Any]) -> dict[str, Any]:
    store = run["store"]
    if not all(store.get("spacing_mm", [0.0])):
        raise CallError(
            "The run does not record the spacing of its scans, which format nnssl needs: its "
            "cubes were imported, or an earlier version started the run. Use --format "
            "state-dict, or train again."
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
                # nnU-Net standardises its input and has no scheme that maps a window to [0, 1]. The first
                # instance norm removes the scale; only near the cube's border does the shift have an effect.
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
    """Return a tree with kernels `[out, in, x, y, z]` turned into `[out, in, z, y, x]`, at any depth."""
    if isinstance(tree, Tensor):
        return tree.permute(0, 1, 4, 3, 2).contiguous() if tree.ndim == _VOLUME else tree
    if isinstance(tree, Mapping):
        return {key: _turn(value) for key, value in tree.items()}
    return [_turn(value) for value in tree] if isinstance(tree, list) else tree
