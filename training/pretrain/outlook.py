"""Sentences that pre-training prints before its first step and after its second."""

import torch

from genesis_toolkit.pipeline.wording import counted, duration
from genesis_toolkit.training.machine.devices import device_words
from genesis_toolkit.training.machine.memory import weights_of
from genesis_toolkit.training.machine.pace import Pace, narrower, network_words
from genesis_toolkit.training.machine.processes import Group
from genesis_toolkit.training.machine.steps import Say
from genesis_toolkit.training.networks.registry import architecture
from genesis_toolkit.training.pretrain.data import PretrainData
from genesis_toolkit.training.weights.files import TrainingState


def look_ahead(
    state: TrainingState, data: PretrainData, device: torch.device, group: Group, say: Say
) -> Pace:
    """Print network, device and number of steps, and return the `Pace` that estimates the time.

    On the CPU, warn about the published width: it takes weeks there, and users wait for a first picture.
    """
    given, epochs = data.parameters, epochs_left(state, data)
    kind, given_width = architecture(given.network), given.width or 0
    network = network_words(kind.name, given_width, weights_of(state.model))
    lasts = f"{counted(data.steps, 'step')} an epoch, {counted(epochs, 'epoch')} at most"
    say(f"Training {network} on {device_words(device)}: {lasts}.")
    slow = device.type == "cpu" and given_width >= kind.published_width
    if slow and not state.epoch + state.step:
        width, factor = narrower(given_width, kind.axes)
        say(
            f"Warning: the published width {given_width} is meant for a GPU; on a CPU the first step may "
            f"take a minute. With --width {width} a step is about {factor:.0f} times as fast."
        )

    def advise(seconds: float) -> str:
        """Return advice if an epoch takes that long."""
        width, factor = narrower(given_width, kind.axes, seconds)
        if not slow or factor == 1:
            return ""
        return (
            f"Warning: with --width {width} an epoch would take about "
            f"{duration(seconds / factor)}. To do so, stop with Ctrl-C and run the command "
            f"again with --width {width} --overwrite."
        )

    return Pace(say, data.steps, -(-len(data.validation) // group.world), epochs, advise)


def epochs_left(state: TrainingState, data: PretrainData) -> int:
    """Return the largest number of epochs left, the current one included."""
    given = data.parameters
    last = given.epochs
    if given.max_steps is not None:
        last = min(last, -(-given.max_steps // data.steps))
    return max(0, last - state.epoch)
