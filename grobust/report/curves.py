"""The paper's over-training figures: worst-group accuracy against epochs, with steps on a second axis."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from grobust.report._canvas import in_order, methods_in_order, panels, titled, write
from grobust.report.figures import TrajectoryPoint, draw_curve

__all__ = ["plot_collapse", "steps_per_epoch"]


def plot_collapse(points: Sequence[TrajectoryPoint], stem: Path) -> tuple[Path, ...]:
    """Test worst-group accuracy against the epoch, one panel per data set; bands are ± 1 sd over seeds.

    Where all methods take the same number of steps per epoch, a second axis counts them; else the legend says how many
    each takes.

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
            draw_curve(ax, own, "epoch", j, note=f" (n={len({p.seed for p in own})}{note})")
        if shared:
            _count_steps(ax, rates[methods[0]])
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epoch")
        ax.set_ylabel("test worst-group accuracy (%)")
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
