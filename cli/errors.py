"""Ending of a command that fails: one sentence, an exit code, no traceback.

The sentence goes to stderr, or, with --json, as one object to stdout: `{"error": SENTENCE, "exit": 1}`.
"""

import json
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NoReturn

import click

from genesis_toolkit.cli import output
from genesis_toolkit.pipeline.errors import CallError, DataError
from genesis_toolkit.pipeline.progress import told_of_compiling, told_of_waiting

WRONG_CALL = 2
BAD_DATA = 1
INTERRUPTED = 130
#: Kernels that take over a second to compile, and their times.
_COMPILING = {"_evaluate_corners": "about 3 s", "_degrade_all": "about 10 s"}

#: The name under which a file is written until it is complete (`ledger.whole_file`).
_PART = re.compile(r"\.([^/]+)\.[0-9a-f]{12}\.part$")
READER_LEFT = 128 + signal.SIGPIPE  # the exit code a shell reports for a program that SIGPIPE ends


class GenesisGroup(click.Group):
    """A group of commands, listed as they were added, that turns the library's errors into exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of the journey."""
        return list(self.commands)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Record the command line; without arguments, show the help."""
        ctx.meta[output.WORDS] = list(args)
        if not (args or ctx.resilient_parsing):  # shell completion passes no arguments
            click.echo(ctx.get_help())
            ctx.exit()
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; exit with 2 for a wrong call, 1 for bad data, 130 when interrupted."""
        interruption = _Interruption()
        try:
            with interruption.taken(), _waiting_told():
                done = super().invoke(ctx)
                sys.stdout.flush()
                return done
        except click.UsageError as error:
            if output.is_json():
                _leave(error.format_message(), WRONG_CALL)
            if error.ctx is not None:
                click.echo(
                    f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n", err=True
                )
            _leave(error.format_message(), WRONG_CALL)
        except (CallError, DataError) as error:
            _leave(str(error), WRONG_CALL if isinstance(error, CallError) else BAD_DATA)
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _reader_left():
                # A reader such as head has read enough. The rest of the buffer is discarded.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise SystemExit(READER_LEFT) from None
            name = _PART.sub(r"\1", str(error.filename or ""))
            place = f" ({name})" if name else ""
            again = _again(ctx, "once that is fixed, ")
            _leave(f"{error.strerror or error}{place}. {again}", BAD_DATA)
        except (KeyboardInterrupt, Exception) as error:
            if not (interruption.came or isinstance(error, KeyboardInterrupt)):
                raise
            click.echo(f"Interrupted. {_again(ctx)}", err=True)
            raise SystemExit(INTERRUPTED) from None


@contextmanager
def _waiting_told() -> Iterator[None]:
    """Report on stderr, once each, any long wait: for a server, a scheduler, the compiling of kernels."""
    said: set[str] = set()

    def report(what: str) -> None:
        if what not in said and not as_json:  # called from another thread, which has no context
            said.add(what)
            # Not click.echo, which writes past the stderr that puts lines above the bars.
            sys.stderr.write(f"{what} ...\n")

    def report_kernel(name: str) -> None:
        if name in _COMPILING:
            report(f"Compiling the kernels, {_COMPILING[name]}, once on this machine")

    as_json = output.is_json()
    told_of_waiting.append(report)
    told_of_compiling.append(report_kernel)
    try:
        yield
    finally:
        told_of_waiting.remove(report)
        told_of_compiling.remove(report_kernel)


class _Interruption:
    """Ctrl-C or SIGTERM, which batch systems send: the run stops cleanly and can be resumed.

    During the import of a library with compiled parts, the library may swallow the exception and raise
    another one later; so the interruption is recorded.
    """

    came = False

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Make both signals raise KeyboardInterrupt; an ignored Ctrl-C stays ignored."""

        def interrupt(*_: object) -> None:
            self.came = True
            raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
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
    """Check that the packages that only some commands need are installed.

    Args:
        doing: what needs them; the error begins with it.
        extra: extra of genesis-toolkit that installs them.
        packages: the packages needed.

    Raises:
        CallError: one is not installed; the error says how to install it.
    """
    for package in packages:
        if find_spec(package) is None:
            raise CallError(
                f'{doing} needs {package}: install it with pip install "genesis-toolkit[{extra}]".'
            )


def _again(ctx: click.Context, when: str = "") -> str:
    """Return what the same command does after a stop; those that keep nothing write all or nothing."""
    assert isinstance(ctx.command, click.Group)
    command = ctx.command.get_command(ctx, ctx.invoked_subcommand or "")
    if getattr(command, "resumable", False):
        return f"Finished work is kept: {when}the same command continues from there."
    words = f"{when}the same command starts again."
    return words[0].upper() + words[1:]


def _leave(message: str, code: int) -> NoReturn:
    if output.is_json():
        click.echo(json.dumps({"error": message, "exit": code}))
    else:
        output.say(f"Error: {message}", err=True)
    raise SystemExit(code)


def _reader_left() -> bool:
    """Return whether stdout has lost its reader; a pipe to a worker process may break as well."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # not a real file
        return False
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
