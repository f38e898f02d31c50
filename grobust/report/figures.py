"""Figures of single results: worst-group accuracy by method, eigenvalues by group."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from grobust.report._canvas import in_order, method_style, methods_in_order, panels, plain, series_style, titled, write

__all__ = [
    "GroupSpectrum",
    "MeanSpectrum",
    "MethodResult",
    "mean_spectra",
    "plot_eigenvalues",
    "plot_wga_by_method",
]


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
    """Eigenvalues of one group, descending; `seed` of the run, or None."""

    dataset: str
    group: str
    n: int
    is_minority: bool
    eigenvalues: tuple[float, ...]
    seed: int | None = None


@dataclass(frozen=True)
class MeanSpectrum:
    """Eigenvalues of one group over runs.

    Parameters
    ----------
    n : rows, the mean of the runs'
    is_minority : in the first run
    mean, sd : of every rank that all runs have, the sd of the population
    runs : how many
    """

    dataset: str
    group: str
    n: int
    is_minority: bool
    mean: tuple[float, ...]
    sd: tuple[float, ...]
    runs: int


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
        methods = methods_in_order(r.method for r in panel)
        for x, method in enumerate(methods):
            _method_bar(ax, x, [r for r in panel if r.method == method])
        seeds = len({r.seed for r in panel})
        ax.set_xticks(range(len(methods)), [plain(m) for m in methods], rotation=20)
        ax.set_ylim(0, 100)
        ax.set_ylabel("test accuracy (%)")
        worst = ", ".join(in_order(f"{r.worst_group} (n={r.n_worst_group})" for r in panel))
        titled(ax, f"{dataset}, {seeds} seed(s)\nworst: {worst}")
    axes[0].plot([], [], "kD", mfc="none", label="average")
    axes[0].plot([], [], "k.", label="seed")
    axes[0].plot([], [], "k-", label="95% Wilson interval")
    axes[0].legend(frameon=False, fontsize=8, loc="upper right", ncols=3)
    return write(figure, stem, [asdict(r) for r in results], [f.name for f in fields(MethodResult)])


def mean_spectra(spectra: Sequence[GroupSpectrum]) -> list[MeanSpectrum]:
    """Mean and sd of the runs of every group of every data set, in order."""
    own: dict[tuple[str, str], list[GroupSpectrum]] = {}
    for spectrum in spectra:
        own.setdefault((spectrum.dataset, spectrum.group), []).append(spectrum)
    found = []
    for (dataset, group), runs in own.items():
        rank = min(len(s.eigenvalues) for s in runs)
        values = np.array([s.eigenvalues[:rank] for s in runs], dtype=np.float64)
        n = round(float(np.mean([s.n for s in runs])))
        mean, sd = (tuple(found.tolist()) for found in (values.mean(axis=0), values.std(axis=0)))
        found.append(MeanSpectrum(dataset, group, n, runs[0].is_minority, mean, sd, len(runs)))
    return found


def plot_eigenvalues(spectra: Sequence[GroupSpectrum], stem: Path) -> tuple[Path, ...]:
    """Largest eigenvalues of each group's covariance on a log axis; minority groups dashed and starred.

    Lines are means over runs, bands ± 1 sd where there are several.

    Returns
    -------
    The files written: PNG, SVG, CSV; the CSV has every run.
    """
    means = mean_spectra(spectra)
    datasets = in_order(s.dataset for s in means)
    figure, axes = panels(len(datasets))
    for ax, dataset in zip(axes, datasets, strict=True):
        panel = [s for s in means if s.dataset == dataset]
        for i, s in enumerate(panel):
            label = f"{plain(s.group)}{' *' if s.is_minority else ''} (n={s.n})"
            ranks = np.arange(1, len(s.mean) + 1)
            style = series_style(i) | {"ls": "--" if s.is_minority else "-"}
            ax.plot(ranks, s.mean, label=label, ms=4, **style)
            mean, sd = np.array(s.mean), np.array(s.sd)
            # A log axis has no place for zero.
            ax.fill_between(ranks, np.maximum(mean - sd, mean / 10), mean + sd, color=style["color"], alpha=0.2, lw=0)
        ax.set_yscale("log")
        ax.set_xlabel("rank")
        ax.set_ylabel("eigenvalue of the group's covariance")
        ax.set_xticks(range(1, 1 + max(len(s.mean) for s in panel)))
        runs = max(s.runs for s in panel)
        titled(ax, f"{dataset}: * minority group of its class" + (f", mean ± sd of {runs} runs" if runs > 1 else ""))
        ax.legend(frameon=False, fontsize=8)
    columns = ["dataset", "group", "n", "is_minority", "seed", "rank", "eigenvalue"]
    rows = [
        {"dataset": s.dataset, "group": s.group, "n": s.n, "is_minority": s.is_minority, "seed": s.seed, "rank": rank,
         "eigenvalue": v}
        for s in spectra
        for rank, v in enumerate(s.eigenvalues, start=1)
    ]  # fmt: skip
    return write(figure, stem, rows, columns)


def _method_bar(ax: Axes, x: int, runs: Sequence[MethodResult]) -> None:
    color = method_style(runs[0].method, x)["color"]
    wga = 100 * np.array([r.wga for r in runs])
    ax.bar(x, wga.mean(), color=color, alpha=0.75, width=0.65)
    first = runs[0]
    ax.plot([x + 0.22] * 2, [100 * first.low, 100 * first.high], color="k", lw=1)
    ax.plot(x + np.linspace(-0.1, 0.1, wga.size) * (wga.size > 1), wga, "k.", ms=5)
    ax.plot(x, 100 * np.mean([r.average for r in runs]), "kD", mfc="none", ms=6)
    box = {"fc": "w", "ec": "none", "alpha": 0.8, "pad": 1}
    ax.annotate(f"{wga.mean():.1f}", (x, 2), fontsize=8, ha="center", bbox=box)
