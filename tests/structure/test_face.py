"""The public face: what `genesis_toolkit` gives, what its pages document, and what type checkers see."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.folders import ROOT

import genesis_toolkit

#: DESIGN's names, which every shared store's card counts on. They never move again.
PROMISED = """
find_scans read_scan Scan Geometry Window extract_cubes explain_scan ExtractParameters ImageParameters
degrade_cubes degrade_arrays DegradeParameters Recipe get_recipe
extract_targets NoduleParameters MaskParameters FindingParameters
ImageMaskParameters ScanLabelParameters ImageLabelParameters
open_store CubeStore PairStore TargetStore verify_store describe_store
merge_stores pack_store import_npy export_npy
PairDataset PairLoader
pretrain PretrainParameters Execution finetune FinetuneParameters compare_trials Arm segment_scan load_network
load_encoder export_weights ExtractionResult DegradationResult MergeResult CallError DataError __version__
""".split()


def test_every_promised_name_is_public() -> None:
    assert set(PROMISED) <= set(genesis_toolkit.__all__)


@pytest.mark.parametrize("name", sorted(genesis_toolkit.__all__))
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(genesis_toolkit, name)
    assert name == "__version__" or value.__doc__, name


def test_the_page_documents_every_public_name_and_no_other() -> None:
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\.\. auto\w+:: genesis_toolkit\.(\w+)$", page, re.MULTILINE))
    assert documented == set(genesis_toolkit.__all__) - {"__version__"}
    table = page.split("| --- | --- |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == documented, "the summary table lists them all"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = genesis_toolkit.no_such_name  # type: ignore[attr-defined]


def test_what_needs_torch_says_how_to_get_it() -> None:
    code = "import sys; sys.modules['torch'] = None\nimport genesis_toolkit as gt\ngt.pretrain"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False)
    assert done.stderr.splitlines()[-1] == (
        'ModuleNotFoundError: genesis_toolkit.pretrain needs torch: pip install "genesis-toolkit[train]".'
    )


@pytest.mark.full
def test_a_consumer_outside_is_type_checked_strictly(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(
        "import genesis_toolkit as gt\n\n"
        "store = gt.open_store('cubes.zarr')\n"
        "low, high = store.window\n"
        "wrong: str = gt.degrade_cubes('cubes.zarr', 'pairs.zarr', progress=True)\n",
        encoding="utf-8",
    )
    call = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "use.py"]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert done.stdout.count("error:") == 1, done.stdout
    assert 'has type "DegradationResult", variable has type "str"' in done.stdout
