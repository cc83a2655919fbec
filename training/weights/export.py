"""Export trained weights in other formats, with a model card next to them.

The weights are those of the best epoch, of pre-training or of fine-tuning: the whole network, or its encoder.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genesis_toolkit.pipeline.absent import no_run
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import AnyPath, sha256_of, write_whole
from genesis_toolkit.training.machine.run_folder import Run, check_file
from genesis_toolkit.training.networks.registry import (
    OF_THE_PAPERS,
    Architecture,
    architecture,
    build_network,
)
from genesis_toolkit.training.weights import files
from genesis_toolkit.training.weights.card import WeightsResult, model_card, target_card
from genesis_toolkit.training.weights.load import PREFIX, encoder_of, file_of, recognise
from genesis_toolkit.training.weights.nnssl import folder_files, nnssl_checkpoint

#: What `export` writes, and of which part of the network.
FORMATS = ("official", "nnssl", "state-dict", "safetensors")
PARTS = ("network", "encoder")

_OF_ANY = ("state-dict", "safetensors")  # tensors by name, for any network or part
_BEFORE_ENCODER = ("", "encoder.", "way_down.", "network.", "network.encoder.")  # prefixes of its names
_CHECKPOINT, _CARD = "checkpoint_final.pth", "README.md"  # in a folder
_TUNED = "genesis-finetune-run"  # format named in the `run.json` of fine-tuning, any version
_OF_TUNED = {"parameters", "store", "beginning", "kind", "task", "classes", "size", "window", "version"}
_FOLDER = (_CHECKPOINT, "adaptation_plan.json", "config.json", _CARD)


@dataclass(frozen=True)
class _Best:
    """The best weights of a run.

    `run` is the content of `run.json`; `epochs` the `losses.jsonl` lines up to the best epoch (pre-training);
    `result` the content of `result.json` (fine-tuning), else None. `network` is empty for fine-tuning.
    """

    run: Mapping[str, Any]
    kind: Architecture
    width: int
    network: nn.Module
    count: int
    checkpoint: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    validation_loss: float
    epochs: tuple[dict[str, Any], ...] = ()
    result: Mapping[str, Any] | None = None


def export_weights(
    folder: AnyPath,
    out: AnyPath,
    kind: str,
    *,
    part: str = "network",
    as_folder: bool = False,
    overwrite: bool = False,
) -> WeightsResult:
    """Write the best weights of a run in another format, with a model card next to them.

    Args:
        folder: folder of a pre-training run, or of a finished fine-tuning run.
        out: the file to write; the card has the same name with `.md` appended.
        kind: `official` (METHOD.md section 4), `nnssl` (EXCHANGE.md), or tensors by name: `state-dict` as
            torch saves them, `safetensors` as that library does. Fine-tuning runs allow the last two.
        part: `network`, or `encoder` for the encoder only, under the names used by the module that
            `load_encoder` returns; needs one of the last two formats.
        as_folder: with format `nnssl`, make `out` a folder of `checkpoint_final.pth`, `adaptation_plan.json`,
            `config.json` and the card, `README.md`.
        overwrite: replace an existing `out`.

    Raises:
        CallError: there is no run or no finished epoch, `out` is in the way, the format does not support
            the network, or a package is not installed; nothing is written.
        DataError: the checkpoint is damaged, or holds NaN or infinity.
    """
    _check_call(kind, part, as_folder=as_folder)
    folder, out = Path(folder), Path(out)
    if as_folder and out.is_file():
        raise CallError(f"{out} is a file, but --folder writes a folder of that name: choose another name.")
    paths = [out / name for name in _FOLDER] if as_folder else [out, out.with_name(f"{out.name}.md")]
    for path in paths:
        check_file(path, folder, overwrite=overwrite)
    run = _json(folder / "run.json") or {}
    best = _finetuned(folder, run, kind) if run.get("format") == _TUNED else _pretrained(folder)
    if part == "encoder":
        best = _encoder_alone(best, file_of(folder))
    content = _content(best, kind)
    data = files.safetensors_bytes(content) if kind == "safetensors" else files.saved_bytes(content)
    result = WeightsResult(
        file=str(paths[0]),
        card=str(paths[-1]),
        format=kind,
        part=part,
        task=None if best.result is None else best.run["task"],
        network=best.kind.name,
        width=best.width,
        weights=best.count,
        epoch=best.checkpoint["epoch"],
        validation_loss=best.validation_loss,
        sha256=sha256_of(data),
    )
    if best.result is not None:
        text = target_card(result, best.kind, best.run, best.result)
    else:
        text = model_card(result, best.kind, best.run, best.epochs[-1]["by_degradation"], list(best.weights))
    beside = folder_files(content, best.kind, best.width) if as_folder else {}
    for path, written in zip(paths, (data, *beside.values(), text.encode()), strict=True):
        write_whole(path, written)
    return result


def _check_call(kind: str, part: str, *, as_folder: bool) -> None:
    for option, value, allowed in (("format", kind, FORMATS), ("part", part, PARTS)):
        if value not in allowed:
            raise CallError(f"--{option} {value} is unknown; allowed: {', '.join(allowed)}.")
    if as_folder and kind != "nnssl":
        raise CallError(
            f"--folder needs --format nnssl, not --format {kind}: omit --folder or use --format nnssl."
        )
    if part == "encoder" and kind not in _OF_ANY:
        raise CallError(
            f"--format {kind} holds whole networks, so it does not allow --part encoder: use "
            f"--format {' or --format '.join(_OF_ANY)}."
        )


def _pretrained(folder: Path) -> _Best:
    """Read the best weights of a run of pre-training; see `export_weights` for errors."""
    run = _described(folder)
    best = file_of(folder)
    checkpoint = files.read_checkpoint(best)
    kind, width, network = recognise(checkpoint["state_dict"], best)
    last, losses = checkpoint["epoch"], Run(folder).losses
    try:
        epochs = Run(folder).records(range(1, last + 1))
    except (DataError, OSError):
        epochs = []
    if not epochs:
        raise DataError(
            f"{losses} is damaged: the file must list the {last} epochs of the "
            "checkpoint. Restore it from a copy."
        )
    return _Best(
        run=run,
        kind=kind,
        width=width,
        network=network,
        count=sum(weights.numel() for weights in network.parameters()),
        checkpoint=checkpoint,
        weights=checkpoint["state_dict"],
        validation_loss=checkpoint["best_loss"],
        epochs=tuple(epochs),
    )


def _finetuned(folder: Path, run: Mapping[str, Any], kind: str) -> _Best:
    """Read the network of a finished run of fine-tuning; see `export_weights` for errors."""
    if kind not in _OF_ANY:
        raise CallError(
            f"--format {kind} is for pre-trained networks, but {folder} holds a fine-tuned "
            f"one: use --format {' or --format '.join(_OF_ANY)}."
        )
    path = folder / "result.json"
    if not path.is_file():
        raise CallError(f"{folder} is not finished: repeat the command that started the run to finish it.")
    result = _json(path) or {}
    for file, content, needed in (
        (folder / "run.json", run, _OF_TUNED),
        (path, result, {"weights", "validation_loss", "metrics", "notes"}),
    ):
        if not content.keys() >= needed:
            raise DataError(f"{file} is damaged: run genesis-train finetune again with --overwrite.")
    best = file_of(folder)
    checkpoint = files.read_checkpoint(best, files.FINETUNED)
    files.check_finite(checkpoint["state_dict"], best)
    return _Best(
        run=run,
        kind=architecture(run["beginning"]["network"]),
        width=run["beginning"]["width"],
        network=nn.Module(),
        count=result["weights"],
        checkpoint=checkpoint,
        weights=checkpoint["state_dict"],
        validation_loss=result["validation_loss"],
        result=result,
    )


def _json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None without the file."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _described(folder: Path) -> dict[str, Any]:
    """Return the content of `run.json` of a pre-training run."""
    try:
        described = Run(folder).described()
    except (CallError, DataError, NotADirectoryError):
        raise CallError(
            f"{folder} is not a run of genesis-train pretrain that this version of "
            "genesis-toolkit can read, according to its run.json: give the folder of such a "
            "run."
        ) from None
    if described is None:
        raise no_run(folder)
    return described


def _encoder_alone(best: _Best, path: Path) -> _Best:
    """Return the encoder of a network, with the names it has on its own."""
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten below
        encoder = encoder_of(build_network(best.kind.name, best.width))
    own = encoder.state_dict()
    before = next((text for text in _BEFORE_ENCODER if text + next(iter(own)) in best.weights), "")
    weights = {key: best.weights[before + key] for key in own if before + key in best.weights}
    files.load_weights(encoder, weights, path)
    count = sum(each.numel() for each in encoder.parameters())
    return replace(best, weights=weights, count=count)


def _content(best: _Best, kind: str) -> dict[str, Any]:
    """Return the content of a file in that format."""
    if kind == "nnssl":
        return nnssl_checkpoint(best.kind, best.width, best.network, best.checkpoint, best.run, best.epochs)
    return _official(best.kind, best.checkpoint) if kind == "official" else dict(best.weights)


def _official(kind: Architecture, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dict of the authors' format, or raise `CallError` for a network that is not theirs."""
    if kind.name != OF_THE_PAPERS[3]:
        others = "--format nnssl or --format state-dict" if kind.class_name else "--format state-dict"
        raise CallError(
            f"The official format holds the 3D U-Net only, but this run trained {kind.name}: use {others}."
        )
    weights = {PREFIX + key: tensor for key, tensor in checkpoint["state_dict"].items()}
    kept = {key: checkpoint[key] for key in ("epoch", "state_dict", "optimizer_state_dict")}
    return kept | {"state_dict": weights}
