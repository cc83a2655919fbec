"""`genesis-train compare`: arms held against each other, as a table and as the slides' chart."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.errors import CallError

if TYPE_CHECKING:
    from training.evidence import Evidence, Written
    from training.statistics import Comparison, Effect


@click.command()
@click.option(
    "--from-csv",
    "table",
    required=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A table of scores: columns task,arm,trial,value or task,arm,mean,sd,n.",
)
@click.option(
    "--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="The folder to make."
)
@click.option("--reference", metavar="ARM", help="Compare only with this arm.  [default: every pair]")
@click.option("--pairs", metavar="A:B,...", help="Compare only these; one-tailed tests ask if B is higher.")
@click.option("--overwrite", is_flag=True, help="Replace the results of another comparison in DIR.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def compare(
    table: Path, out: Path, reference: str | None, pairs: str | None, overwrite: bool, as_json: bool
) -> None:
    """Compare arms on one task or several, from anybody's scores.

    An arm is one way to begin: scratch, ImageNet, Genesis. The default is Welch's t-test, two-sided; the
    one-tailed and the pooled p-values stand beside it, with Holm's correction over the pairs of a task, and
    Hedges' g with its 95 % confidence interval. Without --pairs, one-tailed tests ask if the arm that comes
    later in FILE is higher. DIR gets results.json, results.csv, figure.png and figure.svg.

    \b
    Example:
      genesis-train compare --from-csv scores.csv --out comparison
      genesis-train compare --from-csv scores.csv --out 3d --pairs scratch-3d:genesis-ct-3d
    """
    written = _library()(table, out, reference=reference, pairs=_pairs(pairs), overwrite=overwrite)
    if as_json:
        click.echo(json.dumps({"out": str(out), "status": written.status} | written.evidence.as_dict()))
        return
    _show(written)


def _pairs(text: str | None) -> list[tuple[str, str]] | None:
    """The pairs that `--pairs` names."""
    if text is None:
        return None
    pairs = []
    for pair in text.split(","):
        first, colon, second = (part.strip() for part in pair.partition(":"))
        if not (first and colon and second) or ":" in second:
            raise CallError(
                f"--pairs {text} is no list of pairs: write two arms a pair, as in --pairs a:b,a:c."
            )
        pairs.append((first, second))
    return pairs


def _library() -> "Callable[..., Written]":
    """The library's `compare_table`.

    Raises:
        CallError: scipy is not installed.
    """
    try:
        from training.evidence import compare_table
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "scipy":
            raise
        raise CallError(
            'Comparing needs scipy: install it with pip install "genesis-toolkit[evidence]".'
        ) from None
    return compare_table


def _show(written: "Written") -> None:
    """The tables on stdout, and on stderr what to keep in mind."""
    from cli.tables import counted, show_table

    evidence = written.evidence
    show_table(
        ("task", "arm", "mean", "sd", "n"),
        [(one.task, one.arm, f"{one.mean:.6g}", f"{one.sd:.4g}", one.n) for one in evidence.summaries],
    )
    for task in dict.fromkeys(one.task for one in evidence.comparisons):
        _show_task(task, [one for one in evidence.comparisons if one.task == task])
    _say(evidence)
    if written.status == "already there":
        click.echo(f"Nothing was left to do in {written.folder}.", err=True)
    pairs = counted(len(evidence.comparisons), "pair")
    click.echo(f"Next: look at {written.folder / 'figure.png'}; {pairs} in results.csv beside it.", err=True)


def _show_task(task: str, comparisons: "Sequence[Comparison]") -> None:
    """The pairs of one task: how far they lie apart, and all their p-values."""
    from cli.tables import shortened, show_table
    from training.statistics import stars

    pairs = [f"{shortened(one.first.arm, 15)}:{shortened(one.second.arm, 15)}" for one in comparisons]
    show_table(
        ("pair", "difference", "Hedges' g [95 %]", "p (default)", "p (Holm)"),
        [
            (
                pair,
                f"{one.difference:+.4g}",
                _effect(one.effect),
                f"{_number(one.p)} {stars(one.p)}",
                f"{_number(one.p_holm)} {stars(one.p_holm)}",
            )
            for pair, one in zip(pairs, comparisons, strict=True)
        ],
        title=task,
    )
    show_table(
        (
            "pair",
            "Welch\ntwo-sided\n(default)",
            "Welch\none-tailed",
            "Student\ntwo-sided",
            "Student\none-tailed",
        ),
        [
            (pair, *(_number(p) for p in one.p_values().values()))
            for pair, one in zip(pairs, comparisons, strict=True)
        ],
    )


def _say(evidence: "Evidence") -> None:
    """What the tables do not say themselves."""
    click.echo("In A:B, difference and g are B minus A; one-tailed tests ask if B is higher.", err=True)
    if any(one.p is None for one in evidence.comparisons):
        click.echo("-: neither arm has any spread, so there is nothing to test.", err=True)
    if evidence.as_dict()["fewer_than_10_trials"]:
        click.echo("Some arms have fewer than 10 trials: read them with care.", err=True)


def _effect(effect: "Effect | None") -> str:
    """An effect and its interval; sizes that nobody compares are cut off, for they fit in no column."""
    if effect is None:
        return "-"
    sizes = (max(-9999.0, min(9999.0, size)) for size in (effect.g, effect.low, effect.high))
    g, low, high = (f"{size:.2f}" if abs(size) < 100 else f"{size:.0f}" for size in sizes)
    return f"{g} [{low}, {high}]"


def _number(p: float | None) -> str:
    """A p-value: four decimals, or two digits where it is smaller."""
    if p is None:
        return "-"
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}" if p else "<1e-300"
