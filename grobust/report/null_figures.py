"""Figures of ρ(y) from what records keep of its nulls, and of ρ(y) against accuracy gaps."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from grobust.report._canvas import in_order, panels, plain, series_style, titled, write
from grobust.spectrum import Correspondence

__all__ = ["NullRange", "plot_null_ranges", "plot_rho_gap"]


@dataclass(frozen=True)
class NullRange:
    """An observed ρ(y) and the size-matched null that its record keeps.

    Parameters
    ----------
    run, class_name : whose
    quantiles : of the null, by their level
    p_value : share of null ratios that are as large
    reading : in words
    minority, n_minority, n_majority : the groups
    """

    run: str
    class_name: str
    rho: float
    quantiles: Mapping[float, float]
    p_value: float
    reading: str
    minority: str
    n_minority: int
    n_majority: int


def plot_null_ranges(ranges: Sequence[NullRange], stem: Path) -> tuple[Path, ...]:
    """Each ρ(y) on the range of its size-matched null: 95% light, 50% dark, the median a tick.

    Returns
    -------
    The files written, see `grobust.report._canvas.write`.
    """
    runs = in_order(r.run for r in ranges)
    figure, axes = panels(len(runs))
    for ax, run in zip(axes, runs, strict=True):
        own = [r for r in ranges if r.run == run]
        for i, each in enumerate(own):
            q = each.quantiles
            ax.barh(i, q[0.975] - q[0.025], left=q[0.025], height=0.5, color="0.85")
            ax.barh(i, q[0.75] - q[0.25], left=q[0.25], height=0.5, color="0.65")
            ax.plot([q[0.5]] * 2, [i - 0.25, i + 0.25], color="0.2", lw=1.5)
            ax.plot(each.rho, i, ms=8, label="observed ρ(y)" if i == 0 else None, **series_style(3) | {"ls": "none"})
            note = f"ρ = {each.rho:.3g}, p = {each.p_value:.2g}: {each.reading}"
            ax.annotate(note, (0.01, i + 0.32), xycoords=("axes fraction", "data"), fontsize=8)
        ax.axvline(1, color="k", lw=0.8, ls=":")
        names = [f"{plain(r.class_name)}\nn={r.n_minority}, {r.n_majority}" for r in own]
        ax.set_yticks(range(len(own)), names, fontsize=8)
        ax.set_ylim(-0.5, len(own) - 0.2)
        ax.set_xlabel("ρ(y) on its size-matched null: 95% light, 50% dark")
        titled(ax, run)
        ax.legend(frameon=False, fontsize=8, loc="lower right")
    columns = [
        "run",
        "class_name",
        "rho",
        "p_value",
        "reading",
        "minority",
        "n_minority",
        "n_majority",
        "level",
        "null",
    ]
    rows = [
        {k: v for k, v in asdict(r).items() if k in columns} | {"level": level, "null": value}
        for r in ranges
        for level, value in r.quantiles.items()
    ]
    return write(figure, stem, rows, columns)


def plot_rho_gap(found: Correspondence, stem: Path) -> tuple[Path, ...]:
    """ρ(y) against the accuracy gap of the class's groups, a colour per run, with the rank correlation.

    Returns
    -------
    The files written, see `grobust.report._canvas.write`.
    """
    figure, (ax,) = panels(1)
    for i, run in enumerate(in_order(p.run for p in found.pairs)):
        own = [p for p in found.pairs if p.run == run]
        style = series_style(i) | {"ls": "none"}
        ax.plot([p.rho for p in own], [100 * p.gap for p in own], label=plain(run), ms=6, **style)
    ax.axhline(0, color="k", lw=0.8, ls=":")
    ax.axvline(1, color="k", lw=0.8, ls=":")
    ax.set_xlabel("ρ(y)")
    ax.set_ylabel("test accuracy, majority minus minority (points)")
    known = np.isfinite(found.spearman)
    rank = (
        f"Spearman {found.spearman:.2f} [{found.low:.2f}, {found.high:.2f}], p = {found.p_value:.2g}, " if known else ""
    )
    titled(
        ax, f"{rank}n = {len(found.pairs)}\nlargest ρ and largest gap agree in {found.agreeing} of {found.runs} runs"
    )
    if len({p.run for p in found.pairs}) <= 12:
        ax.legend(frameon=False, fontsize=7)
    return write(figure, stem, [asdict(p) for p in found.pairs], ["run", "class_name", "rho", "gap", "n_minority"])
