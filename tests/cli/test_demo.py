"""The demo: all steps in one call, and a page that holds what they gave and needs nothing else."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import genesis_toolkit.cli.demo
from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.pictures.demo_page import Shown, demo_page, loss_chart
from genesis_toolkit.pipeline.store.open import PairStore, open_store
from genesis_toolkit.training.pretrain import ranks
from genesis_toolkit.training.pretrain.examples import best_restored
from genesis_toolkit.training.weights.load import load_network

LITTLE = genesis_toolkit.cli.demo.Journey(
    shape=(64, 64, 48), size=(16, 16, 16), border=(0, 0, 0), cubes_per_scan=2, variants=1, width=2, epochs=2
)


class _Page(HTMLParser):
    """What a page holds: its elements, its addresses and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.full
def test_one_call_does_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(genesis_toolkit.cli.demo, "Journey", lambda: LITTLE)
    monkeypatch.setattr(ranks, "LEAST_SHARE", 1e9)  # any other run would be warned of its ranks
    folder = tmp_path / "demo"
    done = CliRunner().invoke(main, ["demo", str(folder)])
    assert done.exit_code == 0, done.output
    assert done.stderr.splitlines()[-1].startswith("Next: genesis-train export ")
    assert "effective rank" not in done.stderr
    assert str(folder / "index.html") in done.stdout.replace("\n", "")
    page = _Page((folder / "index.html").read_text(encoding="utf-8"))
    assert page.tags.count("img") == 4
    assert not {"script", "link", "iframe"} & set(page.tags)
    for address in page.addresses:
        kind, _, data = address.partition("base64,")
        assert kind == "data:image/png;"
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    baselines = json.loads((folder / "pretrained" / "run.json").read_bytes())["baselines"]
    for name in ("copy", "mean_image", "constant"):
        assert f"{baselines[name]:.5f}" in page.text
    assert "scans/s cut" in page.text
    for command in LITTLE.commands():
        assert command in page.text
    again = CliRunner().invoke(main, ["demo", str(folder)])
    assert (again.exit_code, "not empty" in again.stderr) == (2, True)
    store, network = open_store(folder / "pairs.zarr", PairStore), load_network(folder / "pretrained").eval()
    slices, of = best_restored(folder / "pretrained", folder / "pairs.zarr", 2)
    held_out = [row for row in range(len(store)) if store.scans.subset[store.table.scan[row]] in (5, 6)]
    assert len(slices) == 2 < of == len(held_out)
    pieces = []
    for row in held_out:
        degraded, original = ((voxels.astype(np.float32) + 1000) / 2000 for voxels in store[row])
        with torch.inference_mode():
            restored = network(torch.from_numpy(degraded)[None, None])[0, 0].numpy()
        for z in range(16):
            errors = [float(((one - original)[..., z] ** 2).mean()) for one in (restored, degraded)]
            pieces.append((float(original[..., z].var()), *errors, row, restored[..., z]))
    half = np.median([one[0] for one in pieces])
    fair = [one for one in pieces if one[0] >= half and one[2] > one[1]]
    best = max(fair, key=lambda one: 1 - one[1] / one[0])
    assert slices[0].cube == best[3]
    np.testing.assert_array_equal(slices[0].restored, best[4])


def test_without_torch_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "genesis_toolkit.cli.errors.find_spec", lambda name: None if name == "torch" else True
    )
    done = CliRunner().invoke(main, ["demo", str(tmp_path / "demo"), "--json"])
    assert done.exit_code == 2
    assert (
        'The demo needs torch: install it with pip install "genesis-toolkit[train]"'
        in (json.loads(done.stdout)["error"])
    )
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(("loss", "verdict"), [(0.01, "the network is below all"), (0.03, "not below all")])
def test_the_page_says_whether_the_network_is_below_the_baselines(loss: float, verdict: str) -> None:
    losses = {"the network": loss, "the mean <image>": 0.02, "copying": 0.4}
    curves = {"training": [0.05, loss], "validation": [0.04, loss]}
    page = demo_page([Shown("a", "b & c", b"")] * 2, "1 scan/s", losses, curves, ["x < y"], "note")
    assert verdict in page
    assert "the mean &lt;image&gt;" in page
    assert "b &amp; c" in page
    assert "x &lt; y" in page


def test_the_chart_puts_lower_losses_lower_and_leaves_out_what_is_far_above() -> None:
    chart = loss_chart({"training": [0.03, 0.02, 0.01]}, {"near": 0.02, "far": 0.5})
    points = re.search(r'points="([^"]+)"', chart)
    assert points
    across, down = zip(*(map(float, one.split(",")) for one in points[1].split()), strict=True)
    assert list(across) == sorted(across)
    assert list(down) == sorted(down)
    assert "near" in chart
    assert "far" not in chart
    assert f'y1="{down[1]:.1f}"' in chart, "a level lies where the curve has its loss"
