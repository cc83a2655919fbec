"""The linear probe: L2-regularised logistic regression on standardised features, fitted to convergence.

Adam does not converge in a few hundred steps: with 200 labelled chest X-rays and 500 steps, the AUC of one
set of weights was 0.72 at a learning rate of 0.001, and 0.90 at 0.01 without augmentation. Such a probe ranks
weights by how fast they learn.
"""

import torch
from torch import Tensor

from genesis_toolkit.pipeline.store.schema import UNKNOWN
from genesis_toolkit.training.finetune.losses import known_loss

#: Prior variance of a logit, divided among the features, so that wide networks are not penalised less.
LOGIT_VARIANCE = 10.0

_MOST_ITERATIONS = 1000
_LEAST_GRADIENT = 1e-8  # of the objective, a sum over cubes


def fit_probe(features: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, float]:
    """Fit one logistic regression per class, by L-BFGS in float64 on the CPU.

    The objective is the sum over cubes of the weighted cross-entropy plus |w|^2 / (2 C), with
    C = LOGIT_VARIANCE / (number of features). The bias is not penalised. The objective is strictly convex in
    the weights, so the result does not depend on where the search starts.

    Args:
        features: float32 [cube, feature], standardised.
        labels: float32 [cube, class], 0, 1 or `UNKNOWN`.
        weight: float32 [class], weight of a positive label.

    Returns:
        The weights, float32 [class, feature], the biases, float32 [class], and the mean cross-entropy of the
        known labels.
    """
    features, labels, weight = (one.detach().cpu().double() for one in (features, labels, weight))
    width, known = features.shape[1], (labels != UNKNOWN).sum()
    linear = torch.zeros((labels.shape[1], width + 1), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS(
        [linear],
        max_iter=_MOST_ITERATIONS,
        tolerance_grad=_LEAST_GRADIENT,
        tolerance_change=0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        return known_loss(weight, features @ linear[:, :-1].T + linear[:, -1], labels)

    def objective() -> float:
        search.zero_grad()
        value = known * loss() + linear[:, :-1].square().sum() * width / (2 * LOGIT_VARIANCE)
        value.backward()  # type: ignore[no-untyped-call] # torch leaves it so
        return value.item()

    search.step(objective)  # type: ignore[no-untyped-call] # torch leaves it so
    with torch.no_grad():
        return linear[:, :-1].float(), linear[:, -1].float(), loss().item()
