"""Make the table of docs/reference/benchmarks.md from a file that run.py wrote.

    python benchmarks/page.py bench.json

Prints the table of gates and puts it between the two comments of the page.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "benchmarks.md"
BETWEEN = re.compile(r"(?<=<!-- table -->\n).*(?=<!-- end of table -->)", re.DOTALL)


def table(found: dict[str, Any]) -> str:
    """Return the gates of every benchmark as a Markdown table, one per row."""
    day, loaded = found["begun"][:10], found["load_before"]
    lines = [f"{found['processor']}, {found['cores']} cores, load {loaded} before the run, {day}.", ""]
    lines += ["| benchmark | quantity | measured | gate |", "| --- | --- | --- | --- |"]
    for bench in found["benchmarks"]:
        for gate in bench["gates"]:
            missed = "" if gate["kept"] else ", missed"
            lines.append(
                f"| {bench['name']} | {gate['what']} | {gate['value']:g} | {gate['bound']}{missed} |"
            )
    return "\n" + "\n".join(lines) + "\n\n"


def main() -> None:
    text = table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    print(text)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(BETWEEN.sub(lambda _: text, page), encoding="utf-8")


if __name__ == "__main__":
    main()
