"""The one place that knows dask: connects to a cluster that is there already, and looks whether it can work.

What must hold is looked at before anything is begun: the scheduler answers, its workers have this version of
the toolkit, and they see the same files as this process.
"""

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from genesis_toolkit.pipeline.engine import Cluster, Report
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.version import __version__

#: Tasks handed out at a time: enough for hundreds of workers, while a hundred thousand still cost no memory.
_AHEAD = 1000
_SECONDS_TO_ANSWER = 20


@contextmanager
def connect(
    scheduler: str | None, source: Path | None, target: Path, report: Report
) -> Iterator[Cluster | None]:
    """Connect to a dask.distributed scheduler and its workers while the block runs.

    Args:
        scheduler: its address, as in `tcp://node17:8786`, or the path of its scheduler file. None: there is
            no cluster to connect to, and None is given back.
        source: what the workers will read; None where that is on a server.
        target: where they will write; its folder is tried with a file that is removed again.
        report: told while the first worker is waited for.

    Raises:
        CallError: no scheduler answers, or its workers cannot do this work; the sentence says what to change.
    """
    if scheduler is None:
        yield None
        return
    client = _client(scheduler)
    try:
        _wait_for_one(client, report)
        workers = _check_workers(client, source and source.resolve(), target.resolve().parent)
        from distributed import KilledWorker

        yield Cluster(client.get_executor(pure=False), workers, _AHEAD, KilledWorker)
    finally:
        with suppress(OSError, TimeoutError):  # a scheduler that is gone
            client.close(timeout=2)


def workers_of(scheduler: str) -> int:
    """How many workers a cluster has at this moment; 1 where none has come yet.

    Raises:
        CallError: no scheduler answers.
    """
    client = _client(scheduler)
    try:
        return max(1, len(client.nthreads()))
    finally:
        client.close()


def _client(scheduler: str) -> Any:
    import dask

    # Its notes are tracebacks, of connections that end; what they come to is said in one sentence here.
    loggers = ("distributed", "distributed.client", "tornado.application")
    dask.config.set({"logging": dict.fromkeys(loggers, "critical")})
    from distributed import Client

    address = _address(scheduler)
    try:
        return Client(address, timeout=_SECONDS_TO_ANSWER, set_as_default=False)
    except (OSError, TimeoutError, ValueError):
        raise CallError(
            f"--scheduler {scheduler}: no dask scheduler answers there. Start one with dask scheduler, or "
            "leave the option out to work on this machine."
        ) from None


def _address(scheduler: str) -> str:
    """The address itself, or the one that a scheduler file holds."""
    if "://" in scheduler:
        return scheduler
    try:
        return str(json.loads(Path(scheduler).read_bytes())["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CallError(
            f"--scheduler {scheduler}: that is no scheduler file. Give the one that dask scheduler "
            "--scheduler-file writes, or an address as in tcp://node17:8786."
        ) from None


def _wait_for_one(client: Any, report: Report) -> None:
    report("waiting for a dask worker", 0, 1)
    client.wait_for_workers(1)
    report("waiting for a dask worker", 1, 1)


def _check_workers(client: Any, source: Path | None, folder: Path) -> int:
    """Let every worker look at the source, and at a file written beside the target; how many there are."""
    probe = folder / f".genesis-{uuid4().hex}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
    except OSError as error:
        raise CallError(f"{folder} cannot be written ({error.strerror}): choose another place.") from None
    try:
        answers = client.run(_look, [path for path in (source, probe) if path])
    except ImportError:
        raise CallError(
            "The dask workers lack this toolkit: pip install genesis-toolkit where they run."
        ) from None
    finally:
        probe.unlink(missing_ok=True)
    for version, host, missing in answers.values():
        if version != __version__:
            raise CallError(
                f"The dask worker on {host} has genesis-toolkit {version}, this is {__version__}: install "
                "the same version everywhere, or the voxels may differ."
            )
        if missing:
            place = folder if probe in missing else source
            raise CallError(
                f"The dask worker on {host} does not see {place}: scans and store must lie on a file system "
                "that this machine and all workers share."
            )
    return len(answers)


def _look(paths: Sequence[Path]) -> tuple[str, str, list[Path]]:
    """On a worker: its version of the toolkit, its name, and which of the paths are not there."""
    return __version__, socket.gethostname(), [path for path in paths if not path.exists()]
