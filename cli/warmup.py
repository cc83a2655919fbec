"""`genesis-prep warmup`: compile every kernel once, where an image is built or a cluster is set up."""

from dataclasses import asdict
from importlib.util import find_spec

import click

from genesis_toolkit.cli import options, output
from genesis_toolkit.pipeline.progress import Bars
from genesis_toolkit.pipeline.wording import counted


@click.command(cls=options.Command, short_help="Compile all kernels in advance.")
@options.json_option
def warmup() -> None:
    """Compile all kernels and keep them, so that no later command has to wait for the compiler.

    Without this command, the first command that needs a kernel compiles it: the first degrade takes about
    10 s longer. Compiled kernels are kept next to the installed package or, where that folder cannot be
    written, in the cache folder of your home; set NUMBA_CACHE_DIR to use another folder. Compiled kernels fit
    one version of the toolkit on one kind of processor.

    \b
    Examples:
      genesis-prep warmup
      NUMBA_CACHE_DIR=/opt/kernels genesis-prep warmup
    """
    from genesis_toolkit.pipeline.pairs.warm_up import warm_up

    more = []
    if find_spec("torch"):
        from genesis_toolkit.training.feeding.normalise import compile_normalise

        more.append(("normalising", compile_normalise))
    with Bars() as bars:
        done = warm_up(more, progress=bars)
    output.print_json({**asdict(done), "kept_in": str(done.kept_in)})
    if done.compiled:
        output.say(f"{counted(done.compiled, 'function')} compiled in {done.seconds:.0f} s.")
    else:
        output.say("All kernels had been compiled before.")
    output.say(f"The compiled kernels are kept in {done.kept_in}.")
