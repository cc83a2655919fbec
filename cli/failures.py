"""How a command ends when it cannot do its work: one sentence on stderr, an exit code, no traceback."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

WRONG_CALL = 2
BAD_DATA = 1
INTERRUPTED = 130


class GenesisGroup(click.Group):
    """A group of commands that turns the library's errors into exit codes."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; leave with 2 for a wrong call, 1 for bad data, 130 when interrupted."""
        from pipeline.errors import CallError, DataError

        try:
            with _terminated_as_interrupted():
                return super().invoke(ctx)
        except CallError as error:
            _leave(str(error), WRONG_CALL)
        except DataError as error:
            _leave(str(error), BAD_DATA)
        except KeyboardInterrupt:
            _leave("Interrupted. What is done is kept: the same command goes on from there.", INTERRUPTED)
        except OSError as error:
            place = f" ({error.filename})" if error.filename else ""
            _leave(
                f"{error.strerror or error}{place}. What is done is kept: once that is mended, the same "
                "command goes on from there.",
                BAD_DATA,
            )


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM, as a batch system sends it, for an interruption: the run stops cleanly and can go on."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(message: str, code: int) -> None:
    click.echo(f"Error: {message}", err=True)
    raise SystemExit(code)
