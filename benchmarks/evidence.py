"""Whether pre-training helps with few labels: from made-up scans to the slides' figure, in one command.

    python benchmarks/evidence.py --out DIR [--trials 10]

Practice scans, cubes of 24 x 24 x 16 voxels, a small 3D U-Net pre-trained on those of subsets 0-6 without any
label, two tasks (nodule or not; which voxels are nodule), and on each the same network from scratch and from
the pre-trained weights: the same labels, epochs and seeds. docs/explanation/evidence.md tells why these
settings. CPU only. Interrupted, the same command goes on; finished, it prints the table again.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as genesis-train does, before torch is loaded

from pipeline.extract import ExtractParameters, extract_cubes
from pipeline.phantom import NODULE_MASKS, PhantomParameters, write_luna16
from pipeline.targets.extract import extract_targets
from pipeline.targets.parameters import MaskParameters, NoduleParameters
from training.arms import Arm
from training.evidence import Evidence
from training.finetune_parameters import FinetuneParameters
from training.outcome import PretrainOutcome
from training.parameters import Execution, PretrainParameters
from training.pretrain import pretrain
from training.statistics import stars
from training.trials import compare_trials

SIZE = (24, 24, 16)
SCANS = PhantomParameters(scans=40, shape=(320, 320, 128))
# The published bound of 0.15 refuses cubes of the kind that 56 % of the nodules lie in.
CUBES = ExtractParameters(size=SIZE, border=(40, 40, 8), min_tissue=0.02, max_tissue=0.5)
# SGD at 1.0, as published: Adam comes to the same loss with features that all say the same (see that page).
PRETRAINING = PretrainParameters(width=8, epochs=32, batch_size=8, lr=1.0, schedule="cosine", warmup=10)
NODULES = NoduleParameters(size=SIZE, negatives=4)
FINETUNING = FinetuneParameters(epochs=30, patience=10, batch_size=8, lr=0.003, labels=5)
CUBES_OF_MASKS = 6


def say(line: str) -> None:
    """Progress, beside the table."""
    print(line, file=sys.stderr, flush=True)


def pretrained(folder: Path) -> PretrainOutcome:
    """Practice scans, their cubes, and a network that has learnt to restore them, in `folder`."""
    scans, cubes = folder / "scans", folder / "cubes.zarr"
    if not scans.exists():  # it is named so once it is whole
        write_luna16(scans, SCANS)
    extract_cubes(scans, cubes, CUBES)
    return pretrain(cubes, folder / "pretrained", PRETRAINING, Execution(device="cpu"), say=say)


def target_stores(folder: Path) -> list[Path]:
    """Labelled cubes of the two tasks, in `folder`."""
    scans, stores = folder / "scans", [folder / "nodule-or-not.zarr", folder / "nodule-masks.zarr"]
    masks = MaskParameters(size=SIZE, masks=scans / NODULE_MASKS, cubes_per_scan=CUBES_OF_MASKS)
    extract_targets(scans, stores[0], NODULES)
    extract_targets(scans, stores[1], masks)
    return stores


def show(outcome: PretrainOutcome, evidence: Evidence) -> None:
    """What came out."""
    print(f"pre-training, {outcome.epochs} epochs: validation loss {outcome.validation_loss:.4f}   "
          f"copying {outcome.copy_loss:.4f}   mean image {outcome.mean_image_loss:.4f}")  # fmt: skip
    for one in evidence.summaries:
        metric = evidence.metrics.get(one.task, "")
        print(f"{one.task:<14} {one.arm:<14} {metric:<4} {one.mean:.4f} +- {one.sd:.4f}   n = {one.n}")
    for pair in evidence.comparisons:
        effect = pair.effect
        size = f"g {effect.g:+.2f} ({effect.low:+.2f} .. {effect.high:+.2f})" if effect else "g undetermined"
        p = "undetermined" if pair.p is None else f"{pair.p:.4f} {stars(pair.p)}"
        print(f"{pair.task:<14} {pair.second.arm} - {pair.first.arm} {pair.difference:+.4f}   {size}   p {p}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out what is left to do, and print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--trials", type=int, default=10)
    given, begun = options.parse_args(arguments), perf_counter()
    folder = given.out.resolve()
    outcome = pretrained(folder)
    say(f"pre-trained after {perf_counter() - begun:.0f} s")
    written = compare_trials(
        target_stores(folder),
        [Arm("scratch-3d"), Arm("genesis-ct-3d", folder / "pretrained")],
        folder / "comparison",
        FINETUNING,
        trials=given.trials,
        device="cpu",
        say=say,
    )
    show(outcome, written.evidence)
    say(f"{perf_counter() - begun:.0f} s; {folder / 'comparison' / 'figure.png'}")


if __name__ == "__main__":
    main()
