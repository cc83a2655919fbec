"""Tables for people, at most 100 columns wide."""

from collections.abc import Sequence

WIDTH = 100


def show_table(headings: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table on stdout; the last column takes what room is left and wraps."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=number + 1 < len(headings))
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console = Console(highlight=False, markup=False)
    # Where stdout is no terminal rich takes 80 columns; a file has room for more.
    console.width = min(WIDTH, console.width) if console.is_terminal else WIDTH
    console.print(table)


def counted(number: int, what: str) -> str:
    """A number and what it counts: `1 cube`, `2,848 cubes`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def shortened(text: str, width: int = 34) -> str:
    """The end of a long identifier, where those of one source differ."""
    return text if len(text) <= width else "…" + text[1 - width :]


def shares(counts: dict[str, int], total: int) -> list[list[str]]:
    """Rows of counts by name, each with its share of the total."""
    return [[name, f"{count:>7,}  {100 * count / total:5.1f} %"] for name, count in counts.items()]


def size_of(count: int) -> str:
    """Bytes in the largest unit that leaves one or more: `1.2 GiB`."""
    size, unit = float(count), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:,.1f} {unit}" if unit != "bytes" else f"{count} bytes"


def duration(seconds: float) -> str:
    """Seconds as people say them: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
