"""Damage done to a finished store, and what `verify` says of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zarr

from genesis_toolkit.pipeline.ledger import LOG, MANIFEST, sha256_of
from genesis_toolkit.pipeline.verify.verify import Verification, verify_store


def files_of(store: Path) -> list[Path]:
    return sorted(path for path in store.rglob("*") if path.is_file())


def look(store: Path, **options: Any) -> Verification:
    return verify_store(store, workers=1, **options)


def told(found: Verification) -> dict[str, str]:
    return {finding.name: finding.what for finding in found.findings}


def forge(store: Path) -> None:
    """Make the manifest fit whatever lies there, as an editor with intent would."""
    names = sorted(path.relative_to(store).as_posix() for path in files_of(store))
    lines = [f"{sha256_of((store / n).read_bytes())}  {n}\n" for n in names if n not in (MANIFEST, LOG)]
    (store / MANIFEST).write_text("".join(lines), encoding="utf-8")


def rewrite(store: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a store's own `zarr.json`, and forge the manifest."""
    metadata = json.loads((store / "zarr.json").read_bytes())
    change(metadata)
    (store / "zarr.json").write_text(json.dumps(metadata), encoding="utf-8")
    forge(store)


def describe_anew(store: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the metadata of one array in both places, and forge the manifest."""
    path = store / name / "zarr.json"
    metadata = json.loads(path.read_bytes())
    change(metadata)
    path.write_text(json.dumps(metadata), encoding="utf-8")
    rewrite(store, lambda root: root["consolidated_metadata"]["metadata"].__setitem__(name, metadata))


def flip(path: Path, place: int, bits: int = 1) -> bytes:
    """Flip bits of one byte; what was there before."""
    data = path.read_bytes()
    path.write_bytes(data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :])
    return data


def set_value(name: str, row: Any, value: Any) -> Callable[[Path], None]:
    def edit(store: Path) -> None:
        zarr.open_group(store, mode="r+")[name][row] = value

    return edit


def set_attribute(*keys: str, value: Any) -> Callable[[Path], None]:
    def change(root: dict[str, Any]) -> None:
        place = root["attributes"]["genesis"]
        for key in keys[:-1]:
            place = place[key]
        if value is None:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value

    return lambda store: rewrite(store, change)
