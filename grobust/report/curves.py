"""Figures of training: worst-group accuracy over epochs and over steps."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from grobust.report._canvas import draw_band, in_order, method_color, panels, write

__all__ = ["TrajectoryPoint", "plot_trajectories"]


@dataclass(frozen=True)
class TrajectoryPoint:
    """One head or network after one epoch: what it drew since the start, its loss, and accuracies as proportions.

    Parameters
    ----------
    epoch : from 1
    steps, rows : minibatches and rows drawn since the start
    loss : mean of the epoch's minibatch losses; None where training diverged
    wga, average : on the split that is drawn, usually the test split
    val_wga : on the validation split; None without one
    train_average : on the kept training rows; None where it is not known
    """

    dataset: str
    method: str
    seed: int
    epoch: int
    steps: int
    rows: int
    loss: float | None
    wga: float
    average: float
    val_wga: float | None
    train_average: float | None = None


def plot_trajectories(points: Sequence[TrajectoryPoint], stem: Path, *, split: str = "test") -> tuple[Path, ...]:
    """Worst-group accuracy over training: two panels per data set, against epochs and against steps.

    Epochs of different methods are not equal work, so both axes are there. Lines are means over seeds, bands plus and
    minus one standard deviation (of the population). A diamond marks the epoch at which the mean worst-group accuracy
    on validation rows was largest: what comes after it is the collapse that early stopping hides.

    Returns
    -------
    The files written: PNG, SVG, CSV.
    """
    datasets = in_order(p.dataset for p in points)
    figure, axes = panels(2 * len(datasets))
    for i, dataset in enumerate(datasets):
        panel = [p for p in points if p.dataset == dataset]
        seeds = len({p.seed for p in panel})
        for ax, unit in zip(axes[2 * i : 2 * i + 2], ("epoch", "steps"), strict=True):
            for method in in_order(p.method for p in panel):
                _curve(ax, [p for p in panel if p.method == method], unit)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_xlabel("epoch" if unit == "epoch" else "steps (minibatches)")
            ax.set_ylabel(f"{split} worst-group accuracy (%)")
            ax.set_title(f"{dataset}: mean ± sd of n = {seeds} seed(s)", fontsize=9, loc="left")
    if any(p.val_wga is not None for p in points):
        axes[0].plot([], [], "kD", mfc="none", ms=6, label="best on validation")
    axes[0].legend(frameon=False, fontsize=8)
    return write(figure, stem, [asdict(p) for p in points], [f.name for f in fields(TrajectoryPoint)])


def _curve(ax: Axes, points: Sequence[TrajectoryPoint], unit: str) -> None:
    """One method: mean and band over seeds after each epoch, at the seeds' mean of the unit."""
    epochs = sorted({p.epoch for p in points})
    at = [[p for p in points if p.epoch == epoch] for epoch in epochs]
    x = [float(np.mean([getattr(p, unit) for p in each])) for each in at]
    values = [[100 * p.wga for p in each] for each in at]
    method, color = points[0].method, method_color(points[0].method)
    label = f"{method} (n = {len({p.seed for p in points})})"
    draw_band(ax, x, values, color=color, label=label, marker="o" if len(epochs) == 1 else None)
    val = [[p.val_wga for p in each if p.val_wga is not None] for each in at]
    if all(val):
        best = int(np.argmax([np.mean(each) for each in val]))
        ax.plot(x[best], np.mean(values[best]), "D", mfc="none", color=color, ms=6)
