"""Figures of training: worst-group accuracy over epochs and over steps, and the paper's over-training figures."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from grobust.report._canvas import draw_band, in_order, method_style, methods_in_order, panels, plain, titled, write

__all__ = ["TrajectoryPoint", "plot_collapse", "plot_trajectories", "steps_per_epoch"]

METRIC_WORDS = {"wga": "worst-group", "average": "average"}


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
            for position, method in enumerate(methods_in_order(p.method for p in panel)):
                _curve(ax, [p for p in panel if p.method == method], unit, position)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_xlabel("epoch" if unit == "epoch" else "steps (minibatches)")
            ax.set_ylabel(f"{split} worst-group accuracy (%)")
            titled(ax, f"{dataset}: mean ± sd of n = {seeds} seed(s)")
    if any(p.val_wga is not None for p in points):
        axes[0].plot([], [], "kD", mfc="none", ms=6, label="best on validation")
    axes[0].legend(frameon=False, fontsize=8)
    return write(figure, stem, [asdict(p) for p in points], [f.name for f in fields(TrajectoryPoint)])


def plot_collapse(points: Sequence[TrajectoryPoint], stem: Path, *, metric: str = "wga") -> tuple[Path, ...]:
    """Test accuracy against the epoch, one panel per data set; bands are ± 1 sd over seeds.

    A diamond marks the epoch at which validation's worst-group accuracy was best. Where all methods take the same
    number of steps per epoch, a second axis counts them; else the legend says how many each takes.

    Parameters
    ----------
    metric : ``wga`` or ``average``

    Returns
    -------
    The files written, see `grobust.report._canvas.write`.
    """
    datasets = in_order(p.dataset for p in points)
    figure, axes = panels(len(datasets))
    for ax, dataset in zip(axes, datasets, strict=True):
        panel = [p for p in points if p.dataset == dataset]
        methods = methods_in_order(p.method for p in panel)
        rates = {m: steps_per_epoch([p for p in panel if p.method == m]) for m in methods}
        shared = len(set(rates.values())) == 1
        for j, method in enumerate(methods):
            own = [p for p in panel if p.method == method]
            note = "" if shared else f", {rates[method]:.4g} steps/epoch"
            _curve(ax, own, "epoch", j, note=note, metric=metric)
        if shared:
            _count_steps(ax, rates[methods[0]])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epoch")
        ax.set_ylabel(f"test {METRIC_WORDS[metric]} accuracy (%)")
        titled(ax, f"{dataset}: mean ± sd over seeds")
        ax.legend(frameon=False, fontsize=8)
    return write(figure, stem, [asdict(p) for p in points], [f.name for f in fields(TrajectoryPoint)])


def steps_per_epoch(points: Sequence[TrajectoryPoint]) -> float:
    """Minibatches per epoch of one method, rounded to a whole number where seeds agree within half a step."""
    rates = [p.steps / p.epoch for p in points]
    mean = sum(rates) / len(rates)
    return float(round(mean)) if max(rates) - min(rates) < 0.5 else mean


def _count_steps(ax: Axes, rate: float) -> None:
    def steps(epochs: Any) -> Any:
        return np.asarray(epochs) * rate

    def epochs(steps: Any) -> Any:
        return np.asarray(steps) / rate

    second = ax.secondary_xaxis("top", functions=(steps, epochs))
    second.set_xlabel("steps (minibatches)", fontsize=8)
    second.tick_params(labelsize=8)


def _curve(
    ax: Axes, points: Sequence[TrajectoryPoint], unit: str, position: int = 0, *, note: str = "", metric: str = "wga"
) -> None:
    """One method: mean and band over seeds after each epoch, at the seeds' mean of the unit."""
    epochs = sorted({p.epoch for p in points})
    at = [[p for p in points if p.epoch == epoch] for epoch in epochs]
    x = [float(np.mean([getattr(p, unit) for p in each])) for each in at]
    values = [[100 * getattr(p, metric) for p in each] for each in at]
    style = method_style(points[0].method, position)
    label = f"{plain(points[0].method)} (n = {len({p.seed for p in points})}{note})"
    draw_band(ax, x, values, style=style, label=label)
    val = [[p.val_wga for p in each if p.val_wga is not None] for each in at]
    if all(val):
        best = int(np.argmax([np.mean(each) for each in val]))
        ax.plot(x[best], np.mean(values[best]), "D", mfc="none", color=style["color"], ms=8)
