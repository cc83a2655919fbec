"""Verifies that a store is unchanged since it was made: every file, every cube, every row of its tables.

Verification continues after the first damage, and reports problems as findings instead of errors. Checks that
depend on a damaged file are left out, and listed as such, instead of producing further findings.
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

#: Default number of cubes to cut again.
CUBES_CUT_AGAIN = 32

_AT_ONCE = 8  # files requested from a server at the same time


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        name: a file of the store, an array, or a scan.
        what: the problem, phrased to follow the name.
        rows: the numbers of the first and last cube, or pair, in a shard; None if it is not a shard.
    """

    name: str
    what: str
    rows: tuple[int, int] | None = None

    @property
    def counted(self) -> str:
        """Return the noun for `rows`."""
        return "pairs" if self.name.startswith("degraded/") else "cubes"


@dataclass
class Verification:
    """Outcome of `verify_store`.

    Attributes:
        place: path of the store.
        kind: `genesis-cubes`, `genesis-pairs` or `genesis-targets`; None if even that is unreadable.
        maker: the command that makes such a store.
        files: number of files read.
        bytes: their total size.
        cubes, pairs: numbers in the store; None if unreadable, or if it has none.
        findings: all problems.
        left_out: what could not be checked, and why.
        damaged: files that contradict the manifest, and the log if it is damaged.
        scans: number of scans compared with their files.
        cut_again: number of cubes compared with their scans.
        replayed: number of pairs that were derived again.
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
        """Add findings; return whether there were any."""
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
    """Find all problems of a store.

    Args:
        place: a folder, an archive or a URL.
        source: the scans it was made from, to compare it with.
        anonymize: the file with the key of its pseudonyms, to find the scans.
        cubes: number of random cubes to cut again from `source`.
        pairs: number of random pairs to derive again from their originals.
        workers: number of files or scans at a time; None means one per core.
        progress: True shows bars on stderr; a callback receives the progress.

    Raises:
        CallError: there is no store of ours at `place`, or no source.
        DataError: its format version differs, or it is an archive that cannot be opened.
    """
    report = callback(progress)
    source = Path(source) if source is not None else None
    anonymize = Path(anonymize) if anonymize is not None else None
    storage = finished_storage(place)
    result = Verification(storage.place)
    workers = workers or (cores() if storage.near else _AT_ONCE)
    manifest, _, problems = salvage.read_manifest(storage)
    result._add((MANIFEST, problem) for problem in problems)
    # Other data and other versions are refused, unless damage may have caused the mismatch.
    if salvage.ROOT not in manifest or examine(storage, salvage.ROOT).sha256 == manifest[salvage.ROOT]:
        salvage.attributes_of(storage, tuple(schema.KINDS))
    strangers = _strangers(storage, manifest)
    result._add((name, "is not listed in the manifest") for name in strangers)
    count = counting(report, "files", len(manifest), 0)
    examine_all = partial(_examine_all, storage, manifest, workers, count, result)
    sound = examine_all({path: None for path in manifest if not schema.is_shard(path)})
    remains, wrong = salvage.read_remains(storage, manifest, strangers, sound.__contains__)
    key = _check_call(remains, source, anonymize, pairs)
    inconsistent = result._add(wrong)
    examine_all({path: remains.shard(path) for path in manifest if schema.is_shard(path)})
    inconsistent |= result._add(store_problems(remains))
    result._add(_log_problems(storage, result))
    if inconsistent and (source or pairs):
        result.left_out += ("scans, and pairs derived again: tables or attributes are damaged",)
    else:
        _recheck(remains, source, key, cubes, pairs, Workers(workers, progress=report), result)
    result.left_out += tuple(_not_looked_at(remains))
    result.kind, result.pairs = remains.kind, remains.count("degraded")
    result.cubes = len(remains.voxels) if remains.voxels else None
    if remains.kind:
        imported = remains.kind == schema.CUBES and "imported" in remains.cutting
        result.maker = "import-npy" if imported else schema.KINDS[remains.kind].maker
    return result


def printable(text: str) -> str:
    """Escape characters in a stranger's text that a terminal would interpret or cannot show."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _check_call(
    remains: salvage.Remains, source: Path | None, anonymize: Path | None, pairs: int
) -> Key | None:
    """Refuse options that do not apply to this store; return the key of its pseudonyms."""
    place = remains.storage.place
    if pairs and remains.kind not in (schema.PAIRS, None):
        noun = schema.KINDS[remains.kind].noun
        raise CallError(
            f"{place} is a {noun}, but --replay derives the pairs of a pair store: omit --replay."
        )
    if source is None:
        return None
    if not source.exists():
        raise CallError(f"There is no folder {source}: give the folder that holds the scans.")
    fingerprint = remains.cutting.get("anonymized_with")
    if fingerprint is None:
        return None
    key = read_key(anonymize) if anonymize and anonymize.exists() else None
    if key is None or key.fingerprint != fingerprint:
        raise CallError(f"{place} has pseudonyms for its scans: give the key file with --anonymize KEYFILE.")
    return key


def _strangers(storage: Storage, manifest: Mapping[str, str]) -> list[str]:
    """Return files that the manifest does not list; unknown on a server."""
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
    result: Verification,
    places: Mapping[str, ShardPlace | None],
) -> set[str]:
    """Read files to their ends, add findings, and return the unchanged ones."""
    found = dict[str, Examined]()

    def finished(examined: Examined) -> None:
        found[examined.path] = examined
        count(examined)

    run(lambda path: examine(storage, path, places[path]), list(places), finished=finished, workers=workers)
    paths = {digest: path for path, digest in manifest.items()}
    for path, place in places.items():
        result.files, result.bytes = result.files + 1, result.bytes + found[path].bytes
        problems = _problems_of(found[path], manifest[path], paths)
        if found[path].sha256 != manifest[path]:
            result.damaged += (path,)
        if problems:
            rows = (place.first, place.first + place.count - 1) if place else None
            result.findings += (Finding(printable(path), printable("; ".join(problems)), rows),)
    return {path for path in places if found[path].sha256 == manifest[path]}


def _problems_of(examined: Examined, digest: str, paths: Mapping[str, str]) -> list[str]:
    """Return the problems of a file; `paths` maps each sha256 to its file."""
    if not examined.sha256 or examined.sha256 == digest:
        return list(examined.problems)
    if examined.sha256 in paths:
        return [f"is the file {paths[examined.sha256]}, in the wrong place"]
    if schema.is_shard(examined.path) and not examined.problems:
        return ["has changed since it was written: the sha256 differs, though every cube in it is valid"]
    return ["has changed since it was written: the sha256 differs", *examined.problems]


def _log_problems(storage: Storage, result: Verification) -> list[salvage.Problem]:
    try:
        if storage.size(LOG) <= MOST_METADATA and log_is_whole(storage.read(LOG)):
            return []
    except FileNotFoundError:  # archives have none, and neither do stores unpacked from one
        return []
    except OSError as error:
        return [(LOG, f"cannot be read: {reason_of(error)}")]
    result.damaged += (LOG,)
    return [(LOG, "has changed since it was written: the checksum is wrong")]


def _recheck(
    remains: salvage.Remains,
    source: Path | None,
    key: Key | None,
    cubes: int,
    pairs: int,
    workers: Workers,
    result: Verification,
) -> None:
    """Compare with the scans, and derive pairs again, if the call requests it."""
    looked_at = "scans"
    try:
        if source is not None:
            parameters = recut.extraction_of(remains) if key else None
            places, gone = recut.places_of(remains, source, parameters, key)
            result._add(gone)
            wrong = recut.compare_scans(remains, places, key, workers)
            result._add(wrong.values())
            result.scans = len(places) + len(gone)
            places = {row: path for row, path in places.items() if row not in wrong}
            looked_at = "cubes of the scans"
            if remains.kind == schema.TARGETS:
                result.cut_again, problems = compare_targets(remains, source, places, cubes, workers)
            else:
                result.cut_again, problems = recut.compare_cubes(remains, places, cubes, workers)
            result._add(problems)
    except recut.UnknownError as error:
        result.left_out += (f"{looked_at}: {error}",)
    try:
        if pairs:
            result.replayed, problems = replay(remains, pairs, workers)
            result._add(problems)
    except recut.UnknownError as error:
        result.left_out += (f"pairs derived again: {error}",)


def _not_looked_at(remains: salvage.Remains) -> Iterator[str]:
    """Yield the checks left out because data they depend on are damaged or unavailable."""
    if not remains.storage.near:
        yield "files that are not in the manifest: a server does not list its files"
    if remains.kind is None:
        yield "cubes and tables: the kind of store is unreadable"
        return
    if remains.window is None:
        yield "the values of voxels and the parameters: zarr.json is damaged"
    for name in schema.array_names(remains.kind, remains.manifest):
        if name not in remains.arrays or (name not in remains.columns and not schema.is_voxels(name)):
            yield f"{name}: this array, or the array that determines its length, is damaged"
