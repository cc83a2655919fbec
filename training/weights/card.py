"""The model card: what trained weights are, where they come from, and how they are loaded.

Markdown that begins with a YAML block, as hubs of models read it. It names no folder of the machine.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from genesis_toolkit.pipeline.describe.card import PATENT
from genesis_toolkit.pipeline.ledger import MANIFEST
from genesis_toolkit.pipeline.version import __version__
from genesis_toolkit.training.networks.registry import Architecture

_OURS = """\
from genesis_toolkit import load_encoder, load_network

network = load_network("{file}")  # degraded cubes in, restored cubes out
encoder = load_encoder("{file}")  # cubes in, a list of features by level out
"""
_ENCODER = """\
from genesis_toolkit import load_encoder

encoder = load_encoder("{file}")  # cubes in, a list of features by level out
"""
_TARGET = """\
from pathlib import Path

from genesis_toolkit.training.finetune.heads import build_target_network
from genesis_toolkit.training.weights.load import Beginning, read_weights

beginning = Beginning("{network}", width={width})
network = build_target_network(beginning, "{kind}", classes={classes}, axes={axes}, seed=0{more})
{frozen}network.load_state_dict(read_weights(Path("{file}")), strict=True)
network.eval()  # cubes in, logits out
"""
_NNSSL = """\
import torch

checkpoint = torch.load("{file}", weights_only=True)
plan = checkpoint["nnssl_adaptation_plan"]
print(plan["architecture_plans"]["arch_class_name"], len(checkpoint["network_weights"]))
"""
_NNUNET = """
### In nnU-Net, encoder and decoder

nnU-Net 2.8.1 takes {encoder} tensors of the encoder and {decoder} of the decoder, all but its segmentation
layers. DATASET is the number of your data set; it must have one input channel.

```bash
nnUNetv2_plan_and_preprocess -d DATASET -c 3d_fullres -pl {planner}
nnUNetv2_train DATASET 3d_fullres 0 -p {plans} -pretrained_weights {file}
```

It stops at the first tensor of another shape: for small scans it plans fewer stages, for thick slices other
kernels. The weights fit a plan with the configuration `nnunet_configuration` in the `config.json` that
`genesis-train export --format nnssl --folder` writes beside them.

### In nnU-Net, the encoder alone

These commands stand in nnU-Net's source since July 2026 and in no release up to 2.8.1. They leave the decoder
as it begins. Give the plan: with the default one they may load no tensor, and print "Loaded" all the same.
{channels}

```bash
nnUNetv2_preprocess_like_nnssl -d DATASET -n genesis -pc {file} -pl {plans}
nnUNetv2_train_pretrained DATASET 3d_fullres 0 -p {plans}
```
"""
#: By the class of the network: nnU-Net's planner, its plans, and what the second road says of channels.
_ROADS = {
    "ResidualEncoderUNet": (
        "nnUNetPlannerResEncL",
        "nnUNetResEncUNetLPlans",
        "More than one input channel is possible here.",
    ),
    "PlainConvUNet": ("ExperimentPlanner", "nnUNetPlans", "One input channel is possible here, too."),
}
_FORMATS = {
    "official": """\
a dict of `epoch`, `state_dict`, every key of which begins with `module.`, and
  `optimizer_state_dict`, as the method's authors publish theirs""",
    "state-dict": "the tensors by name, and nothing else",
    "safetensors": """\
the tensors by name; of a tensor with several names, as nnU-Net's networks have
  them, the first is kept""",
    "nnssl": """\
a checkpoint with an adaptation plan, for nnU-Net v2; the kernels are turned to its order of
  axes, and the network gives logits, whose sigmoid is the restored cube""",
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
        format: `official`, `nnssl`, `state-dict` or `safetensors`.
        part: `network`, or `encoder` for the encoder alone.
        task: `ncc`, `segment` or `dxc` of a fine-tuned network; None of a pre-trained one.
        network: name of the architecture.
        width: channels of the first convolution.
        weights: parameters of that part, counted.
        epoch: of the run, counted from 1.
        validation_loss: after that epoch: the mean squared error of values in [0, 1], or of a fine-tuned
            network the loss of its task.
        sha256: of the file, in hexadecimal.
    """

    file: str
    card: str
    format: str
    part: str
    task: str | None
    network: str
    width: int
    weights: int
    epoch: int
    validation_loss: float
    sha256: str


def model_card(
    result: WeightsResult,
    kind: Architecture,
    run: Mapping[str, Any],
    by_degradation: Mapping[str, float],
    names: Sequence[str],
) -> str:
    """Return the text of a card in Markdown, of what was written and what `run.json` says of its run.

    Beside it the validation loss of every combination of degradations, after that epoch, and the names of the
    tensors.
    """
    first = run.get("initial_encoder")
    begun = f"- the encoder began with `{first['file']}`, sha256 `{first['sha256']}`\n" if first else ""
    training = f"## Training\n\n{_listed(run['parameters'])}{begun}"
    losses = _losses(result, run["baselines"], by_degradation)
    whole = _NNSSL if result.format == "nnssl" else _OURS
    roads = _nnunet(result, kind, names) if result.format == "nnssl" else ""
    loading = _loading(result, whole) + roads
    heading = _heading(result, kind, run)
    return "\n".join((_front_matter(result, run), heading, _data(run), training, losses, loading, _LICENCE))


def target_card(
    result: WeightsResult, kind: Architecture, run: Mapping[str, Any], scores: Mapping[str, Any]
) -> str:
    """Return the text of a card in Markdown, of the weights of a fine-tuned network.

    `run` is what `run.json` says of its run, `scores` what `result.json` says.
    """
    # Since version 2 of such runs, a frozen encoder has a linear head, and its norms are frozen, too.
    probe = run["parameters"]["freeze_encoder"] and run["version"] > 1
    code = _TARGET.format(
        file="{file}",
        network=result.network,
        width=result.width,
        kind=run["kind"],
        classes=len(run["classes"]),
        axes=len(run["size"]),
        more=(", all_levels=True" if run["parameters"].get("head") == "all" else "")
        + (", probe=True" if probe else ""),
        frozen="network.freeze_encoder()\n" if probe else "",
    )
    parts = (
        _front_matter(result, run),
        _target_heading(result, kind, run),
        _target_data(run),
        f"## Training\n\n{_listed(run['parameters'])}{_beginning(run['beginning'])}",
        _scores(result, scores),
        _loading(result, code),
        _LICENCE,
    )
    return "\n".join(parts)


def _front_matter(result: WeightsResult, run: Mapping[str, Any]) -> str:
    """The YAML block that hubs of models read; the licence is for those who trained the weights to say."""
    tasks = {"segment": "image-segmentation", "classify": "image-classification"}
    tags = ["models-genesis", "self-supervised-learning", "medical", f"{len(run['size'])}d", result.network]
    tags += ["pytorch"] if result.format != "safetensors" else []
    tags += ["nnunet"] if result.format == "nnssl" else []
    tags += ["fine-tuned"] if result.task else []
    if result.part == "encoder" or not result.task:
        pipeline = "image-feature-extraction"
    else:
        pipeline = tasks[run["kind"]]
    listed = "".join(f"- {tag}\n" for tag in tags)
    return f"""\
---
license: unknown
library_name: genesis-toolkit
pipeline_tag: {pipeline}
datasets:
- {json.dumps(PurePath(run["store"]["path"]).name)}
tags:
{listed}---
"""


def _loading(result: WeightsResult, whole: str) -> str:
    code = (_ENCODER if result.part == "encoder" else whole).format(file=PurePath(result.file).name)
    return f"## Load it\n\n```python\n{code}```\n"


def _nnunet(result: WeightsResult, kind: Architecture, names: Sequence[str]) -> str:
    """How nnU-Net takes the weights: whole commands, and how many tensors each takes."""
    planner, plans, channels = _ROADS[kind.class_name]
    decoder = [
        name
        for name in names
        if name.startswith("decoder.") and not name.startswith(("decoder.encoder.", "decoder.seg_layers."))
    ]
    return _NNUNET.format(
        file=PurePath(result.file).name,
        encoder=sum(name.startswith("encoder.") for name in names),
        decoder=len(decoder),
        planner=planner,
        plans=plans,
        channels=channels,
    )


def _heading(result: WeightsResult, kind: Architecture, run: Mapping[str, Any]) -> str:
    axes = "z, y, x" if result.format == "nnssl" else ", ".join("xyz"[: len(run["size"])])
    cubes = _cubes(run)
    if result.part == "encoder":
        what, output = "The encoder of a", "a list of features by level"
    else:
        what, output = "A", f"the restored {cubes}, of the same shape and range"
    return f"""\
# {PurePath(result.file).name}

{what} {kind.words}, pre-trained on {cubes} of unlabelled scans:
they were degraded, and it learnt to restore them (Models Genesis). Trained with genesis-toolkit
{run["genesis_toolkit"]}, exported with {__version__}.

{_file(result)}{_input(kind, run, axes)}- output: {output}
"""


def _target_heading(result: WeightsResult, kind: Architecture, run: Mapping[str, Any]) -> str:
    axes = ", ".join("xyz"[: len(run["size"])])
    encoder = result.part == "encoder"
    what = "The encoder of a" if encoder else "A"
    begun = run["beginning"]["pretrained"]
    source = f"began with pre-trained weights of the {begun}" if begun else "began from scratch"
    logits = f"`[batch, {len(run['classes'])}, {axes}]`" if run["kind"] == "segment" else "`[batch, class]`"
    output = "a list of features by level" if encoder else f"logits {logits}: {', '.join(run['classes'])}"
    return f"""\
# {PurePath(result.file).name}

{what} network fine-tuned for the task `{run["task"]}` ({run["kind"]}), a {kind.words}. It {source}; these
are no pre-trained weights. Trained with genesis-toolkit {run["genesis_toolkit"]}, exported with
{__version__}.

{_file(result)}{_input(kind, run, axes)}- output: {output}
"""


def _file(result: WeightsResult) -> str:
    return f"""\
- format `{result.format}`: {_FORMATS[result.format]}
- sha256: `{result.sha256}`
- network: {result.network}, width {result.width}, {result.weights:,} parameters
"""


def _input(kind: Architecture, run: Mapping[str, Any], axes: str) -> str:
    low, high = run["window"]
    return f"""\
- input: float32 `[batch, 1, {axes}]` in [0, 1]: voxels (HU in CT) clipped to [{low}, {high}] and scaled;
  every edge is a multiple of {kind.edge_multiple}
"""


def _target_data(run: Mapping[str, Any]) -> str:
    store = run["store"]
    return f"""\
## Data

- store: `{PurePath(store["path"]).name}` ({store["format"]})
- sha256 of the store's `{MANIFEST}`: `{store["fingerprint"]}`
- {_cubes(run)} of {_times(run["size"])} voxels: {run["train_cubes"]} of {run["train_scans"]} labelled scans
  train, {run["validation_cubes"]} validate, {run["test_cubes"]} test
"""


def _beginning(beginning: Mapping[str, Any]) -> str:
    if beginning["file"] is None:
        return "- it began from scratch\n"
    return (
        f"- the {beginning['pretrained']} began with `{beginning['file']}`, sha256 `{beginning['sha256']}`\n"
    )


def _scores(result: WeightsResult, scores: Mapping[str, Any]) -> str:
    """What the network scored on the test fold."""
    rows = "".join(
        f"| {name.replace('_', ' ')} | {'undetermined' if value is None else f'{value:.4f}'} |\n"
        for name, value in scores["metrics"].items()
    )
    notes = "".join(f"- {note}\n" for note in scores["notes"])
    return f"""\
## Scores

On the test fold, of the whole network after epoch {result.epoch}, whose validation loss was
{result.validation_loss:.6f}.

| metric | value |
|---|---|
{rows}{notes and f"{chr(10)}{notes}"}"""


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
