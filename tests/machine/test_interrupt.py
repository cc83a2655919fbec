"""A run that is asked to stop answers at once, also where Python itself cannot: signals sent to processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from genesis_toolkit.training.machine import interrupt
from genesis_toolkit.training.machine.interrupt import INTERRUPTED, process_may_end, stop_on_signals
from genesis_toolkit.training.machine.run_folder import Run, hold_run

# One call into C that no handler can interrupt and that would take hours, as a long step of a large network.
STEP = "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
PROGRAM = f"""
    import hashlib, sys
    from pathlib import Path
    from genesis_toolkit.pipeline.ledger import whole_file
    from genesis_toolkit.training.machine.interrupt import process_may_end, stop_on_signals

    def say(line):
        print(line, flush=True)

    with process_may_end(), stop_on_signals(say), whole_file(Path(sys.argv[1])) as file:
        file.write(b"half of a new one")
        file.flush()
        say("begun")
        {STEP}
"""


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (signal.SIGINT, "Stopping after this step; Ctrl-C again ends now."),
        (signal.SIGTERM, "Stopping after this step."),
    ],
)
def test_a_step_that_takes_hours_is_answered_and_ended(
    sent: signal.Signals, answer: str, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "last.pt"
    checkpoint.write_bytes(b"whole")
    call = [sys.executable, "-c", dedent(PROGRAM), str(checkpoint)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "begun\n"
            os.kill(process.pid, sent)
            assert process.stdout.readline() == f"{answer}\n"
            assert process.poll() is None
            os.kill(process.pid, sent)
            said, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == INTERRUPTED
    assert said == "Ended within the step. Run the same command again to continue from the last checkpoint.\n"
    assert errors == ""
    assert checkpoint.read_bytes() == b"whole"
    # What it was writing is nobody's, and the next call throws it away.
    (left,) = set(tmp_path.iterdir()) - {checkpoint}
    assert left.read_bytes() == b"half of a new one"
    checkpoint.unlink()
    (tmp_path / ".notes.txt.0123456789ab.part").write_bytes(b"of another program")
    with hold_run(tmp_path, Run):
        assert {path.name for path in tmp_path.iterdir()} == {"lock", ".notes.txt.0123456789ab.part"}


def test_threads_that_are_busy_do_not_keep_the_process(tmp_path: Path) -> None:
    """The main thread can be interrupted here, and says so; then Python would wait for the other one."""
    program = f"""
        import hashlib, threading, time
        from genesis_toolkit.training.machine.interrupt import process_may_end, stop_on_signals

        threading.Thread(target=lambda: {STEP}).start()
        try:
            with process_may_end(), stop_on_signals():
                print("begun", flush=True)
                while True:
                    time.sleep(0.01)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    call = [sys.executable, "-c", dedent(program)]
    with subprocess.Popen(call, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "begun\n"
            for _ in range(2):
                os.kill(process.pid, signal.SIGINT)
                time.sleep(0.2)  # sent at once, both would be one
            assert process.communicate(timeout=60)[0] == "interrupted\n"
        finally:
            process.kill()
    assert process.returncode == INTERRUPTED


def test_the_first_signal_is_told_once_and_the_second_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[object] = []
    monkeypatch.setattr(interrupt, "_end", ended.append)
    monkeypatch.setattr(interrupt, "_GRACE", 0.0)
    before, said = signal.getsignal(signal.SIGINT), list[str]()
    with stop_on_signals(said.append) as stop:
        assert not stop.asked
        signal.raise_signal(signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert said == ["Stopping after this step; Ctrl-C again ends now."]
    assert ended == []  # a notebook's process goes on
    assert signal.getsignal(signal.SIGINT) == before
    assert signal.set_wakeup_fd(-1) == -1
    with process_may_end(), stop_on_signals(said.append) as stop:
        assert not stop.asked
    assert said[1:] == []
