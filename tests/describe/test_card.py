"""The card tells the truth: its code runs, its commands make the same store again, its numbers are counts."""

import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from click.testing import CliRunner
from support.folders import ROOT
from support.scans import SMALL, lungs, write_scan

import genesis_toolkit.cli.prep
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.cubes.parameters import ExtractParameters
from genesis_toolkit.pipeline.degrade.recipes import Recipe, get_recipe
from genesis_toolkit.pipeline.describe.card import CARD, EXTRACT_OPTIONS, PATENT, commands, dataset_card
from genesis_toolkit.pipeline.describe.croissant import CROISSANT
from genesis_toolkit.pipeline.describe.facts import Contents
from genesis_toolkit.pipeline.errors import DataError
from genesis_toolkit.pipeline.exchange.merge import merge_stores
from genesis_toolkit.pipeline.exchange.npy_import import IMPORTED
from genesis_toolkit.pipeline.ledger import read_manifest
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import open_cubes, open_store
from genesis_toolkit.pipeline.store.schema import CubeTable


@pytest.fixture
def pair_store(cube_store: Path) -> Path:
    recipe = get_recipe("paper", flip_axes=("x", "z"), shuffle_edges=("1", "L//8"), nonlinear_rate=0.5)
    target = cube_store.with_name("pairs.zarr")
    degrade_cubes(cube_store, target, DegradeParameters(recipe, variants=2, seed=7), workers=1)
    return target


def card(store: Path) -> str:
    return (store / CARD).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def contents(store: Path, **changes: Any) -> Contents:
    """Of a cube store, with some parameters changed."""
    opened = open_cubes(store)
    parameters = opened.attributes["parameters"] | changes
    return Contents(opened.attributes | {"parameters": parameters}, opened.table, opened.scans)


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_manifest_covers_the_card(cube_store: Path, pair_store: Path) -> None:
    for store in (cube_store, pair_store):
        assert {CARD, CROISSANT} <= set(read_manifest(store))
        (store / CARD).write_text(card(store) + "and my own words\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"README\.md is missing or has changed"):
            open_store(store)


def test_the_code_for_cubes_runs_as_it_stands(cube_store: Path) -> None:
    plain, ours = blocks(card(cube_store), "python")
    truth = np.asarray(zarr.open_group(cube_store, mode="r")["cubes"][0])
    code = f"{plain}\nprint(cube.shape, cube.dtype, (cube * 2000 - 1000).round().astype(int).sum())"
    assert (
        run_python(code, cube_store.parent).split("\n")[0] == f"(16, 16, 16) float32 {truth.sum(dtype=int)}"
    )
    code = f"{ours}\nprint(cube.shape, cube.dtype, cube.sum(dtype=int), low, high)"
    told = f"(16, 16, 16) int16 {truth.sum(dtype=int)} -1000 1000"
    assert run_python(code, cube_store.parent).strip() == told


def test_the_code_for_pairs_runs_as_it_stands(cube_store: Path, pair_store: Path) -> None:
    plain, ours = blocks(card(pair_store), "python")
    group = zarr.open_group(pair_store, mode="r")
    degraded, flip = np.asarray(group["degraded"][0]), int(group["flip"][0])
    original = np.asarray(group["original"][0])
    for axis, bit in enumerate((1, 2, 4)):
        original = np.flip(original, axis) if flip & bit else original
    np.savez(pair_store.parent / "truth.npz", x=degraded, y=original)
    check = "truth = np.load('truth.npz')\nfor name, found in (('x', x), ('y', y)):\n"
    check += "    np.testing.assert_allclose(found, (truth[name] + 1000) / 2000, atol=1e-6)\n"
    run_python(f"{plain}\n{check}", pair_store.parent)
    check = "import numpy as np\ntruth = np.load('truth.npz')\n"
    check += "assert (degraded == truth['x']).all() and (original == truth['y']).all()"
    run_python(f"{ours}\n{check}", pair_store.parent)


def test_the_check_of_the_card_finds_damage(pair_store: Path) -> None:
    (block,) = blocks(card(pair_store), "bash")
    words = ["bash", "-euc", block]
    assert subprocess.run(words, cwd=pair_store, capture_output=True).returncode == 0
    shard = pair_store / "degraded" / "c" / "0" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert subprocess.run(words, cwd=pair_store, capture_output=True).returncode != 0


def run_commands(text: str, folder: Path, source: Path, key: Path | None = None) -> None:
    """Run the commands of a card, its placeholders filled in."""
    (block,) = blocks(text, "text")
    for line in block.replace("\\\n", " ").strip().splitlines():
        program, *words = shlex.split(line)
        assert program == "genesis-prep"
        places = {"SOURCE": source, "KEY": key, "cubes.zarr": folder / "c", "pairs.zarr": folder / "p"}
        filled = [str(places.get(word, word)) for word in words]
        done = CliRunner().invoke(genesis_toolkit.cli.prep.main, [*filled, "--workers", "1"])
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    "parameters",
    [
        SMALL,
        dataclasses.replace(
            SMALL, sampler="official", seed=3, subsets=(0, 5), hu=(-900, 900), min_tissue=0.1
        ),
        dataclasses.replace(SMALL, spacing=(1.0, 1.0, 1.5), orient="RAS", border=(0, 0, 0)),
    ],
)
def test_its_commands_make_the_same_cubes_again(
    luna16: Path, tmp_path: Path, parameters: ExtractParameters
) -> None:
    extract_cubes(luna16, tmp_path / "first.zarr", parameters, workers=1)
    run_commands(card(tmp_path / "first.zarr"), tmp_path, luna16)
    assert read_manifest(tmp_path / "c") == read_manifest(tmp_path / "first.zarr")


def test_its_commands_make_the_same_pairs_again(luna16: Path, pair_store: Path, tmp_path: Path) -> None:
    run_commands(card(pair_store), tmp_path, luna16)
    assert read_manifest(tmp_path / "p") == read_manifest(pair_store)


def test_a_store_of_pseudonyms_has_a_card_without_names(luna16: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    extract_cubes(luna16, tmp_path / "first.zarr", SMALL, workers=1, anonymize=key)
    for name in (CARD, CROISSANT):
        text = (tmp_path / "first.zarr" / name).read_text(encoding="utf-8")
        assert not re.search(r"1\.2\.[345]|\.mhd|subset0", text)
    text = card(tmp_path / "first.zarr")
    assert "| names of the scans | pseudonyms |" in text
    run_commands(text, tmp_path, luna16, key)
    assert read_manifest(tmp_path / "c") == read_manifest(tmp_path / "first.zarr")


def test_every_parameter_of_an_extraction_is_an_option() -> None:
    assert [field.name for field in dataclasses.fields(ExtractParameters)] == sorted(
        EXTRACT_OPTIONS, key=[field.name for field in dataclasses.fields(ExtractParameters)].index
    )
    known = {option for param in genesis_toolkit.cli.prep.extract_cubes.params for option in param.opts}
    assert {f"--{name.replace('_', '-')}" for name in EXTRACT_OPTIONS} <= known
    recipe = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(Recipe)} - {"--name"}
    assert recipe <= {option for param in genesis_toolkit.cli.prep.degrade.params for option in param.opts}


def test_where_no_command_makes_it_the_card_says_so(cube_store: Path) -> None:
    for merged in ({"layout": "mixed"}, {"anonymized_with": "several keys"}, {"unheard": 1}):
        assert commands(contents(cube_store, **merged)) == []
        assert "No command line alone can reproduce this store." in dataset_card(
            contents(cube_store, **merged)
        )
    opened = open_cubes(cube_store)
    imported = Contents(opened.attributes | {"parameters": IMPORTED}, opened.table, opened.scans)
    assert commands(imported) == ["genesis-prep import-npy FILES cubes.zarr"]
    assert "from 2 imported files, without labels" in dataset_card(imported)


def test_a_merged_store_has_the_card_of_one_made_at_once(
    luna16: Path, cube_store: Path, tmp_path: Path
) -> None:
    parts = []
    for subsets in ((0, 1), (2, 3, 4, 5, 6)):
        parts.append(tmp_path / f"part{subsets[0]}.zarr")
        extract_cubes(luna16, parts[-1], dataclasses.replace(SMALL, subsets=subsets), workers=1)
    merge_stores(parts, tmp_path / "merged.zarr", workers=1)
    assert card(tmp_path / "merged.zarr") == card(cube_store)


def test_a_recipe_of_ones_own_has_no_command(cube_store: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(get_recipe("genesis"), name="mine | <b>")
    degrade_cubes(cube_store, tmp_path / "own.zarr", DegradeParameters(recipe), workers=1)
    text = card(tmp_path / "own.zarr")
    assert not blocks(text, "text")
    assert "| recipe: name | mine \\| &lt;b> |" in text


def test_its_numbers_are_those_of_the_store(cube_store: Path, pair_store: Path) -> None:
    text = card(pair_store)
    group = zarr.open_group(pair_store, mode="r")
    applied = [int(bits) for bits in group["applied"][...]]
    told = dict(re.findall(r"^\| ([a-z ]+) \| (.*) \|$", text, re.MULTILINE))
    counts = {word: int(count) for count, word in re.findall(r"(\d+) ([a-z-]+)", told["degradations"])}
    words = {"non-linear": 1, "shuffled": 2, "in-painted": 4, "out-painted": 8}
    expected = {word: sum(bool(bits & bit) for bits in applied) for word, bit in words.items()}
    expected |= {"unchanged": applied.count(0), "flipped": int(np.count_nonzero(group["flip"][...]))}
    assert counts == {word: count for word, count in expected.items() if count or word == "flipped"}
    assert told["pairs"] == "24, 2 variants per cube"
    assert told["cubes"] == "12 of 16 x 16 x 16 voxels in x, y, z"
    assert told["scans"] == "2 used, 1 skipped, 0 failed"
    assert told["cubes by subset"] == "0: 6, 5: 6"
    assert told["spacing in mm"] == "x 0.7, y 0.7, z 1.5"
    tissue = np.asarray(group["tissue"][...])
    assert told["tissue score"] == f"{min(tissue):.3f} .. {max(tissue):.3f}, median {np.median(tissue):.3f}"
    assert "recipe: inpaint fill | constant" in text


@pytest.mark.parametrize(
    ("rows", "category"),
    [
        (1, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (20_000, "10K<n<100K"),
        (999_999, "100K<n<1M"),
        (1_000_000, "1M<n<10M"),
    ],
)
def test_hubs_read_its_front_matter(cube_store: Path, rows: int, category: str) -> None:
    opened = open_cubes(cube_store)
    columns = {
        name: np.resize(column, (rows, *column.shape[1:])) for name, column in vars(opened.table).items()
    }
    text = dataset_card(Contents(opened.attributes, CubeTable(**columns), opened.scans))
    empty, front, rest = text.split("---\n", 2)
    assert empty == ""
    facts = yaml.safe_load(front)
    assert facts["size_categories"] == [category]
    assert facts["license"] == "unknown"
    assert facts["pretty_name"] == "Models Genesis cubes"
    assert "computed-tomography" in facts["tags"]
    assert rest.startswith("\n# Models Genesis cubes\n")


def test_it_depends_on_nothing_but_the_store(luna16: Path, cube_store: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "named differently.zarr"
    extract_cubes(luna16, other, SMALL, workers=2)
    assert card(other) == card(cube_store)
    assert str(tmp_path) not in card(other)
    assert not re.search(r"\b20[2-9]\d-\d\d|\d+\.\d+\.\d+", card(other).replace(PATENT, ""))


def test_licence_and_patent(cube_store: Path, tmp_path: Path) -> None:
    def words(text: str) -> str:
        return " ".join(text.split())

    text = words(card(cube_store))
    assert words(PATENT) in words((ROOT / "NOTICE").read_text(encoding="utf-8"))
    assert words(PATENT) in text
    assert "The licence of the scans applies" in text
    assert "LIDC-IDRI, which is under CC BY 3.0" in text
    write_scan(tmp_path / "mine" / "a.nii.gz", lungs(4))
    extract_cubes(tmp_path / "mine", tmp_path / "mine.zarr", SMALL, workers=1)
    assert "LIDC" not in card(tmp_path / "mine.zarr")
    assert "LUNA16" not in card(tmp_path / "mine.zarr")
