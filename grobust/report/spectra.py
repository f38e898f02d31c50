"""Figures of spectral norm ratios: per class with seeds as points, against their nulls, over training."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from grobust.report._canvas import draw_band, in_order, method_style, methods_in_order, panels, plain, titled, write

__all__ = ["NullDraws", "RhoPoint", "plot_null", "plot_rho", "plot_rho_over_training"]


@dataclass(frozen=True)
class RhoPoint:
    """ρ(y) of one class of one run; `null_low` and `null_high` are the 2.5–97.5% range of its size-matched null."""

    dataset: str
    method: str
    seed: int | None
    epoch: int | None
    class_name: str
    rho: float
    null_low: float
    null_high: float


@dataclass(frozen=True)
class NullDraws:
    """An observed ρ(y), the ratios of its size-matched null, and the share of them that are as large."""

    name: str
    rho: float
    null: tuple[float, ...]
    p_value: float


def plot_rho(points: Sequence[RhoPoint], stem: Path) -> tuple[Path, ...]:
    """ρ(y) per class, one panel per data set: bars are means over seeds with ± 1 sd, dots the seeds.

    The grey band behind is where ratios lie when both groups come from one population; a line marks 1.

    Returns
    -------
    The files written: PNG, SVG, CSV.
    """
    datasets = in_order(p.dataset for p in points)
    figure, axes = panels(len(datasets))
    for ax, dataset in zip(axes, datasets, strict=True):
        panel = [p for p in points if p.dataset == dataset]
        classes, methods = in_order(p.class_name for p in panel), methods_in_order(p.method for p in panel)
        width = 0.8 / len(methods)
        for i, name in enumerate(classes):
            for j, method in enumerate(methods):
                own = [p for p in panel if (p.class_name, p.method) == (name, method)]
                if own:
                    _rho_bar(ax, i - 0.4 + width * (j + 0.5), width, own, j)
        ax.axhline(1, color="k", lw=0.8, ls=":")
        ax.set_xticks(range(len(classes)), [plain(c) for c in classes])
        ax.set_ylabel("ρ(y)")
        seeds = max(sum(p.class_name == c and p.method == m for p in panel) for c in classes for m in methods)
        title = f"{dataset}: λ1 of the minority over the majority group, n = {seeds} run(s)"
        titled(ax, title)
        for j, method in enumerate(methods if len(methods) > 1 else []):
            ax.plot([], [], label=plain(method), **method_style(method, j) | {"ls": "none"})
    axes[0].plot([], [], "k.", label="seed")
    axes[0].fill_between([], [], [], color="0.8", label="2.5–97.5% of the size-matched null")
    axes[0].legend(frameon=False, fontsize=8)
    return write(figure, stem, [asdict(p) for p in points], [f.name for f in fields(RhoPoint)])


def plot_null(draws: Sequence[NullDraws], stem: Path) -> tuple[Path, ...]:
    """Each observed ρ(y) against the histogram of its size-matched null.

    Returns
    -------
    The files written: PNG, SVG, CSV.
    """
    figure, axes = panels(len(draws))
    for ax, each in zip(axes, draws, strict=True):
        ax.hist(each.null, bins=40, color="0.75", label="same population, same sizes")
        ax.axvline(each.rho, color="C3", label=f"observed ρ = {each.rho:.3g}")
        ax.axvline(float(np.mean(each.null)), color="0.3", ls="--", lw=1, label=f"null mean {np.mean(each.null):.3g}")
        ax.set_xlabel("ρ(y)")
        ax.set_ylabel("replicates")
        # Room for the legend above the bars.
        ax.set_ylim(0, 1.4 * ax.get_ylim()[1])
        titled(ax, f"{each.name}\nshare of {len(each.null)} replicates as large: p = {each.p_value:.3g}")
        ax.legend(frameon=False, fontsize=8)
    rows = [
        {"name": each.name, "rho": each.rho, "p_value": each.p_value, "replicate": i, "null": value}
        for each in draws
        for i, value in enumerate(each.null)
    ]
    return write(figure, stem, rows, ["name", "rho", "p_value", "replicate", "null"])


def plot_rho_over_training(points: Sequence[RhoPoint], stem: Path) -> tuple[Path, ...]:
    """ρ(y) against the epoch, one panel per data set and class: mean and ± 1 sd over seeds.

    The grey band is the 2.5–97.5% range of the size-matched nulls, averaged over runs.

    Returns
    -------
    The files written: PNG, SVG, CSV.
    """
    shown = in_order((p.dataset, p.class_name) for p in points)
    figure, axes = panels(len(shown))
    for ax, (dataset, name) in zip(axes, shown, strict=True):
        panel = [p for p in points if (p.dataset, p.class_name) == (dataset, name)]
        for j, method in enumerate(methods_in_order(p.method for p in panel)):
            own = [p for p in panel if p.method == method]
            epochs = sorted({p.epoch for p in own if p.epoch is not None})
            at = [[p.rho for p in own if p.epoch == epoch] for epoch in epochs]
            label = f"{plain(method)} (n={max(map(len, at))})"
            draw_band(ax, epochs, at, style=method_style(method, j), label=label)
        known = [p for p in panel if p.epoch is not None and math.isfinite(p.null_low)]
        epochs = sorted({p.epoch for p in known if p.epoch is not None})
        if epochs:
            bands = [np.mean([(p.null_low, p.null_high) for p in known if p.epoch == e], axis=0) for e in epochs]
            low, high = np.transpose(bands)
            label = "2.5–97.5% of the size-matched null"
            ax.fill_between(epochs, low, high, color="0.85", lw=0, zorder=0, label=label)
        ax.axhline(1, color="k", lw=0.8, ls=":")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epoch")
        ax.set_ylabel("ρ(y)")
        titled(ax, f"{dataset}, {name}: mean ± sd over seeds")
        ax.legend(frameon=False, fontsize=8)
    return write(figure, stem, [asdict(p) for p in points], [f.name for f in fields(RhoPoint)])


def _rho_bar(ax: Axes, x: float, width: float, points: Sequence[RhoPoint], position: int) -> None:
    rho = np.array([p.rho for p in points])
    color, marker = (method_style(points[0].method, position)[name] for name in ("color", "marker"))
    bands = [(p.null_low, p.null_high) for p in points if not math.isnan(p.null_low)]
    if bands:
        low, high = np.mean(bands, axis=0)
        ax.fill_between([x - width / 2, x + width / 2], low, high, color="0.8", lw=0, zorder=0)
    ax.errorbar(x, rho.mean(), yerr=rho.std() if rho.size > 1 else None, fmt=marker, color=color, ms=9, capsize=3)
    ax.plot(x + np.linspace(-0.15, 0.15, rho.size) * width * (rho.size > 1), rho, "k.", ms=5, zorder=3)
