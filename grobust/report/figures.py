"""Figures as PNG and SVG, each with the numbers behind it as CSV."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = [
    "GroupSpectrum",
    "MethodResult",
    "TrajectoryPoint",
    "plot_eigenvalues",
    "plot_trajectories",
    "plot_wga_by_method",
]

# The authors' colours (matplotlib's cycle).
METHOD_COLORS = {"none": "C0", "subsetting": "C1", "upsampling": "C2", "mixture": "C3", "upweighting": "C4"}
PANEL_INCHES = (5.6, 4.2)
# Fixed, so that the same numbers give the same file.
STYLE: Any = {"svg.hashsalt": "grobust"}


@dataclass(frozen=True)
class MethodResult:
    """Test metrics of one run, as proportions; `low` and `high` are the Wilson interval of the worst group."""

    dataset: str
    method: str
    seed: int
    wga: float
    low: float
    high: float
    worst_group: str
    n_worst_group: int
    average: float


@dataclass(frozen=True)
class GroupSpectrum:
    """Eigenvalues of one group, descending."""

    dataset: str
    group: str
    n: int
    is_minority: bool
    eigenvalues: tuple[float, ...]


@dataclass(frozen=True)
class TrajectoryPoint:
    """One head after one epoch: what it drew since the start, its loss, and accuracies as proportions.

    Parameters
    ----------
    epoch : from 1
    steps, rows : minibatches and rows drawn since the start
    loss : mean of the epoch's minibatch losses; None where training diverged
    wga, average : on the test split
    val_wga : on the validation split; None without one
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


def plot_wga_by_method(results: Sequence[MethodResult], stem: Path) -> tuple[Path, ...]:
    """Worst-group accuracy by balancing method, one panel per data set.

    Bars are means over seeds and dots are the seeds; the whisker is the Wilson interval of the worst group of the
    first seed, which is what the test set's size leaves open; the open diamond is the plain average.

    Returns
    -------
    The files written: PNG, SVG, CSV.
    """
    datasets = _in_order(r.dataset for r in results)
    figure, axes = _panels(len(datasets))
    for ax, dataset in zip(axes, datasets, strict=True):
        panel = [r for r in results if r.dataset == dataset]
        methods = _in_order(r.method for r in panel)
        for x, method in enumerate(methods):
            _method_bar(ax, x, [r for r in panel if r.method == method])
        seeds = len({r.seed for r in panel})
        ax.set_xticks(range(len(methods)), methods, rotation=20)
        ax.set_ylim(0, 100)
        ax.set_ylabel("test accuracy (%)")
        worst = ", ".join(_in_order(f"{r.worst_group} (n={r.n_worst_group})" for r in panel))
        ax.set_title(f"{dataset}, {seeds} seed(s)\nworst: {worst}", fontsize=9, loc="left", wrap=True)
    axes[0].plot([], [], "kD", mfc="none", label="average")
    axes[0].plot([], [], "k.", label="seed")
    axes[0].plot([], [], "k-", label="95% Wilson interval")
    axes[0].legend(frameon=False, fontsize=8, loc="upper right", ncols=3)
    return _write(figure, stem, [asdict(r) for r in results], [f.name for f in fields(MethodResult)])


def plot_trajectories(points: Sequence[TrajectoryPoint], stem: Path) -> tuple[Path, ...]:
    """Test worst-group accuracy over training: two panels per data set, against epochs and against steps.

    Lines are means over seeds, bands plus and minus one standard deviation.

    Returns
    -------
    The files written: PNG, SVG, CSV.
    """
    datasets = _in_order(p.dataset for p in points)
    figure, axes = _panels(2 * len(datasets))
    for i, dataset in enumerate(datasets):
        panel = [p for p in points if p.dataset == dataset]
        seeds = len({p.seed for p in panel})
        for ax, unit in zip(axes[2 * i : 2 * i + 2], ("epoch", "steps"), strict=True):
            for method in _in_order(p.method for p in panel):
                _curve(ax, [p for p in panel if p.method == method], unit)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_xlabel("epoch" if unit == "epoch" else "steps (minibatches)")
            ax.set_ylabel("test worst-group accuracy (%)")
            ax.set_title(f"{dataset}: mean ± sd of n = {seeds} seed(s)", fontsize=9, loc="left")
    axes[0].legend(frameon=False, fontsize=8)
    return _write(figure, stem, [asdict(p) for p in points], [f.name for f in fields(TrajectoryPoint)])


def plot_eigenvalues(spectra: Sequence[GroupSpectrum], stem: Path) -> tuple[Path, ...]:
    """Largest eigenvalues of each group's covariance on a log axis; minority groups dashed and starred.

    Returns
    -------
    The files written: PNG, SVG, CSV.
    """
    datasets = _in_order(s.dataset for s in spectra)
    figure, axes = _panels(len(datasets))
    for ax, dataset in zip(axes, datasets, strict=True):
        for i, s in enumerate(s for s in spectra if s.dataset == dataset):
            label = f"{s.group}{' *' if s.is_minority else ''} (n={s.n})"
            ranks = np.arange(1, len(s.eigenvalues) + 1)
            ax.plot(ranks, s.eigenvalues, "--o" if s.is_minority else "-o", color=f"C{i}", label=label, ms=4)
        ax.set_yscale("log")
        ax.set_xlabel("rank")
        ax.set_ylabel("eigenvalue of the group's covariance")
        ax.set_xticks(range(1, 1 + max(len(s.eigenvalues) for s in spectra)))
        ax.set_title(f"{dataset}: * minority group of its class", fontsize=9, loc="left")
        ax.legend(frameon=False, fontsize=8)
    rows = [
        {"dataset": s.dataset, "group": s.group, "n": s.n, "is_minority": s.is_minority, "rank": rank, "eigenvalue": v}
        for s in spectra
        for rank, v in enumerate(s.eigenvalues, start=1)
    ]
    return _write(figure, stem, rows, ["dataset", "group", "n", "is_minority", "rank", "eigenvalue"])


def _method_bar(ax: Axes, x: int, runs: Sequence[MethodResult]) -> None:
    color = METHOD_COLORS.get(runs[0].method, "C7")
    wga = 100 * np.array([r.wga for r in runs])
    ax.bar(x, wga.mean(), color=color, alpha=0.75, width=0.65)
    first = runs[0]
    ax.plot([x + 0.22] * 2, [100 * first.low, 100 * first.high], color="k", lw=1)
    ax.plot(x + np.linspace(-0.1, 0.1, wga.size) * (wga.size > 1), wga, "k.", ms=5)
    ax.plot(x, 100 * np.mean([r.average for r in runs]), "kD", mfc="none", ms=6)
    ax.annotate(f"{wga.mean():.1f}", (x - 0.3, 2), fontsize=8, color="w")


def _curve(ax: Axes, points: Sequence[TrajectoryPoint], unit: str) -> None:
    """One method: mean and band over seeds after each epoch, at the seeds' mean of the unit."""
    epochs = sorted({p.epoch for p in points})
    at = [[p for p in points if p.epoch == epoch] for epoch in epochs]
    x = [np.mean([getattr(p, unit) for p in each]) for each in at]
    mean = np.array([100 * np.mean([p.wga for p in each]) for each in at])
    spread = np.array([100 * np.std([p.wga for p in each]) for each in at])
    color = METHOD_COLORS.get(points[0].method, "C7")
    ax.plot(x, mean, color=color, label=points[0].method, marker="o" if len(epochs) == 1 else None)
    ax.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.2, lw=0)


def _in_order(values: Any) -> list[Any]:
    return list(dict.fromkeys(values))


def _panels(n: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(PANEL_INCHES[0] * n, PANEL_INCHES[1]), layout="constrained")
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def _write(figure: Figure, stem: Path, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> tuple[Path, ...]:
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
