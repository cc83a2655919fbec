"""The final page of `genesis-prep demo`: pictures, losses and figures in one file."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --faint: #c9ced4; --back: #fff; --soft: #5c6670;
  --fill: #3b78b5; --line: #c2571a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6e9; --faint: #454c54; --back: #15181b;
  --soft: #9aa4ae; --fill: #6aa5dd; --line: #f0925a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
figure { margin: 0; } figcaption, .note { color: var(--soft); font-size: .88rem; }
img { max-width: 100%; height: auto; background: #fff; } svg { width: 100%; height: auto; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .2rem 1.2rem .2rem 0;
  border-bottom: 1px solid var(--faint); font-weight: normal; } .best td { font-weight: bold; }
pre { overflow-x: auto; background: color-mix(in srgb, var(--faint) 30%, transparent); padding: .6rem; }
text { font: 12px system-ui, sans-serif; fill: var(--ink); }
"""
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _FOOT, _TOP = 760, 300, 60, 190, 40, 12  # layout of the chart, in its units
_ROOM = 0.08  # margin above and below, as a share of the range of losses
_APART = 14  # least distance between the names of lines


@dataclass(frozen=True)
class Shown:
    """One section of the page: its heading, a caption of a sentence or two, and a PNG."""

    heading: str
    caption: str
    png: bytes


def demo_page(
    pictures: Sequence[Shown],
    figures: str,
    losses: Mapping[str, float],
    curves: Mapping[str, Sequence[float]],
    commands: Sequence[str],
    note: str,
) -> str:
    """Return the page as HTML, without scripts or external resources.

    Args:
        pictures: in order; the first is the result.
        figures: a line of numbers.
        losses: mean squared errors by name, the network's first; the others are references.
        curves: a loss per epoch, by name.
        commands: equivalent command lines, one per line.
        note: a caveat for the reader.
    """
    network, *others = losses.items()
    below = all(network[1] < loss for _, loss in others)
    verdict = "below all of them" if below else "not below all of them"
    rows = "".join(
        f"<tr{' class=best' if name == network[0] else ''}><td>{escape(name)}</td><td>{loss:.5f}</td></tr>"
        for name, loss in losses.items()
    )
    parts = [
        f"<p><strong>{escape(figures)}</strong></p>",
        *map(_section, pictures[:1]),
        "<h2>Has it learnt anything?</h2><p>Mean squared error on scans that were not used for training, "
        "with values in [0, 1]. The three references need no network, and the network is "
        f"{verdict}.</p><table>{rows}</table>",
        f"<figure>{loss_chart(curves, dict(others))}</figure>",
        *map(_section, pictures[1:]),
        f"<h2>The same by hand</h2><pre>{escape(chr(10).join(commands))}</pre>",
        f"<p class=note>{escape(note)}</p>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<title>Genesis Toolkit: a first look</title>"
        f"<style>{_STYLE}</style></head><body><h1>Genesis Toolkit: a first look</h1>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def loss_chart(curves: Mapping[str, Sequence[float]], levels: Mapping[str, float]) -> str:
    """Return an `svg` of losses by epoch; levels nearby are dashed lines, those far above are left out."""
    values = [loss for curve in curves.values() for loss in curve]
    near = {name: level for name, level in levels.items() if level < 2 * max(values)}
    everything = [*values, *near.values()]
    room = _ROOM * (max(everything) - min(everything) or 1)
    low, high = min(everything) - room, max(everything) + room
    epochs = max(map(len, curves.values()))

    def across(epoch: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (epoch - 1) / max(1, epochs - 1)

    def down(loss: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _FOOT) * (high - loss) / (high - low)

    named: list[tuple[float, str]] = []
    parts = []
    for curve, colour in zip(curves, ("var(--fill)", "var(--line)"), strict=False):
        points = " ".join(f"{across(n):.1f},{down(loss):.1f}" for n, loss in enumerate(curves[curve], 1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        named.append((down(curves[curve][-1]), curve))
    for name, level in near.items():
        at = f"{down(level):.1f}"
        ends = f'x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"'
        parts.append(f'<line {ends} stroke="var(--soft)" stroke-dasharray="5 4"/>')
        named.append((down(level), name))
    place = -float(_APART)
    for y, name in sorted(named):
        place = max(y + 4, place + _APART)
        parts.append(f'<text x="{_WIDTH - _RIGHT + 8}" y="{place:.1f}">{escape(name)}</text>')
    for loss in (low + room, high - room):
        parts.append(f'<text x="{_LEFT - 8}" y="{down(loss) + 4:.1f}" text-anchor="end">{loss:.4f}</text>')
    for epoch in sorted({1, epochs}):
        parts.append(
            f'<text x="{across(epoch):.1f}" y="{_HEIGHT - 16}" text-anchor="middle">epoch {epoch}</text>'
        )
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="losses by epoch"'
    return f"<svg {box}>{''.join(parts)}</svg>"


def _section(shown: Shown) -> str:
    data = b64encode(shown.png).decode()
    picture = f'<img alt="{escape(shown.heading)}" src="data:image/png;base64,{data}">'
    return f"<h2>{escape(shown.heading)}</h2><p>{escape(shown.caption)}</p><figure>{picture}</figure>"
