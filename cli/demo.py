"""`genesis-prep demo`: the whole journey on practice scans, and a page with its results."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import click

import genesis_toolkit as gt
from genesis_toolkit.cli import options, output
from genesis_toolkit.cli.errors import check_installed
from genesis_toolkit.cli.further import after_pretraining
from genesis_toolkit.pipeline.progress import Bars, TrainingBars


@dataclass(frozen=True)
class Journey:
    """The settings of the demo: small enough for two cores, long enough to show an effect."""

    scans: int = 7
    shape: tuple[int, int, int] = (300, 300, 112)
    size: tuple[int, int, int] = (32, 32, 16)
    border: tuple[int, int, int] = (100, 100, 30)
    cubes_per_scan: int = 32
    variants: int = 6
    inpaint_share: float = 0.8
    width: int = 8
    batch_size: int = 8
    lr: float = 0.003
    warmup: int = 20
    epochs: int = 6
    shown: int = 6

    def commands(self) -> list[str]:
        """Return the commands that do the same by hand."""
        shape, size, border = (",".join(map(str, edges)) for edges in (self.shape, self.size, self.border))
        return [
            f"genesis-prep phantom scans --scans {self.scans} --shape {shape}",
            f"genesis-prep extract-cubes scans cubes.zarr --size {size} --border {border} "
            f"--cubes-per-scan {self.cubes_per_scan}",
            f"genesis-prep degrade cubes.zarr pairs.zarr --variants {self.variants} "
            f"--inpaint-share {self.inpaint_share}",
            f"genesis-train pretrain pairs.zarr --out pretrained --width {self.width} "
            f"--batch-size {self.batch_size} --optimiser adam --lr {self.lr} --schedule cosine "
            f"--warmup {self.warmup} --epochs {self.epochs}",
        ]


_NOTE = (
    "The demo is milder than the published recipe: four in five painted cubes are in-painted, which leaves "
    "more of each cube visible; the recipe out-paints four in five. The scans are simulated, the network has "
    "a sixteenth of the weights of the published one, and it trained for about a minute. This shows how the "
    "steps work, not what pre-training gains: labelled scans show that (genesis-train compare)."
)


@click.command(cls=options.Command, short_help="Run all steps in minutes and show them on one page.")
@click.argument("folder", type=options.path, metavar="DIR")
@options.option("--seed", "Random seed for the initial weights and the order of the cubes.", int, 0)
@options.json_option
def demo(folder: Path, seed: int) -> None:
    """Make practice scans, cut cubes, degrade them, train, and show the results in DIR/index.html.

    The demo takes about three minutes on two cores and downloads nothing. The scans, the stores and the run
    stay in DIR, so that you can explore them with the other commands.

    \b
    Example:
      genesis-prep demo demo
    """
    check_installed("The demo", "train", "torch")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise gt.CallError(f"{folder} exists and is not empty: choose a new folder.")
    facts = _journey(folder, Journey(), seed)
    output.print_json(facts)
    losses = facts["losses"]
    rows = [("page", facts["page"]), ("figures", facts["figures"])]
    rows += [(name, f"{loss:.5f}") for name, loss in losses.items()]
    output.show_table(("demo", ""), rows)
    output.say(f"Open {facts['page']} in a browser.", err=True)
    output.say_next(*after_pretraining(str(folder / "pretrained"), "unet3d"))


def _journey(folder: Path, plan: Journey, seed: int) -> dict[str, Any]:
    """Run all steps; return the results as plain JSON values."""
    from genesis_toolkit.pipeline.practice.luna16 import PhantomParameters, write_luna16

    cubes, pairs, run = (folder / name for name in ("cubes.zarr", "pairs.zarr", "pretrained"))
    begun = perf_counter()
    _step("practice scans")
    write_luna16(folder / "scans", PhantomParameters(plan.scans, plan.shape), progress=True)
    asked = gt.ExtractParameters(size=plan.size, border=plan.border, cubes_per_scan=plan.cubes_per_scan)
    _step("cubes, and the places in a scan where they may be cut")
    extracting = perf_counter()
    store = gt.extract_cubes(folder / "scans", cubes, asked, progress=True).store
    extracted = perf_counter()
    _draw_map(folder, asked.rule)
    recipe = gt.get_recipe("genesis", inpaint_share=plan.inpaint_share)
    _step("pairs: each cube degraded in several ways")
    degrading = perf_counter()
    made = gt.degrade_cubes(cubes, pairs, gt.DegradeParameters(recipe, plan.variants), progress=True).store
    degraded = perf_counter()
    _draw_pairs(folder, made)
    _step("training")
    parameters = gt.PretrainParameters(
        width=plan.width,
        batch_size=plan.batch_size,
        optimiser="adam",
        lr=plan.lr,
        schedule="cosine",
        warmup=plan.warmup,
        epochs=plan.epochs,
        seed=seed,
    )
    with TrainingBars() as progress:
        outcome = gt.pretrain(pairs, run, parameters, progress=progress, say=_of_interest(progress.say))
    of = _draw_restored(folder, plan.shown)
    bytes_ = sum(path.stat().st_size for one in (cubes, pairs) for path in one.rglob("*") if path.is_file())
    figures = (
        f"{plan.scans / (extracted - extracting):.1f} scans/s cut, {len(made) / (degraded - degrading):,.0f} "
        f"pairs/s degraded, {len(store):,} cubes and {len(made):,} pairs in {bytes_ / 1e6:.1f} MB, "
        f"{perf_counter() - begun:.0f} s in all"
    )
    baselines = json.loads((run / "run.json").read_bytes())["baselines"]
    losses = {
        "the network": outcome.validation_loss,
        "copying the degraded cube": baselines["copy"],
        "the mean image": baselines["mean_image"],
        "the best constant": baselines["constant"],
    }
    page = _write_page(folder, plan, figures, losses, of)
    return {"page": str(page), "figures": figures, "losses": losses, "run": str(run)}


def _of_interest(say: Callable[[str], None]) -> Callable[[str], None]:
    """Leave out the warning about the rank of the features: nobody will use the encoder of a demo."""
    return lambda sentence: None if "effective rank" in sentence else say(sentence)


def _step(what: str) -> None:
    output.say(f"{what[0].upper()}{what[1:]} ...", err=True)


def _draw_map(folder: Path, rule: "gt.CubeRule") -> None:
    """Draw the map of `explain` for the first scan."""
    from genesis_toolkit.pipeline.pictures.map import draw_map

    scan = gt.read_scan(sorted((folder / "scans").glob("subset*/*.mhd"))[0])
    title = "coloured: where cubes may be centred; dashed: the border; green: some cubes"
    draw_map(scan.voxels, scan.geometry.spacing, rule, folder / "map.png", title=title)


def _draw_pairs(folder: Path, store: "gt.PairStore") -> None:
    from genesis_toolkit.pipeline.pictures.sheet import draw_sheet

    with Bars() as progress:
        progress("sheets", 0, 1)
        draw_sheet(store, folder / "pairs.png", 4)


def _draw_restored(folder: Path, count: int) -> int:
    """Draw the cubes restored best; return how many they were chosen from."""
    from genesis_toolkit.training.pretrain.examples import best_restored
    from genesis_toolkit.training.pretrain.show import draw_restored

    slices, of = best_restored(folder / "pretrained", folder / "pairs.zarr", count)
    draw_restored(folder / "restored.png", slices, f"the {len(slices)} best restored of {of}")
    return of


def _write_page(folder: Path, plan: Journey, figures: str, losses: dict[str, float], of: int) -> Path:
    from genesis_toolkit.pipeline.ledger import write_whole
    from genesis_toolkit.pipeline.pictures.demo_page import Shown, demo_page

    lines = (folder / "pretrained" / "losses.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    records = [json.loads(line) for line in lines]
    curves = {"training": "train_loss", "validation": "validation_loss"}
    captions = {
        "restored.png": (
            "What the network restores",
            f"The best restorations among {of} cubes from scans that the network never saw. It receives only "
            "the middle picture, never the left one.",
        ),
        "map.png": (
            "Where cubes may be cut",
            "One practice scan: the rule selects the lungs, away from the border. genesis-prep explain "
            "draws this map for any scan, and shows the effect of other settings.",
        ),
        "pairs.png": (
            "How a cube is degraded",
            "Each degradation alone, and the pair in the store. All values are whole Hounsfield units.",
        ),
        "pretrained/restored.png": (
            "Cubes at regular intervals, not selected",
            "The picture that every training run draws.",
        ),
    }
    shown = [Shown(*texts, (folder / name).read_bytes()) for name, texts in captions.items()]
    drawn = {name: [record[key] for record in records] for name, key in curves.items()}
    page = demo_page(shown, figures, losses, drawn, plan.commands(), _NOTE)
    write_whole(folder / "index.html", page.encode())
    return folder / "index.html"
