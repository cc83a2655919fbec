"""The checksum of a run's log, which the manifest leaves out so that equal work has an equal manifest."""

import json
import zlib
from collections.abc import Mapping
from typing import Any


def sealed_log(log: Mapping[str, Any]) -> bytes:
    """A log as JSON, with the CRC-32 of its text as the last of its facts."""
    crc = zlib.crc32(json.dumps(log, indent=1).encode())
    return json.dumps({**log, "crc32": f"{crc:08x}"}, indent=1).encode()


def log_is_whole(data: bytes) -> bool:
    """Whether a log is as `sealed_log` gave it, to the byte."""
    try:
        log = json.loads(data)
        del log["crc32"]
        return data == sealed_log(log)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False
