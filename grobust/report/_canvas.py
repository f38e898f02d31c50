"""What all figures share: one style, colours, panels, and writing a figure with the numbers behind it."""

import csv
import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from grobust.report.whole_file import write_whole

__all__ = [
    "FORMATS",
    "METHOD_COLORS",
    "SERIES_COLORS",
    "SERIES_MARKERS",
    "draw_band",
    "in_order",
    "method_style",
    "methods_in_order",
    "panels",
    "plain",
    "series_style",
    "titled",
    "write",
]

# The hues of the authors' figures (blue, orange, green, red, purple), moved apart: under simulated deuteranopia and
# protanopia any two differ by ΔE > 20, and in grey by 9 or more of the 100 steps of lightness.
METHOD_COLORS = {
    "none": "#00518C",
    "subsetting": "#F0B62F",
    "upsampling": "#00926B",
    "mixture": "#B83E12",
    "upweighting": "#DB8DBB",
}
METHOD_MARKERS = {"none": "o", "subsetting": "s", "upsampling": "^", "mixture": "D", "upweighting": "v"}
METHOD_DASHES = {"none": "-", "subsetting": "--", "upsampling": "-.", "mixture": "-", "upweighting": ":"}
SERIES_COLORS = tuple(METHOD_COLORS.values())
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PANEL_INCHES = (5.6, 4.2)
PANELS_PER_ROW = 4
MARKERS_PER_LINE = 10
# Of a panel's width at the title's size; matplotlib wraps at the figure's edge only.
TITLE_CHARACTERS = 70
NAME_CHARACTERS = 40
# Fixed salt, so that the same numbers give the same file; text as paths of the font that comes with matplotlib.
STYLE: Any = {"svg.hashsalt": "grobust", "pdf.fonttype": 42}
FORMATS = (".png", ".svg", ".pdf")
DATELESS: dict[str, dict[str, Any]] = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def method_style(method: str, position: int = 0) -> dict[str, Any]:
    """Colour, marker and dashes of a method, or of the position where the method is none of the paper's.

    ``mixture 3:1`` has the mixture's colour, and the marker of its position.
    """
    base = _base(method)
    if base not in METHOD_COLORS:
        return series_style(position)
    marker = METHOD_MARKERS[base] if base == method else SERIES_MARKERS[position % len(SERIES_MARKERS)]
    return {"color": METHOD_COLORS[base], "marker": marker, "ls": METHOD_DASHES[base]}


def series_style(position: int) -> dict[str, Any]:
    """Colour, marker and dashes of a series; 35 differ in colour or marker."""
    dashes = ("-", "--", "-.", ":")[position // len(SERIES_COLORS) % 4]
    marker = SERIES_MARKERS[position % len(SERIES_MARKERS)]
    return {"color": SERIES_COLORS[position % len(SERIES_COLORS)], "marker": marker, "ls": dashes}


def in_order(values: Iterable[Any]) -> list[Any]:
    """Distinct values in the order of their first appearance."""
    return list(dict.fromkeys(values))


def methods_in_order(values: Iterable[str]) -> list[str]:
    """Distinct methods: the paper's in its order, mixtures by ratio, others after them as they appear."""
    order = list(METHOD_COLORS)

    def rank(method: str) -> tuple[int, float]:
        ratio = re.search(r" ([\d.]+):1", method)
        base = _base(method)
        return order.index(base) if base in order else len(order), float(ratio[1]) if ratio else 0.0

    return sorted(in_order(values), key=rank)


def _base(method: str) -> str:
    return re.split(r"[ ,]", method, maxsplit=1)[0]


def panels(n: int) -> tuple[Figure, list[Axes]]:
    """A figure of n panels, at most four in a row."""
    columns = min(n, PANELS_PER_ROW)
    rows = -(-n // columns)
    figure = Figure(figsize=(PANEL_INCHES[0] * columns, PANEL_INCHES[1] * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[n:]:
        ax.remove()
    return figure, axes[:n]


def draw_band(
    ax: Axes, x: Sequence[float], values: Sequence[Sequence[float]], *, style: dict[str, Any], label: str
) -> None:
    """A line through the means of `values` at each x, and a band of one population standard deviation around it.

    What is drawn so (accuracies, ratios) is not negative, and neither is the band.
    """
    mean, sd = np.array([np.mean(v) for v in values]), np.array([np.std(v) for v in values])
    ax.plot(x, mean, label=label, ms=4, markevery=max(1, len(mean) // MARKERS_PER_LINE), **style)
    ax.fill_between(x, np.maximum(mean - sd, 0), mean + sd, color=style["color"], alpha=0.2, lw=0)


def plain(text: str) -> str:
    """A name from data, no longer than an axis bears, in which a dollar sign begins no formula."""
    short = text if len(text) <= NAME_CHARACTERS else f"{text[: NAME_CHARACTERS - 1]}…"
    return short.replace("$", r"\$")


def titled(ax: Axes, title: str) -> None:
    """A title at the left, taken as it stands."""
    lines = [part for line in title.split("\n") for part in textwrap.wrap(line, TITLE_CHARACTERS)]
    ax.set_title("\n".join(lines), fontsize=9, loc="left", parse_math=False)


def write(figure: Figure, stem: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> tuple[Path, ...]:
    """Save a figure and its numbers.

    Parameters
    ----------
    stem : a path without suffix gives PNG and SVG; one that ends in ``.png``, ``.svg`` or ``.pdf`` that file alone
    rows, columns : of the CSV beside it

    Returns
    -------
    The files written, the CSV last.
    """
    images: tuple[Path, ...]
    if stem.suffix in FORMATS:
        images, table = (stem,), stem.with_suffix(".csv")
    else:
        images = tuple(stem.with_name(stem.name + suffix) for suffix in FORMATS[:2])
        table = stem.with_name(stem.name + ".csv")
    FigureCanvasAgg(figure)
    with rc_context(STYLE):
        for image in images:
            content = io.BytesIO()
            figure.savefig(content, format=image.suffix[1:], dpi=150, metadata=DATELESS[image.suffix])
            write_whole(image, content.getvalue())
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_whole(table, text.getvalue())
    return (*images, table)
