"""Figures that compare methods: group by group, against a number such as the model's size, and as scores choose."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from grobust.report._canvas import in_order, method_style, methods_in_order, panels, plain, titled, write

__all__ = ["GroupAccuracy", "NumberPoint", "ScorePoint", "plot_against", "plot_groups", "plot_selection"]

# Numbers that span more than this factor stand on a log axis.
LOG_FROM = 20


@dataclass(frozen=True)
class GroupAccuracy:
    """Test accuracy of one group of one run, as a proportion; `low` and `high` are its Wilson interval."""

    dataset: str
    method: str
    seed: int
    group: str
    n: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class NumberPoint:
    """A metric of one run against a number.

    Parameters
    ----------
    x : such as the count of parameters, or the mixture's ratio
    value : the metric; `low` and `high` its interval where it has one
    interpolates : whether every training row was predicted correctly at some epoch; None where the run does not say
    """

    dataset: str
    method: str
    seed: int
    x: float
    value: float
    low: float | None
    high: float | None
    interpolates: bool | None


@dataclass(frozen=True)
class ScorePoint:
    """One validation score of one run, beside its test metric."""

    dataset: str
    method: str
    seed: int
    score: str
    val: float
    test: float


def plot_groups(points: Sequence[GroupAccuracy], stem: Path) -> tuple[Path, ...]:
    """Test accuracy of every group by method, one panel per data set.

    Markers are means over seeds; whiskers the Wilson interval of the group for the first seed.

    Returns
    -------
    The files written, see `grobust.report._canvas.write`.
    """
    datasets = in_order(p.dataset for p in points)
    figure, axes = panels(len(datasets))
    for ax, dataset in zip(axes, datasets, strict=True):
        panel = [p for p in points if p.dataset == dataset]
        groups, methods = in_order(p.group for p in panel), methods_in_order(p.method for p in panel)
        for j, method in enumerate(methods):
            own = [[p for p in panel if (p.group, p.method) == (group, method)] for group in groups]
            x = [i + 0.7 * ((j + 0.5) / len(methods) - 0.5) for i, at in enumerate(own) if at]
            firsts = [at[0] for at in own if at]
            style = method_style(method, j) | {"ls": "none"}
            low, high = [100 * p.low for p in firsts], [100 * p.high for p in firsts]
            ax.vlines(x, low, high, color=style["color"], lw=1)
            ax.plot(
                x, [100 * np.mean([p.accuracy for p in at]) for at in own if at], label=plain(method), ms=5, **style
            )
        sizes = {p.group: p.n for p in panel}
        ax.set_xticks(range(len(groups)), [f"{plain(g)}\nn={sizes[g]}" for g in groups], rotation=20, fontsize=8)
        ax.set_ylim(0, 103)
        ax.set_ylabel("test accuracy (%)")
        titled(ax, f"{dataset}: mean over {len({p.seed for p in panel})} seed(s), 95% Wilson interval of the first")
        ax.legend(frameon=False, fontsize=8)
    return write(figure, stem, [asdict(p) for p in points], [f.name for f in fields(GroupAccuracy)])


def plot_against(points: Sequence[NumberPoint], stem: Path, *, x_name: str, value_name: str) -> tuple[Path, ...]:
    """A metric against a number, one line per method and one panel per data set: mean and ± 1 sd over seeds.

    A dashed vertical line marks the smallest number from which on every run interpolates, where runs say so.

    Returns
    -------
    The files written, see `grobust.report._canvas.write`.
    """
    scale = 100 if all(p.low is not None for p in points) else 1
    datasets = in_order(p.dataset for p in points)
    figure, axes = panels(len(datasets))
    for ax, dataset in zip(axes, datasets, strict=True):
        panel = [p for p in points if p.dataset == dataset]
        for j, method in enumerate(methods_in_order(p.method for p in panel)):
            _line(ax, [p for p in panel if p.method == method], scale, j)
        numbers = sorted({p.x for p in panel})
        if numbers[0] > 0 and numbers[-1] / numbers[0] > LOG_FROM:
            ax.set_xscale("log")
        threshold = interpolation_threshold(panel)
        if threshold is not None:
            ax.axvline(threshold, color="0.3", ls="--", lw=1)
            ax.annotate("interpolates", (threshold, 0.02), xycoords=("data", "axes fraction"), fontsize=8, rotation=90)
        ax.set_xlabel(x_name)
        ax.set_ylabel(f"{value_name}{' (%)' if scale == 100 else ''}")
        titled(ax, f"{dataset}: mean ± sd over seeds")
        ax.legend(frameon=False, fontsize=8)
    return write(figure, stem, [asdict(p) for p in points], [f.name for f in fields(NumberPoint)])


def interpolation_threshold(points: Sequence[NumberPoint]) -> float | None:
    """The smallest x from which on all runs interpolate; None where they do not, or do not say."""
    threshold = None
    for x in sorted({p.x for p in points}, reverse=True):
        if not all(p.interpolates for p in points if p.x == x):
            break
        threshold = x
    return threshold


def plot_selection(points: Sequence[ScorePoint], stem: Path, *, value_name: str) -> tuple[Path, ...]:
    """What each validation score would choose: its mean over seeds against the test metric's, one panel per score.

    A ring marks the method with the largest mean score, the first on a tie; bars are ± 1 sd over seeds.

    Returns
    -------
    The files written, see `grobust.report._canvas.write`.
    """
    shown = in_order((p.dataset, p.score) for p in points)
    figure, axes = panels(len(shown))
    for ax, (dataset, score) in zip(axes, shown, strict=True):
        panel = [p for p in points if (p.dataset, p.score) == (dataset, score)]
        means = {}
        for j, method in enumerate(methods_in_order(p.method for p in panel)):
            own = [p for p in panel if p.method == method]
            val, test = (100 * np.array([getattr(p, name) for p in own]) for name in ("val", "test"))
            style = method_style(method, j)
            means[method] = (val.mean(), test.mean())
            ax.errorbar(val.mean(), test.mean(), xerr=val.std(), yerr=test.std(), color=style["color"],
                        fmt=style["marker"], capsize=2, lw=1, label=plain(method))  # fmt: skip
        winner = max(means, key=lambda m: means[m][0])
        ax.plot(*means[winner], "o", ms=16, mfc="none", mec="k")
        ax.set_xlabel(f"validation {score} (%)")
        ax.set_ylabel(f"{value_name} (%)")
        n = len({p.seed for p in panel})
        titled(ax, f"{dataset}, {n} seed(s)\n{score} chooses {winner}: {value_name} {means[winner][1]:.1f}")
        ax.legend(frameon=False, fontsize=8)
    return write(figure, stem, [asdict(p) for p in points], [f.name for f in fields(ScorePoint)])


def _line(ax: Axes, points: Sequence[NumberPoint], scale: float, position: int) -> None:
    numbers = sorted({p.x for p in points})
    at = [scale * np.array([p.value for p in points if p.x == x]) for x in numbers]
    mean, sd = np.array([v.mean() for v in at]), np.array([v.std() for v in at])
    style = method_style(points[0].method, position)
    runs = sorted({v.size for v in at})
    n = str(runs[0]) if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    ax.errorbar(numbers, mean, yerr=sd, label=f"{plain(points[0].method)} (n={n})", ms=5, capsize=3, lw=1.2, **style)
