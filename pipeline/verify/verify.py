"""Whether a store is what it was when it was made: every file, every cube, every row of its tables.

Nothing stops at the first damage, and nothing that is wrong with a store is an error here: it is a finding.
What hangs on a damaged file is left out, and said to be, rather than found wrong in its turn.
"""

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from genesis_toolkit.pipeline.cubes import recut
from genesis_toolkit.pipeline.cubes.pseudonyms import Key, read_key
from genesis_toolkit.pipeline.engine import Workers, cores, counting, run
from genesis_toolkit.pipeline.errors import CallError
from genesis_toolkit.pipeline.ledger import LOG, MANIFEST, AnyPath, log_is_whole
from genesis_toolkit.pipeline.pairs.replay import replay
from genesis_toolkit.pipeline.progress import Bars, Progress, callback, shows
from genesis_toolkit.pipeline.store import salvage, schema
from genesis_toolkit.pipeline.store.examine import Examined, ShardPlace, examine
from genesis_toolkit.pipeline.store.metadata import MOST_METADATA
from genesis_toolkit.pipeline.store.open import finished_storage
from genesis_toolkit.pipeline.store.storage import Archive, Folder, Storage
from genesis_toolkit.pipeline.targets.recut import compare_targets
from genesis_toolkit.pipeline.verify.tables import store_problems
from genesis_toolkit.pipeline.wording import reason_of

#: Cubes that are cut again unless another number is asked for.
CUBES_CUT_AGAIN = 32

_AT_ONCE = 8  # files asked of a server at the same time


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        name: a file of the store, an array, or a scan.
        what: a sentence to go after it.
        rows: the numbers of the first and last cube in a shard, or pair; None where it is no shard.
    """

    name: str
    what: str
    rows: tuple[int, int] | None = None

    @property
    def counted(self) -> str:
        """What `rows` counts."""
        return "pairs" if self.name.startswith("degraded/") else "cubes"


@dataclass
class Verification:
    """What came of `verify_store`.

    Attributes:
        place: of the store.
        kind: `genesis-cubes`, `genesis-pairs` or `genesis-targets`; None where not even that could be read.
        maker: the command that makes such a store.
        files: how many were read.
        bytes: of them.
        cubes, pairs: how many the store has; None where that could not be read, or it has none.
        findings: what is wrong, all of it.
        left_out: what could not be looked at, and why.
        damaged: the files of the manifest that are not as they were written, and the log where it is not.
        scans: how many were compared with their files.
        cut_again: cubes that were compared with their scans.
        replayed: pairs that were derived again.
    """

    place: str
    kind: str | None = None
    maker: str = schema.KINDS[schema.CUBES].maker
    files: int = 0
    bytes: int = 0
    cubes: int | None = None
    pairs: int | None = None
    findings: tuple[Finding, ...] = ()
    left_out: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    scans: int = 0
    cut_again: int = 0
    replayed: int = 0

    def _add(self, problems: Iterable[salvage.Problem]) -> bool:
        """Note findings; whether there were any."""
        found = tuple(Finding(printable(name), printable(what)) for name, what in problems)
        self.findings += found
        return bool(found)


@shows(Bars)
def verify_store(
    place: AnyPath,
    *,
    source: AnyPath | None = None,
    anonymize: AnyPath | None = None,
    cubes: int = CUBES_CUT_AGAIN,
    pairs: int = 0,
    workers: int | None = None,
    progress: Progress | bool = False,
) -> Verification:
    """Look for all that is wrong with a store.

    Args:
        place: a folder, an archive or a URL.
        source: the scans it was made from, to compare it with.
        anonymize: the key that it was made with, to find them.
        cubes: how many random cubes to cut again from `source`.
        pairs: how many random pairs to derive again from their originals.
        workers: files read at a time, and scans; None takes one a core.
        progress: True shows bars on stderr; a callback is told as the work goes on.

    Raises:
        CallError: there is no store of ours at `place`, or no source.
        DataError: it is of another format version, or an archive that cannot be opened.
    """
    report = callback(progress)
    source = Path(source) if source is not None else None
    anonymize = Path(anonymize) if anonymize is not None else None
    storage = finished_storage(place)
    told = Verification(storage.place)
    workers = workers or (cores() if storage.near else _AT_ONCE)
    manifest, _, problems = salvage.read_manifest(storage)
    told._add((MANIFEST, problem) for problem in problems)
    # What is no store, and other versions, are refused; unless that is only what damage makes it say.
    if salvage.ROOT not in manifest or examine(storage, salvage.ROOT).sha256 == manifest[salvage.ROOT]:
        salvage.attributes_of(storage, tuple(schema.KINDS))
    strangers = _strangers(storage, manifest)
    told._add((name, "is in no line of the manifest") for name in strangers)
    count = counting(report, "files", len(manifest), 0)
    examine_all = partial(_examine_all, storage, manifest, workers, count, told)
    sound = examine_all({path: None for path in manifest if not schema.is_shard(path)})
    remains, wrong = salvage.read_remains(storage, manifest, strangers, sound.__contains__)
    key = _check_call(remains, source, anonymize, pairs)
    inconsistent = told._add(wrong)
    examine_all({path: remains.shard(path) for path in manifest if schema.is_shard(path)})
    inconsistent |= told._add(store_problems(remains))
    told._add(_log_problems(storage, told))
    if inconsistent and (source or pairs):
        told.left_out += ("scans, and pairs derived again: tables or attributes are wrong",)
    else:
        _recheck(remains, source, key, cubes, pairs, Workers(workers, progress=report), told)
    told.left_out += tuple(_not_looked_at(remains))
    told.kind, told.pairs = remains.kind, remains.count("degraded")
    told.cubes = len(remains.voxels) if remains.voxels else None
    if remains.kind:
        imported = remains.kind == schema.CUBES and "imported" in remains.cutting
        told.maker = "import-npy" if imported else schema.KINDS[remains.kind].maker
    return told


def printable(text: str) -> str:
    """Text that a stranger wrote, with escapes for what a terminal would act on or cannot show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _check_call(
    remains: salvage.Remains, source: Path | None, anonymize: Path | None, pairs: int
) -> Key | None:
    """Refuse what cannot be asked of this store; the key of its pseudonyms."""
    place = remains.storage.place
    if pairs and remains.kind not in (schema.PAIRS, None):
        noun = schema.KINDS[remains.kind].noun
        raise CallError(f"{place} is a {noun}, and --replay derives the pairs of a pair store: leave it out.")
    if source is None:
        return None
    if not source.exists():
        raise CallError(f"There is no folder {source}: give the folder that holds the scans.")
    fingerprint = remains.cutting.get("anonymized_with")
    if fingerprint is None:
        return None
    key = read_key(anonymize) if anonymize and anonymize.exists() else None
    if key is None or key.fingerprint != fingerprint:
        raise CallError(
            f"{place} tells its scans by pseudonyms: give the file with the key that it was made with, "
            "--anonymize KEYFILE."
        )
    return key


def _strangers(storage: Storage, manifest: Mapping[str, str]) -> list[str]:
    """Files that the manifest does not know; a server does not tell."""
    names = list[str]()
    if isinstance(storage, Archive):
        with zipfile.ZipFile(storage.place) as archive:
            names = archive.namelist()
    elif isinstance(storage, Folder):
        for folder, folders, files in os.walk(storage.place):
            links = [name for name in folders if Path(folder, name).is_symlink()]
            names += [Path(folder, name).relative_to(storage.place).as_posix() for name in [*files, *links]]
    known = {*manifest, MANIFEST, LOG}
    return sorted(set(names) - known)


def _examine_all(
    storage: Storage,
    manifest: Mapping[str, str],
    workers: int,
    count: Callable[[object], None],
    told: Verification,
    places: Mapping[str, ShardPlace | None],
) -> set[str]:
    """Read files to their ends and note what is wrong with them; those that are as they were written."""
    found = dict[str, Examined]()

    def finished(examined: Examined) -> None:
        found[examined.path] = examined
        count(examined)

    run(lambda path: examine(storage, path, places[path]), list(places), finished=finished, workers=workers)
    paths = {digest: path for path, digest in manifest.items()}
    for path, place in places.items():
        told.files, told.bytes = told.files + 1, told.bytes + found[path].bytes
        problems = _problems_of(found[path], manifest[path], paths)
        if found[path].sha256 != manifest[path]:
            told.damaged += (path,)
        if problems:
            rows = (place.first, place.first + place.count - 1) if place else None
            told.findings += (Finding(printable(path), printable("; ".join(problems)), rows),)
    return {path for path in places if found[path].sha256 == manifest[path]}


def _problems_of(examined: Examined, digest: str, paths: Mapping[str, str]) -> list[str]:
    """What is wrong with a file; `paths` tells which file has which sha256."""
    if not examined.sha256 or examined.sha256 == digest:
        return list(examined.problems)
    if examined.sha256 in paths:
        return [f"is the file {paths[examined.sha256]}, not the one that was written here"]
    if schema.is_shard(examined.path) and not examined.problems:
        return ["is not as it was written: its sha256 is another, though every cube in it is sound"]
    return ["is not as it was written: its sha256 is another", *examined.problems]


def _log_problems(storage: Storage, told: Verification) -> list[salvage.Problem]:
    try:
        if storage.size(LOG) <= MOST_METADATA and log_is_whole(storage.read(LOG)):
            return []
    except FileNotFoundError:  # an archive has none, nor what was unpacked from one
        return []
    except OSError as error:
        return [(LOG, f"cannot be read: {reason_of(error)}")]
    told.damaged += (LOG,)
    return [(LOG, "is not as it was written: its checksum does not fit")]


def _recheck(
    remains: salvage.Remains,
    source: Path | None,
    key: Key | None,
    cubes: int,
    pairs: int,
    workers: Workers,
    told: Verification,
) -> None:
    """Compare with the scans, and derive pairs again, as far as the call asks for it."""
    looked_at = "scans"
    try:
        if source is not None:
            parameters = recut.extraction_of(remains) if key else None
            places, gone = recut.places_of(remains, source, parameters, key)
            told._add(gone)
            wrong = recut.compare_scans(remains, places, key, workers)
            told._add(wrong.values())
            told.scans = len(places) + len(gone)
            places = {row: path for row, path in places.items() if row not in wrong}
            looked_at = "cubes of the scans"
            if remains.kind == schema.TARGETS:
                told.cut_again, problems = compare_targets(remains, source, places, cubes, workers)
            else:
                told.cut_again, problems = recut.compare_cubes(remains, places, cubes, workers)
            told._add(problems)
    except recut.UnknownError as error:
        told.left_out += (f"{looked_at}: {error}",)
    try:
        if pairs:
            told.replayed, problems = replay(remains, pairs, workers)
            told._add(problems)
    except recut.UnknownError as error:
        told.left_out += (f"pairs derived again: {error}",)


def _not_looked_at(remains: salvage.Remains) -> Iterator[str]:
    """What was left out since what it hangs on is damaged, or is not to be had."""
    if not remains.storage.near:
        yield "files that the manifest does not know: a server does not tell its files"
    if remains.kind is None:
        yield "cubes and tables: what kind of store it is cannot be read"
        return
    if remains.window is None:
        yield "the values of voxels and the parameters: zarr.json is damaged"
    for name in schema.array_names(remains.kind, remains.manifest):
        if name not in remains.arrays or (name not in remains.columns and not schema.is_voxels(name)):
            yield f"{name}: it, or what tells its length, is damaged"
