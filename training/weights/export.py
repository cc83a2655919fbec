"""Trained weights on their way to others: write them in a format of theirs, with a model card beside."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.ledger import AnyPath, sha256_of, write_whole
from genesis_toolkit.training.machine.run_folder import Run, check_file
from genesis_toolkit.training.networks.registry import OF_THE_PAPERS, Architecture
from genesis_toolkit.training.weights.card import WeightsResult, model_card
from genesis_toolkit.training.weights.files import read_checkpoint, saved_bytes
from genesis_toolkit.training.weights.load import PREFIX, file_of, load_exactly, recognise
from genesis_toolkit.training.weights.nnssl import nnssl_checkpoint

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
    found, width = recognise(checkpoint["state_dict"], best)
    network = load_exactly(found, width, checkpoint["state_dict"], best)
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
    return {**{key: checkpoint[key] for key in ("epoch", "optimizer_state_dict")}, "state_dict": weights}


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
