"""How a command ends when it cannot do its work: one sentence on stderr, an exit code, no traceback."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import click

from genesis_toolkit.cli import output
from genesis_toolkit.pipeline.errors import CallError, DataError

WRONG_CALL = 2
BAD_DATA = 1
INTERRUPTED = 130


class GenesisGroup(click.Group):
    """A group of commands, listed as they were added, that turns the library's errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of the journey."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep what was typed; nothing at all asks for help."""
        ctx.meta[output.WORDS] = list(args)
        if not args:
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; leave with 2 for a wrong call, 1 for bad data, 130 when interrupted."""
        interruption = _Interruption()
        try:
            with interruption.taken():
                return super().invoke(ctx)
        except (CallError, DataError) as error:
            _leave(str(error), WRONG_CALL if isinstance(error, CallError) else BAD_DATA)
        except OSError as error:
            place = f" ({error.filename})" if error.filename else ""
            again = _again(ctx, "once that is mended, ")
            _leave(f"{error.strerror or error}{place}. {again}", BAD_DATA)
        except (KeyboardInterrupt, Exception) as error:
            if not (interruption.came or isinstance(error, KeyboardInterrupt)):
                raise
            _leave(f"Interrupted. {_again(ctx)}", INTERRUPTED)


class _Interruption:
    """Ctrl-C or SIGTERM, as a batch system sends it: the run stops cleanly, and can go on.

    Where it falls into the import of a library with compiled parts, the library may swallow the exception and
    fail of another one later; so that it came is noted.
    """

    came = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have both signals raise KeyboardInterrupt; a Ctrl-C that is ignored, stays so."""

        def interrupt(*_: object) -> None:
            self.came = True
            raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
            yield
            return
        numbers = [signal.SIGTERM]
        if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
            numbers.append(signal.SIGINT)
        before = {number: signal.signal(number, interrupt) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def check_installed(doing: str, extra: str, *packages: str) -> None:
    """Refuse to begin without a package that only some commands need.

    Args:
        doing: what needs it, to begin the sentence with.
        extra: of this package, which installs it.
        packages: that must be there.

    Raises:
        CallError: one is not installed; the sentence says how to install it.
    """
    for package in packages:
        if find_spec(package) is None:
            raise CallError(
                f'{doing} needs {package}: install it with pip install "genesis-toolkit[{extra}]".'
            )


def _again(ctx: click.Context, when: str = "") -> str:
    """What the same command does after it was stopped; those that keep nothing write all or nothing."""
    assert isinstance(ctx.command, click.Group)
    command = ctx.command.get_command(ctx, ctx.invoked_subcommand or "")
    if getattr(command, "resumable", False):
        return f"What is done is kept: {when}the same command goes on from there."
    words = f"{when}the same command begins again."
    return words[0].upper() + words[1:]


def _leave(message: str, code: int) -> None:
    click.echo(f"Error: {message}", err=True)
    raise SystemExit(code)
