"""Run the benchmarks one after the other, and keep what they print in one file.

    python benchmarks/run.py [--json bench.json] [--only degrade verify]

`page.py` makes the table of the docs from that file. Exit 1 when a benchmark misses a gate of its own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from gates import LINE

HERE = Path(__file__).resolve().parent
NAMES = ("degrade", "pipeline", "train", "extract", "verify", "images")
MORE = ("peers",)  # on request: it needs packages that the toolkit does not


def processor() -> str:
    """The name of the processor, as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def run(name: str) -> dict[str, object]:
    """Run one benchmark, showing what it prints as it comes."""
    begun, lines = time.perf_counter(), list[str]()
    call = [sys.executable, "-u", str(HERE / f"bench_{name}.py")]
    with subprocess.Popen(call, stdout=subprocess.PIPE, encoding="utf-8") as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    gates = [match.groups() for match in map(LINE.match, lines) if match]
    return {
        "name": name,
        "seconds": round(time.perf_counter() - begun),
        "exit": process.returncode,
        "gates": [
            {"what": what, "value": float(value), "bound": bound, "kept": kept == "ok"}
            for kept, what, value, bound in gates
        ],
        "lines": lines,
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--json", type=Path, help="write what was measured to this file")
    options.add_argument("--only", nargs="+", choices=NAMES + MORE, default=NAMES)
    asked = options.parse_args()
    facts: dict[str, object] = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "begun": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_before": round(os.getloadavg()[0], 1),
    }
    print(f"{facts['processor']}, {facts['cores']} cores\n", flush=True)
    benches = [run(name) for name in asked.only]
    if asked.json:
        text = json.dumps({**facts, "benchmarks": benches}, indent=1)
        asked.json.write_text(text + "\n", encoding="utf-8")
    return int(any(bench["exit"] for bench in benches))


if __name__ == "__main__":
    sys.exit(main())
