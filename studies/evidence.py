"""Does pre-training pay off? Three arms, frozen and whole, on practice CT scans and on real chest X-rays.

    python studies/evidence.py practice --out DIR
    python studies/evidence.py xrays --out DIR --pneumonia FOLDER_OR_NPZ --nih FOLDER
    python studies/evidence.py ladder --out DIR --pneumonia FOLDER_OR_NPZ [--rungs 20,150,450,900]

`practice` needs no data: it simulates CT scans. `xrays` takes PneumoniaMNIST (MedMNIST's pneumoniamnist.npz,
or a folder with images/ and labels.csv) and NIH ChestX-ray14 as it is unpacked, or a part of it. `ladder`
repeats the first of them with longer and longer pre-training. The seed of the folds is a hash of the settings
below, so nobody can choose it; `compare` registers the outcomes before it reads a test fold.
docs/explanation/evidence.md explains the settings. CPU only. Run the same command again to resume.
"""

import argparse
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as genesis-train does, before torch is loaded

import numpy as np
import torch
from PIL import Image

import genesis_toolkit as gt
from genesis_toolkit.pipeline.practice.luna16 import NODULE_MASKS, PhantomParameters, write_luna16
from genesis_toolkit.training.compare.evidence import Evidence
from genesis_toolkit.training.compare.plan import Arm
from genesis_toolkit.training.compare.registration import Primary
from genesis_toolkit.training.compare.statistics import stars

PUBLISHED, DROPPED = "published", "dropped"
SCRATCH_NAMES = {2: "scratch-2d", 3: "scratch-3d"}
#: Probability of zeroing each skip connection in a step of pre-training.
DROP_SKIPS = {PUBLISHED: 0.0, DROPPED: 0.5}


@dataclass(frozen=True)
class Xrays:
    """Settings for one set of X-ray images.

    Attributes:
        columns: what is classified, from the columns of its table.
        size: edges of an image in pixels.
        test, validation: cases of these folds; all others train.
        most: cases in all, drawn at random.
        epochs: of pre-training.
        probe_labels, whole_labels: points of the curves with frozen encoder and with all weights.
    """

    name: str
    columns: str
    size: tuple[int, int]
    test: int
    validation: int
    most: int
    epochs: int
    probe_labels: tuple[int, ...]
    whole_labels: tuple[int, ...]


PNEUMONIA = Xrays("pneumonia", "pneumonia", (32, 32), 1000, 300, 10_000, 20, (20, 60, 200), (20, 60, 200))
VIEWS = Xrays("views", "View Position", (64, 64), 171, 50, 471, 200, (20, 60, 200), (60,))
WIDTH_2D, WIDTH_3D = 16, 8
# `patience` and `lr_step` change nothing here, but the seeds are hashes of all settings.
IMAGES = gt.PretrainParameters(
    width=WIDTH_2D, batch_size=32, lr=0.002, schedule="cosine", warmup=20, patience=50, lr_step=40
)

SCANS = PhantomParameters(scans=60, shape=(320, 320, 128))
SIZE = (32, 32, 16)
# The published bound of 0.15 refuses cubes like those that 56 % of the nodules lie in.
CUBES = gt.ExtractParameters(
    size=SIZE, cubes_per_scan=64, border=(40, 40, 8), min_tissue=0.02, max_tissue=0.5
)
NODULES = gt.NoduleParameters(size=SIZE, negatives=4)
MASKS_PER_SCAN = 6
VOLUMES = gt.PretrainParameters(
    width=WIDTH_3D, batch_size=8, optimiser="adam", lr=0.002, schedule="cosine", warmup=20, epochs=8,
    patience=50, lr_step=40,
)  # fmt: skip
SCANS_LABELLED = (2, 5, 20)

PROBE = gt.FinetuneParameters(freeze_encoder=True)
WHOLE = gt.FinetuneParameters(steps=500)
RUNGS = (20, 150, 450, 900)  # epochs; 20 take 80 s of one core
RUNG_LABELS = 60


def seed_of(*settings: Any) -> int:
    """Seed of folds or scans: a hash of the settings, which therefore stood before anything was drawn."""
    text = json.dumps([*map(asdict, settings), asdict(PROBE), asdict(WHOLE), DROP_SKIPS], default=str)
    return int(sha256(text.encode()).hexdigest()[:7], 16)


def say(line: str) -> None:
    """Progress, beside the tables."""
    print(line, file=sys.stderr, flush=True)


def rows_of(table: Path) -> list[dict[str, str]]:
    """The rows of a table by the names of its columns."""
    with table.open(newline="") as lines:
        return list(csv.DictReader(lines))


def unpack(npz: Path, folder: Path) -> Path:
    """PneumoniaMNIST as a folder of PNG, from MedMNIST's file: `train` and `val`, padded to 32 x 32."""
    if (folder / "labels.csv").exists():  # it is written last
        return folder
    (folder / "images").mkdir(parents=True, exist_ok=True)
    held, lines = np.load(npz), ["image,pneumonia,part"]
    for part in ("train", "val"):
        for number, (image, label) in enumerate(
            zip(held[f"{part}_images"], held[f"{part}_labels"], strict=True)
        ):
            name = f"{part}_{number:05}.png"
            Image.fromarray(np.pad(image, 2)).save(folder / "images" / name)
            lines.append(f"{name},{int(label[0])},{part}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def table_of(source: Path) -> Path:
    """The table of labels in a folder of images."""
    found = sorted([*source.glob("labels.csv"), *source.glob("Data_Entry_2017*.csv")])
    if not found:
        sys.exit(f"{source} has neither labels.csv nor Data_Entry_2017*.csv: name the folder that holds one.")
    return found[0]


def one_a_patient(table: Path) -> set[str]:
    """Names of images, of each patient the first; of a table without patients all."""
    first: dict[str, str] = {}
    for row in rows_of(table):
        name = row.get("image") or row["Image Index"]
        first.setdefault(row.get("Patient ID", name), name)
    return set(first.values())


def write_split(source: Path, setting: Xrays, file: Path) -> None:
    """Deal the images of `source` to the folds, in an order of hashes of the seed and their names."""
    wanted = one_a_patient(table_of(source))
    images = [path for path in sorted(source.rglob("*.png")) if path.name in wanted]
    seed = seed_of(setting, IMAGES)
    say(f"Seed of the folds: {seed}, from the settings.")
    images.sort(key=lambda path: sha256(f"{seed} {path.name}".encode()).digest())
    parts = ["test"] * setting.test + ["validation"] * setting.validation
    parts += ["train"] * (min(setting.most, len(images)) - len(parts))
    parts += ["exclude"] * (len(images) - len(parts))
    lines = [f"{path.relative_to(source)},{part}" for path, part in zip(images, parts, strict=True)]
    file.write_text("\n".join(["scan,part", *lines]) + "\n")


def xray_stores(setting: Xrays, source: Path, out: Path) -> tuple[Path, Path]:
    """The cubes and the targets of a set of X-ray images, in `out`; pre-training takes no image of test."""
    out.mkdir(parents=True, exist_ok=True)
    split, cubes, targets = out / "split.csv", out / "cubes.zarr", out / f"{setting.name}.zarr"
    write_split(source, setting, split)
    layout = "nih" if "2017" in table_of(source).name else "images"
    images = gt.ImageParameters(layout=layout, size=setting.size, split="all" if layout == "nih" else None)
    labels = gt.ImageLabelParameters(
        label_table=table_of(source), label_columns=(setting.columns,), layout=layout, size=setting.size
    )
    gt.extract_cubes(source, cubes, images, split_file=split)
    gt.extract_targets(source, targets, labels, split_file=split)
    return cubes, targets


def _pretrain(work: tuple[Path, Path, gt.PretrainParameters]) -> None:
    """Pre-train in this process."""
    store, run, parameters = work
    gt.pretrain(
        store, run, parameters, gt.Execution(device="cpu"), say=lambda line: say(f"{run.name}: {line}")
    )


def pretrain(runs: Iterable[tuple[Path, Path, gt.PretrainParameters]]) -> None:
    """Pre-train several networks, two side by side, each in one thread: small networks train fastest so."""
    with ProcessPoolExecutor(2, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        list(pool.map(_pretrain, runs))


def arms_of(cubes: Path, out: Path, parameters: gt.PretrainParameters) -> list[Arm]:
    """Pre-train one network each way on a store, and return all arms."""
    runs = {arm: out / arm for arm in DROP_SKIPS}
    pretrain((cubes, runs[arm], replace(parameters, drop_skips=share)) for arm, share in DROP_SKIPS.items())
    return [Arm(SCRATCH_NAMES[len(gt.open_store(cubes).size)]), *(Arm(arm, run) for arm, run in runs.items())]


def compare(
    targets: Sequence[Path], arms: Sequence[Arm], out: Path, parameters: gt.FinetuneParameters,
    labels: Sequence[int], trials: int, device: str = "cpu",
) -> Evidence:  # fmt: skip
    """All arms on these tasks; the primary outcome is dropped skips against scratch at the middle point."""
    task, middle = targets[0].name.removesuffix(".zarr"), sorted(labels)[len(labels) // 2]
    primary = Primary(f"{task}, {middle} labels", arms[0].name, arms[-1].name)
    written = gt.compare_trials(
        targets, arms, out, parameters, trials=trials, labels=labels, primary=primary, device=device, say=say
    )
    show(out.name, written.evidence)
    return written.evidence


def show(name: str, evidence: Evidence) -> None:
    """Print the scores of all arms, and every comparison."""
    registered = evidence.registration
    print(f"\n{name}: registration {registered.sha256[:12] if registered else 'none'}")
    for one in evidence.summaries:
        metric = evidence.metrics.get(one.task, "")
        print(f"  {one.task:<26} {one.arm:<12} {metric:<8} {one.mean:.3f} +- {one.sd:.3f}  n = {one.n}")
    for pair in evidence.comparisons:
        size = f"g {pair.effect.g:+.2f}" if pair.effect else "g undetermined"
        p = "undetermined" if pair.p is None else f"{pair.p:.2g} {stars(pair.p)}"
        first = " (primary)" if pair == evidence.primary else ""
        arms = f"{pair.second.arm} - {pair.first.arm}"
        print(f"  {pair.task:<26} {arms}: {pair.difference:+.3f}  {size}  p {p}{first}")


def study_practice(given: argparse.Namespace) -> None:
    """3D, on simulated CT scans: nodule or not, and nodule masks."""
    out: Path = given.out
    if not (out / "scans").exists():  # it gets this name once it is complete
        write_luna16(out / "scans", replace(SCANS, seed=seed_of(SCANS, CUBES, NODULES, VOLUMES)))
    masks = gt.MaskParameters(size=SIZE, masks=out / "scans" / NODULE_MASKS, cubes_per_scan=MASKS_PER_SCAN)
    gt.extract_cubes(out / "scans", out / "cubes.zarr", CUBES)
    gt.extract_targets(out / "scans", out / "nodules.zarr", NODULES)
    gt.extract_targets(out / "scans", out / "masks.zarr", masks)
    arms = arms_of(out / "cubes.zarr", out, VOLUMES)
    compare([out / "nodules.zarr"], arms, out / "probe", PROBE, SCANS_LABELLED, given.trials)
    compare([out / "masks.zarr"], arms, out / "masks", WHOLE, SCANS_LABELLED[1:2], given.trials)
    compare([out / "nodules.zarr"], arms, out / "whole", WHOLE, SCANS_LABELLED[1:2], given.trials)


def pneumonia_folder(given: argparse.Namespace) -> Path:
    """The folder of PneumoniaMNIST, unpacked if it was given as MedMNIST's file."""
    place: Path = given.pneumonia
    return unpack(place, given.out / "pneumonia-mnist") if place.suffix == ".npz" else place


def study_xrays(given: argparse.Namespace) -> None:
    """2D, on real X-rays: pneumonia or not, and the view."""
    sources = ((PNEUMONIA, pneumonia_folder(given)), (VIEWS, given.nih))
    ready = {}
    for setting, source in sources:
        out = given.out / setting.name
        cubes, targets = xray_stores(setting, source, out)
        arms = arms_of(cubes, out, replace(IMAGES, epochs=setting.epochs, patience=setting.epochs))
        ready[setting] = (out, targets, arms)
        compare([targets], arms, out / "probe", PROBE, setting.probe_labels, given.trials)
    for setting, (out, targets, arms) in ready.items():
        compare([targets], arms, out / "whole", WHOLE, setting.whole_labels, given.trials)


def study_ladder(given: argparse.Namespace) -> None:
    """2D, pneumonia or not: the gain against the length of pre-training."""
    out: Path = given.out / "ladder"
    cubes, targets = xray_stores(PNEUMONIA, pneumonia_folder(given), out)
    named = {f"{arm}-{rung}": (share, rung) for rung in given.rungs for arm, share in DROP_SKIPS.items()}
    pretrain(
        (cubes, out / name, replace(IMAGES, epochs=rung, patience=rung, drop_skips=share))
        for name, (share, rung) in named.items()
    )
    arms = [Arm(SCRATCH_NAMES[2]), *(Arm(name, out / name) for name in named)]
    found = {
        kind: compare([targets], arms, out / kind, parameters, (RUNG_LABELS,), given.trials)
        for kind, parameters in (("probe", PROBE), ("whole", WHOLE))
    }
    draw_ladder(found, out / "ladder.png")
    say(f"Look at {out / 'ladder.png'}.")


def draw_ladder(found: dict[str, Evidence], picture: Path) -> None:
    """Draw the score against the epochs of pre-training, on a logarithmic axis, with standard errors."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.4), layout="constrained")
    for axes, (kind, evidence) in zip(figure.subplots(1, len(found)), found.items(), strict=True):
        scores = {one.arm: one for one in evidence.summaries}
        scratch = scores.pop(SCRATCH_NAMES[2])
        axes.axhline(scratch.mean, color="#999999", label="scratch")
        axes.axhspan(
            *(scratch.mean + side * scratch.sd / scratch.n**0.5 for side in (-1, 1)),
            color="#999999",
            alpha=0.2,
        )
        for arm, colour in ((PUBLISHED, "#e69f00"), (DROPPED, "#0072b2")):
            points = [
                (int(name.partition("-")[2]), one) for name, one in scores.items() if name.startswith(arm)
            ]
            axes.errorbar(
                [rung for rung, _ in points],
                [one.mean for _, one in points],
                [one.sd / one.n**0.5 for _, one in points],
                marker="o",
                capsize=3,
                color=colour,
                label={PUBLISHED: "as published", DROPPED: "skips dropped"}[arm],
            )
        axes.set(xscale="log", xlabel="epochs of pre-training", ylabel="AUC", title=TITLES[kind])
        rungs = sorted({int(name.partition("-")[2]) for name in scores})
        axes.set_xticks(rungs, map(str, rungs))
        axes.minorticks_off()
        axes.legend(frameon=False)
    figure.savefig(picture, dpi=150)


TITLES = {"probe": "frozen encoder, linear probe", "whole": "all weights fine-tuned"}
STUDIES: dict[str, Callable[[argparse.Namespace], None]] = {
    "practice": study_practice,
    "xrays": study_xrays,
    "ladder": study_ladder,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out what is left to do, and print the tables."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("study", choices=STUDIES)
    options.add_argument("--out", type=Path, required=True, help="folder of the study; created if needed")
    options.add_argument("--trials", type=int, default=10, help="trials of every arm (default: 10)")
    options.add_argument("--pneumonia", type=Path, help="PneumoniaMNIST: pneumoniamnist.npz or a folder")
    options.add_argument("--nih", type=Path, help="folder of NIH ChestX-ray14, or of a part of it")
    options.add_argument(
        "--rungs", type=lambda text: tuple(map(int, text.split(","))), default=RUNGS,
        help="ladder: epochs of each pre-training (default: 20,150,450,900)",
    )  # fmt: skip
    given, begun = options.parse_args(arguments), perf_counter()
    given.out = given.out.resolve()
    needed = {"practice": (), "xrays": ("pneumonia", "nih"), "ladder": ("pneumonia",)}[given.study]
    for name in needed:
        if getattr(given, name) is None:
            options.error(f"{given.study} needs --{name}")
    STUDIES[given.study](given)
    say(f"{perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
