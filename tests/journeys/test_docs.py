"""The docs are true: their commands run, print what they say, and name no option that does not exist.

Every ```bash, ```console and ```python block of README.md and docs/ is run, in order, in a folder of its
own a page. Comments in the pages direct this:

    <!-- practice data: LUNA16 cubes.zarr -->   what lies in the page's folder before its first block
    <!-- not run: REASON -->                    the next block is left out
    <!-- run with: OPTIONS -->                  added to the first command of the next block

In a console block a line `...` stands for any lines, and `...` within a line for any words. What a training
run prints is compared with its numbers left out: they differ from machine to machine.
"""

import doctest
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
import SimpleITK as sitk
from support.folders import ROOT, TESTS

import genesis_toolkit.cli.prep
import genesis_toolkit.cli.train

PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts),
]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first-look.ipynb"
PROGRAMS = {"genesis-prep": genesis_toolkit.cli.prep.main, "genesis-train": genesis_toolkit.cli.train.main}
#: Options of other programs that pages mention, and those that every command has.
OTHERS = {"--help", "--version", "--check", "--quiet"}
OTHERS |= {"--host", "--port", "--no-dashboard", "--scheduler-file", "--nthreads", "--memory-limit"}  # dask
OTHERS |= {"--job-name", "--ntasks", "--cpus-per-task", "--mem-per-cpu", "--time", "--signal"}  # SLURM
OTHERS |= {"--pneumonia", "--nih"}  # studies/evidence.py
OTHERS |= {"--array", "--mem", "--nodes", "--ntasks-per-node", "--gpus-per-node", "--kill-on-bad-exit"}
OTHERS |= {"--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id"}  # torchrun
MOST_NOT_RUN = 11
#: Goes before a block that needs another library.
FITTING = (TESTS / "support" / "torchvision_operators.py").read_text(encoding="utf-8")

_PIECE = re.compile(
    r"^<!-- (?P<key>practice data|not run|run with|needs): (?P<value>.*?) -->$"
    r"|^```(?P<language>bash|console|python)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
_CALL = re.compile(r"^(?:\$ )?(genesis-prep|genesis-train) ([a-z-]+)(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One block of code: where it stands, and what the page says of it."""

    language: str
    code: str
    line: int
    not_run: str = ""
    options: str = ""
    needs: str = ""


def read_page(page: Path) -> tuple[list[Block], list[str]]:
    """The blocks of a page, and the practice data that it wants."""
    text = page.read_text(encoding="utf-8")
    blocks, data, said = [], [], {"not run": "", "run with": "", "needs": ""}
    for piece in _PIECE.finditer(text):
        if piece["key"] == "practice data":
            data += piece["value"].split()
        elif piece["key"]:
            said[piece["key"]] = piece["value"]
        else:
            line = text.count("\n", 0, piece.start()) + 1
            blocks.append(Block(piece["language"], piece["code"], line, *said.values()))
            said = dict.fromkeys(said, "")
    return blocks, data


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


RUNNING = [page for page in PAGES if any(not block.not_run for block in read_page(page)[0])]


def run(words: list[str], folder: Path) -> str:
    """Run a program as a reader would, the installed commands first on the path; what it printed."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        words,
        cwd=folder,
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert done.returncode == 0, f"{words[-1]}\ngave exit code {done.returncode}:\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="session")
def practice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small practice data under the names that the pages use: two scans, and stores of small cubes."""
    folder = tmp_path_factory.mktemp("practice")
    run(["genesis-prep", "phantom", "LUNA16", "--scans", "2", "--shape", "300,300,112"], folder)
    first, second = (sitk.ReadImage(path) for path in sorted((folder / "LUNA16").glob("subset*/*.mhd")))
    for number in range(1, 5):
        (folder / "my-scans" / f"p0{number}").mkdir(parents=True)
    sitk.WriteImage(first, folder / "my-scans" / "p01" / "ct.nii.gz", useCompression=True, compressionLevel=1)
    sitk.WriteImage(second, folder / "my-scans" / "p02" / "ct.nrrd")
    sitk.WriteImage(second[:, :, :16], folder / "my-scans" / "p03" / "ct.mha")
    whole = (folder / "my-scans" / "p01" / "ct.nii.gz").read_bytes()
    (folder / "my-scans" / "p04" / "ct.nii.gz").write_bytes(whole[: len(whole) // 2])
    lay_out_as_others(folder)
    (folder / "archives").mkdir()
    for path in sorted((folder / "LUNA16").glob("subset[01]")):
        shutil.make_archive(str(folder / "archives" / path.name), "zip", folder / "LUNA16", path.name)
    small = "--cubes-per-scan 8 --size 32,32,32".split()
    run(["genesis-prep", "extract-cubes", "LUNA16", "cubes.zarr", *small], folder)
    run(["genesis-prep", "degrade", "cubes.zarr", "pairs.zarr", "--variants", "2"], folder)
    return folder


def lay_out_as_others(folder: Path) -> None:
    """Write pieces of the practice scans, with their masks of the lungs, as LiTS and BraTS come."""
    (folder / "LiTS").mkdir()
    for number, path in enumerate(sorted((folder / "LUNA16").glob("subset*/*.mhd"))):
        scan = sitk.ReadImage(path)[110:190, 110:190, 40:72]
        mask = sitk.ReadImage(folder / "LUNA16" / "seg-lungs-LUNA16" / path.name)[110:190, 110:190, 40:72]
        sitk.WriteImage(scan, folder / "LiTS" / f"volume-{number}.nii")
        sitk.WriteImage(mask, folder / "LiTS" / f"segmentation-{number}.nii")
        case = folder / "BraTS" / f"BraTS2021_0000{number}"
        case.mkdir(parents=True)
        sitk.WriteImage(scan + 1024, case / f"{case.name}_flair.nii.gz")
        sitk.WriteImage(mask, case / f"{case.name}_seg.nii.gz")


@pytest.mark.full
@pytest.mark.parametrize("page", RUNNING, ids=name_of)
def test_the_blocks_run(page: Path, practice: Path, tmp_path: Path) -> None:
    blocks, data = read_page(page)
    for name in data:
        if name.endswith(".zarr"):
            shutil.copytree(practice / name, tmp_path / name)
        else:
            (tmp_path / name).symlink_to(practice / name)
    lacking = []
    for block in blocks:
        if block.not_run:
            continue
        if reason := why_not(block):
            lacking.append(f"line {block.line}: {reason}")
        elif block.language == "python":
            script = tmp_path / f"block_{block.line}.py"
            script.write_text((FITTING if block.needs else "") + block.code, encoding="utf-8")
            run([sys.executable, "-W", "default" if block.needs else "error", script.name], tmp_path)
        elif block.language == "bash":
            first, rest = block.code.split("\n", 1)
            end = " \\" if first.endswith("\\") else ""
            first = f"{first.removesuffix(end)} {block.options}{end}"
            run(["bash", "-euo", "pipefail", "-c", f"{first}\n{rest}"], tmp_path)
        else:
            run_console(block, tmp_path)
    if lacking:
        pytest.skip("; ".join(lacking))


def why_not(block: Block) -> str:
    """Say which module a block needs that is not installed; nothing where it has all of them."""
    missing = [module for module in filter(None, block.needs.split(", ")) if find_spec(module) is None]
    return f"{' and '.join(missing)} not installed" if missing else ""


def run_console(block: Block, folder: Path) -> None:
    """Run the lines that begin with `$ ` and hold what they print against what the page says."""
    assert block.code.startswith("$ "), block
    for part in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
        command, _, said = part.partition("\n")
        printed = run(["bash", "-euo", "pipefail", "-c", command], folder)
        if command.startswith("genesis-train"):
            said, printed = (re.sub(r"[\d.,]*\d", "0", text) for text in (said, printed))
            said, printed = (text.replace(", best\n", "\n") for text in (said, printed))
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        same = doctest.OutputChecker().check_output(f"{said.strip()}\n", f"{printed.strip()}\n", flags)
        assert same, f"line {block.line}: {command}\nprinted\n{printed}\nbut the page says\n{said}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_exist(page: Path) -> None:
    """In a command line the option belongs to that command; in running text, to any of them."""
    text = page.read_text(encoding="utf-8")
    for program, command, rest in _CALL.findall(text):
        assert command in PROGRAMS[program].commands, f"{program} {command}"
        assert set(_OPTION.findall(rest)) <= options_of(PROGRAMS[program].commands[command]) | OTHERS, rest
    known = {
        option for group in PROGRAMS.values() for one in group.commands.values() for option in options_of(one)
    }
    assert set(_OPTION.findall(text)) <= known | OTHERS


def options_of(command: click.Command) -> set[str]:
    """The options that a command's --help shows."""
    return set(_OPTION.findall(command.get_help(click.Context(command))))


def test_every_command_is_told_of() -> None:
    said = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for program, group in PROGRAMS.items():
        for command in group.commands:
            assert f"{program} {command}" in said, f"{program} {command} stands on no page"


def test_few_blocks_are_left_out_each_with_its_reason() -> None:
    left_out = [block for page in PAGES for block in read_page(page)[0] if block.not_run]
    assert len(left_out) <= MOST_NOT_RUN
    fences = sum(
        len(re.findall(r"^```(bash|console|python)$", page.read_text(encoding="utf-8"), re.MULTILINE))
        for page in PAGES
    )
    assert fences == sum(len(read_page(page)[0]) for page in PAGES)  # no fence escapes the reader of blocks


def anchors_of(page: Path) -> set[str]:
    """The anchors that GitHub and MyST give the headings of a page."""
    code_free = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", code_free, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", NOTEBOOK], ids=name_of
)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code_free = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", code_free):
        leads_to = page.parent / target if target else page
        if "_pictures" not in leads_to.parts:  # the docs build draws those
            assert leads_to.exists(), target
        assert not anchor or anchor in anchors_of(leads_to), f"{target}#{anchor}"


def test_every_page_is_in_the_index() -> None:
    docs = ROOT / "docs"
    index = (docs / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^[a-z-]+(?:/[\w-]+)?$", index, re.MULTILINE)
    pages = [page.relative_to(docs).with_suffix("").as_posix() for page in [*PAGES[1:], NOTEBOOK]]
    assert sorted([*listed, "index"]) == sorted(pages)


def test_the_bibtex_says_what_the_citation_file_says() -> None:
    yaml = pytest.importorskip("yaml")
    facts = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    page = " ".join((ROOT / "docs" / "cite.md").read_text(encoding="utf-8").replace("{3D}", "3D").split())
    for work in facts["references"]:
        authors = " and ".join(f"{one['family-names']}, {one['given-names']}" for one in work["authors"])
        for value in (work["title"], authors, work["year"], work["identifiers"][0]["value"]):
            assert f"{{{value}}}" in page
    for value in (facts["title"], facts["version"], facts["license"], facts["authors"][0]["name"]):
        assert f"{{{value}}}" in page


def test_the_licence_sentence_stands_in_front() -> None:
    """NOTICE, the README and the front page of the docs say the same of licence and patent."""
    for path in ("NOTICE", "README.md", "docs/index.md"):
        text = " ".join((ROOT / path).read_text(encoding="utf-8").split())
        assert "non-commercial use only" in text
        assert "US patent 11,922,628 B2 (issued 2024-03-05)" in text
        assert "grants no right under that patent" in text
