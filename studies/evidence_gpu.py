"""The 3D study of evidence.py at published size, on a GPU: width 32, cubes of 64 x 64 x 32, bf16.

    python studies/evidence_gpu.py --out DIR [--devices 4]
    python studies/evidence_gpu.py --out DIR --scans LUNA16

Each way of pre-training sees 256,000 cubes, which takes one large GPU about ten minutes. Without --scans the
study simulates CT scans; with LUNA16 it uses the published subsets. Extraction and comparison are those of
evidence.py, and so are the printed tables. Run the same command again to resume.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import evidence
from evidence import DROP_SKIPS, NODULES, SCANS, SCANS_LABELLED, SCRATCH_NAMES, say, seed_of

import genesis_toolkit as gt
from genesis_toolkit.pipeline.practice.luna16 import write_luna16
from genesis_toolkit.training.compare.plan import Arm

SIZE = (64, 64, 32)
CUBES_SEEN, BATCH = 256_000, 64
SIMULATED = replace(SCANS, scans=200)
# The border and the bound of evidence.py for simulated scans; those published for LUNA16.
CUBES_SIMULATED = gt.ExtractParameters(size=SIZE, border=(40, 40, 8), min_tissue=0.02, max_tissue=0.5)
CUBES_LUNA16 = gt.ExtractParameters(size=SIZE)
PRETRAINING = gt.PretrainParameters(
    width=32,
    batch_size=BATCH,
    optimiser="adam",
    lr=0.001,
    schedule="cosine",
    warmup=100,
    precision="bf16",
    max_steps=CUBES_SEEN // BATCH,
    patience=50,
    lr_step=40,  # unused by the cosine, but the seed is a hash of all settings
)
TARGETS = replace(NODULES, size=SIZE)
WHOLE = gt.FinetuneParameters(steps=1000, batch_size=16, precision="bf16")
PROBE = gt.FinetuneParameters(freeze_encoder=True, batch_size=32)


def main(arguments: Sequence[str] | None = None) -> None:
    """Carry out what is left to do, and print the tables."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, required=True, help="folder of the study; created if needed")
    options.add_argument("--scans", type=Path, help="folder of LUNA16 (default: simulated scans)")
    options.add_argument("--devices", type=int, default=1, help="GPUs that share each batch (default: 1)")
    options.add_argument("--device", default="cuda", help="cuda, or cpu for a trial (default: cuda)")
    options.add_argument("--trials", type=int, default=10, help="trials of every arm (default: 10)")
    given = options.parse_args(arguments)
    out: Path = given.out.resolve()
    scans: Path = given.scans or out / "scans"
    if given.scans is None and not scans.exists():
        write_luna16(scans, replace(SIMULATED, seed=seed_of(SIMULATED, CUBES_SIMULATED, PRETRAINING)))
    cubes, targets = out / "cubes.zarr", out / "nodules.zarr"
    gt.extract_cubes(scans, cubes, CUBES_LUNA16 if given.scans else CUBES_SIMULATED)
    gt.extract_targets(scans, targets, TARGETS)
    arms = [Arm(SCRATCH_NAMES[3])]
    for arm, share in DROP_SKIPS.items():
        execution = gt.Execution(device=given.device, devices=given.devices)
        gt.pretrain(cubes, out / arm, replace(PRETRAINING, drop_skips=share), execution, say=say)
        arms.append(Arm(arm, out / arm))
    for name, parameters in (("probe", PROBE), ("whole", WHOLE)):
        evidence.compare([targets], arms, out / name, parameters, SCANS_LABELLED, given.trials, given.device)


if __name__ == "__main__":
    main()
