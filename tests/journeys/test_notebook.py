"""The notebook of the docs runs from top to bottom, and bars in a notebook draw in one place."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from support.folders import ROOT

from genesis_toolkit.pipeline.progress import _NotebookOutput

NOTEBOOK = ROOT / "docs" / "notebooks" / "first-look.ipynb"
MOST_OUTPUTS = 4  # of a cell: the bars' place, a picture, a store, a line that says something

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1500),  # it trains for a minute, on two cores that are free
    pytest.mark.filterwarnings("default"),  # the kernel's libraries warn
]


@pytest.fixture(autouse=True)
def of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what Jupyter and IPython write away from this user's home."""
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


def test_the_notebook_runs_and_the_network_learns(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # the docs build makes them
    losses = "run.validation_loss, run.mean_image_loss, run.copy_loss"
    notebook.cells.append(nbformat.v4.new_code_cell(losses))
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=1200, resources=place).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    for output in outputs:
        assert len([one for one in output if one.output_type != "stream"]) <= MOST_OUTPUTS
        assert not [one for one in output if one.get("name") == "stderr"]
    assert sum("image/png" in one.get("data", {}) for output in outputs for one in output) == 4
    validation, mean_image, copying = eval(outputs[-1][0]["data"]["text/plain"])
    assert validation < mean_image < copying


@contextmanager
def kernel() -> Iterator[Any]:
    """A kernel of this very Python, and what talks to it."""
    manager = pytest.importorskip("jupyter_client").KernelManager()
    manager.kernel_cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager.start_kernel(env=dict(os.environ))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=300)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_bars_draw_in_one_place_a_few_times_a_second() -> None:
    pytest.importorskip("ipykernel")
    code = """
    from time import sleep
    from genesis_toolkit.pipeline.progress import Bars
    with Bars() as bars:
        for number in range(1000):
            bars("scans", number + 1, 1000)
            sleep(0.002)
        bars("a word in between", 0, 0)
    """
    messages: list[Any] = []
    with kernel() as client:
        begun = monotonic()
        client.execute_interactive(code.replace("\n    ", "\n"), timeout=300, output_hook=messages.append)
        seconds = monotonic() - begun
    kinds = [message["msg_type"] for message in messages]
    shown = [message["content"]["data"]["text/plain"] for message in messages if "data" in message["content"]]
    assert kinds.count("display_data") == 2  # the bars, and the word
    assert "stream" not in kinds
    assert 3 <= kinds.count("update_display_data") <= 2 + seconds / _NotebookOutput.PAUSE
    assert any("scans" in text and "━" in text and "/1000" in text for text in shown)
    assert any("a word in between" in text for text in shown)
    assert shown[-1] == "" or shown[-1].strip() == "a word in between"
    assert "" in shown[1:]  # and nothing is left of them
