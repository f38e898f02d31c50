"""Figures of single results: worst-group accuracy by method, eigenvalues by group."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from grobust.report._canvas import in_order, method_color, panels, write

__all__ = ["GroupSpectrum", "MethodResult", "plot_eigenvalues", "plot_wga_by_method"]


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


def plot_wga_by_method(results: Sequence[MethodResult], stem: Path) -> tuple[Path, ...]:
    """Worst-group accuracy by balancing method, one panel per data set.

    Bars are means over seeds and dots are the seeds; the whisker is the Wilson interval of the worst group of the
    first seed, which is what the test set's size leaves open; the open diamond is the plain average.

    Returns
    -------
    The files written: PNG, SVG, CSV.
    """
    datasets = in_order(r.dataset for r in results)
    figure, axes = panels(len(datasets))
    for ax, dataset in zip(axes, datasets, strict=True):
        panel = [r for r in results if r.dataset == dataset]
        methods = in_order(r.method for r in panel)
        for x, method in enumerate(methods):
            _method_bar(ax, x, [r for r in panel if r.method == method])
        seeds = len({r.seed for r in panel})
        ax.set_xticks(range(len(methods)), methods, rotation=20)
        ax.set_ylim(0, 100)
        ax.set_ylabel("test accuracy (%)")
        worst = ", ".join(in_order(f"{r.worst_group} (n={r.n_worst_group})" for r in panel))
        ax.set_title(f"{dataset}, {seeds} seed(s)\nworst: {worst}", fontsize=9, loc="left", wrap=True)
    axes[0].plot([], [], "kD", mfc="none", label="average")
    axes[0].plot([], [], "k.", label="seed")
    axes[0].plot([], [], "k-", label="95% Wilson interval")
    axes[0].legend(frameon=False, fontsize=8, loc="upper right", ncols=3)
    return write(figure, stem, [asdict(r) for r in results], [f.name for f in fields(MethodResult)])


def plot_eigenvalues(spectra: Sequence[GroupSpectrum], stem: Path) -> tuple[Path, ...]:
    """Largest eigenvalues of each group's covariance on a log axis; minority groups dashed and starred.

    Returns
    -------
    The files written: PNG, SVG, CSV.
    """
    datasets = in_order(s.dataset for s in spectra)
    figure, axes = panels(len(datasets))
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
    return write(figure, stem, rows, ["dataset", "group", "n", "is_minority", "rank", "eigenvalue"])


def _method_bar(ax: Axes, x: int, runs: Sequence[MethodResult]) -> None:
    color = method_color(runs[0].method)
    wga = 100 * np.array([r.wga for r in runs])
    ax.bar(x, wga.mean(), color=color, alpha=0.75, width=0.65)
    first = runs[0]
    ax.plot([x + 0.22] * 2, [100 * first.low, 100 * first.high], color="k", lw=1)
    ax.plot(x + np.linspace(-0.1, 0.1, wga.size) * (wga.size > 1), wga, "k.", ms=5)
    ax.plot(x, 100 * np.mean([r.average for r in runs]), "kD", mfc="none", ms=6)
    ax.annotate(f"{wga.mean():.1f}", (x - 0.3, 2), fontsize=8, color="w")
