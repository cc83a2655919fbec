"""What pre-trained weights have come to, before any fine-tuning: two tables of docs/explanation/evidence.md.

    python studies/features.py DIR

DIR is what `evidence.py --out DIR` has made. First, how far the convolutions of each level have moved from
their first values. Then a logistic regression of nodule or not on features that are left as they are: the
mean over the cube, of the deepest level and of all, from 5 and from 20 labelled scans; AUC on the validation
and the test fold. It needs scikit-learn.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from evidence import PRETRAINING, RECIPES
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from torch import nn

from genesis_toolkit.pipeline.store.open import TargetStore, open_targets
from genesis_toolkit.training.feeding.normalise import normalise
from genesis_toolkit.training.networks.unet3d import UNet3D
from genesis_toolkit.training.weights.load import encoder_of, load_network

LEVELS = ("down_tr64", "down_tr128", "down_tr256", "down_tr512", "up_tr256", "up_tr128", "up_tr64")
BATCH = 64  # its batch norm takes the statistics of the batch, so the batches are mixed, and fixed
DRAWS = 12  # of the labelled scans
STRENGTHS = (0.001, 0.01, 0.1)


def first_weights(seed: int) -> UNet3D:
    """The 3D U-Net as a run with this seed begins it."""
    torch.manual_seed(seed)
    return UNet3D(PRETRAINING.width)


def moved(network: nn.Module, level: str) -> tuple[float, float]:
    """How far the convolutions of a level have moved, as a share of their first length; and the cosine."""
    both = (one.state_dict() for one in (first_weights(PRETRAINING.seed), network))
    first, now = (
        torch.cat(
            [weights[key].flatten() for key in weights if key.startswith(level) and "conv1.weight" in key]
        )
        for weights in both
    )
    return float((now - first).norm() / first.norm()), float(torch.cosine_similarity(now, first, 0))


def features(network: nn.Module, store: TargetStore) -> list[NDArray[np.float32]]:
    """Of every cube and level, the mean over the cube: float32 [cube, channel] a level."""
    cubes = np.empty((len(store), *store.size), np.int16)
    store.cubes.read_many(range(len(store)), cubes)
    voxels = normalise(torch.from_numpy(cubes), store.window)
    encoder, order = encoder_of(network).train(), np.random.default_rng(0).permutation(len(store))
    with torch.no_grad():
        parts = [
            [level.mean((2, 3, 4)).numpy() for level in encoder(voxels[order[at : at + BATCH]])]
            for at in range(0, len(order), BATCH)
        ]
    back = np.argsort(order)
    return [np.concatenate(level)[back] for level in zip(*parts, strict=True)]


def told(found: NDArray[np.float32], store: TargetStore, scans: int) -> float:
    """The AUC of the best strength, the mean over draws of so many labelled scans; all are drawn once."""
    assert store.labels is not None
    labels, scan, trains = store.labels[:, 0], store.table.scan, store.table.fold == 0
    all_scans, scores = np.unique(scan[trains]), []
    for draw in range(DRAWS if scans < len(all_scans) else 1):
        chosen = np.random.default_rng(draw).choice(all_scans, min(scans, len(all_scans)), replace=False)
        here = trains & np.isin(scan, chosen)
        scale = StandardScaler().fit(found[here])
        models = [
            LogisticRegression(C=strength, class_weight="balanced", max_iter=500) for strength in STRENGTHS
        ]
        scores.append(
            max(
                roc_auc_score(
                    labels[~trains],
                    model.fit(scale.transform(found[here]), labels[here]).decision_function(
                        scale.transform(found[~trains])
                    ),
                )
                for model in models
            )
        )
    return float(np.mean(scores))


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path)
    folder = options.parse_args(arguments).folder
    pretrained = {arm: load_network(folder / arm) for arm in RECIPES}
    print(f"{'moved, cosine':<16}", *(f"{arm:>16}" for arm in pretrained))
    for level in LEVELS:
        figures = [moved(network, level) for network in pretrained.values()]
        print(f"{level:<16}", *(f"{share:>9.2f} {cosine:>6.2f}" for share, cosine in figures))
    store = open_targets(folder / "nodule-or-not.zarr")
    networks = {f"random {seed}": first_weights(seed) for seed in range(3)} | pretrained
    networks["all-masks"] = load_network(folder / "all-masks.pt")
    print(f"\n{'AUC':<16}{'deepest, 5':>12}{'20 scans':>10}{'all, 5':>10}{'20 scans':>10}")
    for name, network in networks.items():
        levels = features(network, store)
        figures = [
            told(found, store, n) for found in (levels[-1], np.concatenate(levels, 1)) for n in (5, 20)
        ]
        print(f"{name:<16}{figures[0]:>12.3f}", *(f"{auc:>9.3f}" for auc in figures[1:]))


if __name__ == "__main__":
    main()
