"""Training loops as a textbook writes them, optimisers included: what `pretrain` and `finetune` come to."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from scipy import ndimage
from support.oracle import StreamDraws
from torch import Tensor, nn

from genesis_toolkit.pipeline.store.open import open_targets
from genesis_toolkit.training.feeding.order import Work
from genesis_toolkit.training.finetune.augment import Changes, draw_changes
from genesis_toolkit.training.finetune.data import target_data
from genesis_toolkit.training.finetune.heads import TargetNetwork, build_target_network
from genesis_toolkit.training.finetune.parameters import FinetuneParameters
from genesis_toolkit.training.networks.unet3d import UNet3D
from genesis_toolkit.training.pretrain.data import open_data
from genesis_toolkit.training.pretrain.parameters import PretrainParameters
from genesis_toolkit.training.weights.load import read_beginning

State = dict[str, Tensor]


class Pretrained(NamedTuple):
    """The last weights and their average, each epoch's validation losses, and the lengths of all gradients.

    `validated` is by epoch, of the average where there is one; `raw` that of the network itself.
    """

    weights: State
    average: State
    validated: list[float]
    raw: list[float]
    lengths: list[float]


def pretrained(store: Path, given: PretrainParameters) -> Pretrained:
    """Train a `UNet3D` by SGD with momentum, StepLR, warm-up, clipping and a moving average, all by hand.

    Skip connections are dropped as well.
    """
    data, group = open_data(store, given), zarr.open_group(store, mode="r")
    original, degraded, flip = (np.asarray(group[name][:]) for name in ("original", "degraded", "flip"))

    def pairs(work: Work) -> tuple[Tensor, Tensor]:
        rows = work.variant * len(original) + work.cubes
        axes = [[axis for axis in range(3) if flip[row] >> axis & 1] for row in rows]
        turned = np.stack([np.flip(original[cube], own) for cube, own in zip(work.cubes, axes, strict=True)])
        fed, wanted = (torch.from_numpy((some + 1000.0) / 2000) for some in (degraded[rows], turned))
        return fed.float().unsqueeze(1), wanted.float().unsqueeze(1)

    def validate(network: nn.Module) -> float:
        network.eval()
        both = [pairs(work) for work in data.validation]
        with torch.no_grad():
            errors = [(network(fed) - wanted).square().mean((1, 2, 3, 4)) for fed, wanted in both]
        return torch.cat(errors).mean().item()

    torch.manual_seed(given.seed)
    network = UNet3D(given.width or 32)
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # the same kernels
    mean = (original[data.split.train].mean() + 1000) / 2000
    nn.init.constant_(network.out_tr.final_conv.bias, math.log(mean / (1 - mean)))  # type: ignore[arg-type]
    average, found, step = copy.deepcopy(network), Pretrained({}, {}, [], [], []), 0
    speeds = [torch.zeros_like(weight) for weight in network.parameters()]
    for epoch in range(given.epochs):
        network.train()
        for number, work in enumerate(data.training(epoch)):
            fed, wanted = pairs(work)
            with dropping(network, given, epoch, number):
                loss = (network(fed) - wanted).square().mean()
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            length = math.sqrt(sum(gradient.square().sum().item() for gradient in gradients))
            shrink = min(1.0, (given.clip_norm or math.inf) / length)
            lr = given.lr * given.lr_factor ** (epoch // given.lr_step)
            if step < given.warmup:
                lr = given.lr * (step + 1) / given.warmup
            with torch.no_grad():
                for weight, speed, gradient in zip(network.parameters(), speeds, gradients, strict=True):
                    speed.copy_(given.momentum * speed + shrink * gradient)
                    weight.sub_(lr * speed)
            follow(average, network, min(given.ema or 0.0, (step + 1) / (step + 10)))
            step += 1
            found.lengths.append(length)
        found.raw.append(validate(network))
        found.validated.append(validate(average) if given.ema else found.raw[-1])
    return found._replace(weights=network.state_dict(), average=average.state_dict())


@contextmanager
def dropping(network: UNet3D, given: PretrainParameters, epoch: int, step: int) -> Iterator[None]:
    """Let zeros come by the skip connections that this step drops, by words drawn anew, the finest first."""
    words = StreamDraws(given.seed, 0, step, epoch).words(13, 3)
    levels = (network.up_tr64, network.up_tr128, network.up_tr256)

    def zeros(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return inputs[0], torch.zeros_like(inputs[1])

    dropped = [level for level, word in zip(levels, words, strict=True) if word < given.drop_skips * 2**32]
    hooks = [level.register_forward_pre_hook(zeros) for level in dropped]
    yield
    for hook in hooks:
        hook.remove()


def follow(average: nn.Module, network: nn.Module, decay: float) -> None:
    for ours, theirs in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        ours.copy_(decay * ours + (1 - decay) * theirs if ours.is_floating_point() else theirs)


def changed(cube: NDArray[np.float32], changes: Changes, at: int, order: int = 1) -> NDArray[np.float64]:
    """Flip, shift, turn by scipy, with a border as wide as can come in; `order` is 0 for masks."""
    for axis in np.flatnonzero(changes.flip[at]):
        cube = np.flip(cube, axis)
    size, wide = cube.shape, 12
    cube = np.pad(cube, [(wide, wide)] * 2 + [(0, 0)] * (cube.ndim - 2), mode="edge")
    for axis, shift in enumerate(changes.shift[at]):
        cube = np.take(cube, np.clip(np.arange(cube.shape[axis]) - shift, 0, cube.shape[axis] - 1), axis)
    angle, middle = changes.turn[at], (np.array(cube.shape[:2]) - 1) / 2
    back = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    planes = cube[..., None] if cube.ndim == 2 else cube
    turned = [
        ndimage.affine_transform(plane, back, middle - back @ middle, order=order, mode="nearest")
        for plane in np.moveaxis(planes, 2, 0).astype(np.float64)
    ]
    return np.stack(turned, axis=2)[wide:-wide, wide:-wide].reshape(size)


def tinted(cube: NDArray[np.float64], changes: Changes, at: int) -> NDArray[np.float64]:
    mean = cube.mean()
    return np.clip((cube - mean) * changes.contrast[at] + mean + changes.brightness[at], 0, 1)


def lr_of(given: FinetuneParameters, step: int, steps: int) -> float:
    """The learning rate of a step, counted from 0: a line up, and half a cosine down."""
    rise = given.warmup or 0
    if step < rise:
        return given.lr / rise * (step + 1)
    down = 0.5 + 0.5 * math.cos((step - rise) / (steps - rise) * math.pi)
    return given.lr * (down if given.schedule == "cosine" else 1.0)


def refresh(network: nn.Module, batches: list[Tensor]) -> None:
    """Statistics of all norms by hand: each the mean over the batches of what comes to it."""
    seen: dict[nn.Module, list[Tensor]] = {}
    norms = [one for one in network.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    hooks = [
        norm.register_forward_pre_hook(
            lambda norm, fed: seen.setdefault(norm, []).append(fed[0].transpose(0, 1).flatten(1))
        )
        for norm in norms
    ]
    network.train()
    with torch.no_grad():
        for batch in batches:
            network(batch)
        for norm in norms:
            norm.running_mean.copy_(torch.stack([one.mean(1) for one in seen[norm]]).mean(0))
            norm.running_var.copy_(torch.stack([one.var(1) for one in seen[norm]]).mean(0))
            norm.num_batches_tracked.fill_(len(batches))
    for hook in hooks:
        hook.remove()


class Finetuned(NamedTuple):
    """The weights after every epoch, and each epoch's losses on the validation and the test fold."""

    weights: list[State]
    validated: list[float]
    tested: list[float]


def finetuned(store: Path, given: FinetuneParameters, width: int) -> Finetuned:
    """Train a new target network by Adam, by hand."""
    data, group = target_data(open_targets(store), given), zarr.open_group(store, mode="r")
    table = data.store.table
    cubes = torch.from_numpy((np.asarray(group["cubes"][:]) + 1000.0) / 2000).float().unsqueeze(1)
    segments = data.kind == "segment"
    truth = torch.from_numpy(np.asarray(group["masks" if segments else "labels"][:])).float()
    truth = truth.unsqueeze(1) if segments else truth
    positive = truth[data.train].mean()

    def loss_of(network: nn.Module, work: Any, epoch: int | None = None) -> Tensor:
        fed, labels = cubes[work], truth[work]
        if given.augment and epoch is not None:
            streams = data.store.scans.stream[table.scan[work]]
            drawn = draw_changes(given.seed, epoch, streams, table.number[work], tuple(fed.shape[2:]))
            moved = [tinted(changed(one[0].numpy(), drawn, at), drawn, at) for at, one in enumerate(fed)]
            fed = torch.from_numpy(np.stack(moved)).float().unsqueeze(1)
            if segments:
                masks = [changed(one[0].numpy(), drawn, at, order=0) for at, one in enumerate(labels)]
                labels = torch.from_numpy(np.stack(masks)).float().unsqueeze(1)
        logits = network(fed)
        if segments:
            said = torch.sigmoid(logits)
            both = 2 * (said * labels).sum() + 1e-5
            return 1 - both / (said.sum() + labels.sum() + 1e-5)
        weight = (1 - positive) / positive
        right, wrong = (nn.functional.logsigmoid(sign * logits) for sign in (1, -1))
        return -(weight * labels * right + (1 - labels) * wrong).mean()

    def loss_over(network: nn.Module, works: Any) -> float:
        network.eval()
        with torch.no_grad():
            losses = [loss_of(network, work).item() * len(work) for work in works]
        return sum(losses) / sum(map(len, works))

    beginning = read_beginning(None, "unet3d", width)
    network: TargetNetwork = build_target_network(beginning, data.kind, 1, 3, given.seed)
    learnt = list(network.parameters())
    firsts, seconds = ([torch.zeros_like(weight) for weight in learnt] for _ in range(2))
    found, step, works = Finetuned([], [], []), 0, data.training(0)
    epochs = given.epochs or -(-(given.steps or 0) // len(works))
    steps = given.steps or epochs * len(works)
    for epoch in range(epochs):
        network.train()
        for work in data.training(epoch)[: steps - step]:
            lr = lr_of(given, step, steps)
            step += 1
            gradients = torch.autograd.grad(loss_of(network, work, epoch), learnt)
            with torch.no_grad():
                for weight, first, second, gradient in zip(learnt, firsts, seconds, gradients, strict=True):
                    first.copy_(0.9 * first + 0.1 * gradient)
                    second.copy_(0.999 * second + 0.001 * gradient.square())
                    size = (second / (1 - 0.999**step)).sqrt() + 1e-8
                    weight.sub_(lr * first / (1 - 0.9**step) / size)
        refresh(network, [cubes[work] for work in data.refreshing()])
        found.weights.append({name: one.clone() for name, one in network.state_dict().items()})
        found.validated.append(loss_over(network, data.validation))
        found.tested.append(loss_over(network, data.test))
    return found
