"""What all figures share: panels, one colour per method, mean and band over seeds, and files with their numbers."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["draw_band", "in_order", "method_color", "panels", "write"]

# The authors' colours (matplotlib's cycle).
METHOD_COLORS = {"none": "C0", "subsetting": "C1", "upsampling": "C2", "mixture": "C3", "upweighting": "C4"}
OTHER_COLOR = "C7"
PANEL_INCHES = (5.6, 4.2)
# Fixed, so that the same numbers give the same file.
STYLE: Any = {"svg.hashsalt": "grobust"}


def method_color(method: str) -> str:
    """The colour that a balancing method has in every figure."""
    return METHOD_COLORS.get(method, OTHER_COLOR)


def in_order(values: Iterable[Any]) -> list[Any]:
    """Distinct values in the order of their first appearance."""
    return list(dict.fromkeys(values))


def panels(n: int) -> tuple[Figure, list[Axes]]:
    """A figure of n panels in a row."""
    figure = Figure(figsize=(PANEL_INCHES[0] * n, PANEL_INCHES[1]), layout="constrained")
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def draw_band(
    ax: Axes, x: Sequence[float], values: Sequence[Sequence[float]], *, color: str, label: str,
    marker: str | None = None,
) -> None:  # fmt: skip
    """A line through the means of `values` at each x, and a band of one population standard deviation around it."""
    mean, sd = np.array([np.mean(v) for v in values]), np.array([np.std(v) for v in values])
    ax.plot(x, mean, color=color, label=label, marker=marker, ms=4)
    ax.fill_between(x, mean - sd, mean + sd, color=color, alpha=0.2, lw=0)


def write(figure: Figure, stem: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> tuple[Path, ...]:
    """Write the figure as PNG and SVG and its numbers as CSV: ``STEM.png``, ``STEM.svg``, ``STEM.csv``."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    png, svg, table = (stem.with_name(stem.name + suffix) for suffix in (".png", ".svg", ".csv"))
    FigureCanvasAgg(figure)
    with rc_context(STYLE):
        figure.savefig(png, dpi=150)
        figure.savefig(svg, metadata={"Date": None})
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return png, svg, table
