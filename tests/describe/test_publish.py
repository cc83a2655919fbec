"""A card made ready to be published: card, Croissant file and manifest agree, and nothing else changes."""

import hashlib
import json
import warnings
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.scans import SMALL

from genesis_toolkit.cli.prep import main
from genesis_toolkit.pipeline.cubes.extract import extract_cubes
from genesis_toolkit.pipeline.ledger import MANIFEST, read_manifest
from genesis_toolkit.pipeline.pairs.degrade import DegradeParameters, degrade_cubes
from genesis_toolkit.pipeline.store.open import open_store
from genesis_toolkit.pipeline.verify.verify import verify_store

TITLE, CITATION = 'Lungs: "small" cubes', "Doe et al., Lungs (2026)"
WORDS = ["--title", TITLE, "--licence", "CC-BY-4.0", "--citation", CITATION, "--contact", "lungs@example.org"]


def call(*words: object) -> Result:
    return CliRunner().invoke(main, ["card", *map(str, words)])


@pytest.fixture(params=["cubes", "pairs"])
def store(request: pytest.FixtureRequest, cube_store: Path, tmp_path: Path) -> Path:
    if request.param == "cubes":
        return cube_store
    degrade_cubes(cube_store, tmp_path / "pairs.zarr", DegradeParameters(), workers=1)
    return tmp_path / "pairs.zarr"


def test_what_is_said_stands_in_card_and_croissant_and_the_store_is_sound(store: Path) -> None:
    before = read_manifest(store)
    done = call(store, *WORDS)
    assert done.exit_code == 0, done.output
    card = call(store).stdout
    head = card.split("---\n")[1]
    assert f"pretty_name: {json.dumps(TITLE)}\nlicense: cc-by-4.0\n" in head
    assert f"# {TITLE}\n" in card
    assert f"## Cite\n\n{CITATION}\n" in card
    assert "## Contact\n\nlungs@example.org\n" in card
    document = json.loads((store / "croissant.json").read_bytes())
    told = (document["name"], document["license"], document["citeAs"], document["publisher"]["name"])
    assert told == (TITLE, "CC-BY-4.0", CITATION, "lungs@example.org")
    after = read_manifest(store)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed == {"README.md", "croissant.json"}
    assert list(after) == sorted(after) == list(before)
    for name in after:
        assert hashlib.sha256((store / name).read_bytes()).hexdigest() == after[name], name
    files = {one["@id"]: one["sha256"] for one in document["distribution"] if "sha256" in one}
    assert files["README.md"] == after["README.md"]
    assert not verify_store(store).findings
    assert hashlib.sha256((store / MANIFEST).read_bytes()).hexdigest() in done.stdout


def test_what_an_earlier_call_said_stays(cube_store: Path) -> None:
    assert call(cube_store, *WORDS).exit_code == 0
    once = read_manifest(cube_store)
    assert call(cube_store, "--title", TITLE).exit_code == 0
    assert read_manifest(cube_store) == once
    assert call(cube_store, "--licence", "Ask the hospital.").exit_code == 0
    card = (cube_store / "README.md").read_text(encoding="utf-8")
    assert 'license: other\nlicense_name: "Ask the hospital."' in card
    assert CITATION in card
    assert "CC-BY-4.0" not in card


def test_the_reference_validator_takes_it(cube_store: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    assert call(cube_store, *WORDS).exit_code == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metadata = mlcroissant.Dataset(str(cube_store / "croissant.json")).metadata
    assert not metadata.ctx.issues.errors
    assert metadata.cite_as == CITATION


def test_a_store_with_a_card_of_ones_own_is_the_same_store_to_the_commands(
    luna16: Path, cube_store: Path
) -> None:
    assert call(cube_store, "--title", TITLE).exit_code == 0
    assert extract_cubes(luna16, cube_store, SMALL, workers=1).done_before
    assert len(open_store(cube_store)) == 12


def test_facts_given_at_extraction_make_the_card_that_a_later_call_makes(
    luna16: Path, cube_store: Path, tmp_path: Path
) -> None:
    assert call(cube_store, *WORDS).exit_code == 0
    store = tmp_path / "told.zarr"
    rule = "--cubes-per-scan 6 --size 16,16,16 --border 2,2,2 --max-tissue 0.4"  # `SMALL`
    same = ["extract-cubes", str(luna16), str(store), *rule.split(), "--workers", "1"]
    done = CliRunner().invoke(main, [*same, *WORDS])
    assert done.exit_code == 0, done.output
    for name in ("README.md", "croissant.json", MANIFEST):
        assert (store / name).read_bytes() == (cube_store / name).read_bytes(), name
    # A finished store gets what is given now, and keeps the rest; without facts it keeps them all.
    again = CliRunner().invoke(main, [*same, "--contact", "somebody@example.org"])
    assert again.exit_code == 0, again.output
    card = (store / "README.md").read_text(encoding="utf-8")
    assert CITATION in card
    assert "## Contact\n\nsomebody@example.org\n" in card
    assert CliRunner().invoke(main, same).exit_code == 0
    assert (store / "README.md").read_text(encoding="utf-8") == card
    assert not verify_store(store).findings


def test_a_text_that_is_too_long_is_refused_before_anything_is_cut(luna16: Path, tmp_path: Path) -> None:
    words = ["extract-cubes", str(luna16), str(tmp_path / "c.zarr"), "--title", "x" * 5000]
    done = CliRunner().invoke(main, words)
    assert (done.exit_code, "--title has 5,000 characters" in done.stderr) == (2, True)
    assert not list(tmp_path.glob("c.zarr*"))


def test_what_has_no_card_to_write_is_refused(cube_store: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["pack", str(cube_store), str(tmp_path / "c.zip")]).exit_code == 0
    done = call(tmp_path / "c.zip", "--title", "x")
    assert (done.exit_code, "unpack the store first" in done.stderr) == (2, True)
    done = call(cube_store, "--title", "x" * 5000)
    assert (done.exit_code, "--title has 5,000 characters" in done.stderr) == (2, True)
