"""Spectra of several stores side by side: epochs, seeds and methods; curves, mean ± sd over seeds, figures."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from grobust.errors import ConfigError
from grobust.experiments.spectrum import SpectrumReport
from grobust.report.figures import GroupSpectrum, plot_eigenvalues
from grobust.report.labels import RunLabel, networks_of, run_label
from grobust.report.spectra import NullDraws, RhoPoint, plot_null, plot_rho, plot_rho_over_training
from grobust.spectrum import Against, Correspondence, RatioAndGap, Reading, correspondence

__all__ = ["RhoSummary", "RunLabel", "SpectraComparison", "compare_spectra", "draw_spectra", "label_of"]


@dataclass(frozen=True)
class RhoSummary:
    """ρ(y) of one class over the seeds of one data set, method and epoch.

    Parameters
    ----------
    mean, sd : over seeds; the population sd, as in the paper's figures
    values : one per seed
    null_mean : mean of the nulls' means; NaN without
    explained : seeds whose ratio group sizes explain (`grobust.spectrum.Reading.SIZES`); 0 without nulls
    """

    label: RunLabel
    class_name: str
    mean: float
    sd: float
    values: tuple[float, ...]
    null_mean: float
    explained: int

    @property
    def n(self) -> int:
        """Seeds."""
        return len(self.values)


@dataclass(frozen=True, eq=False)
class SpectraComparison:
    """Reports of several stores.

    Parameters
    ----------
    reports, labels : one each per store
    rho : summaries over seeds, in the order of data set, method, epoch and class
    eigenvalues : spectra of groups averaged over seeds, of the last epoch of each data set and method
    correspondence : ρ(y) against accuracy gaps over all stores; None without heads
    """

    reports: tuple[SpectrumReport, ...]
    labels: tuple[RunLabel, ...]
    rho: tuple[RhoSummary, ...]
    eigenvalues: tuple[GroupSpectrum, ...]
    correspondence: Correspondence | None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report; NaN becomes None."""
        found = self.correspondence
        return {
            "reports": [
                {**report.as_dict(), "label": asdict(label)}
                for report, label in zip(self.reports, self.labels, strict=True)
            ],
            "rho": [
                {**{k: _number(v) for k, v in asdict(row).items()}, "n": row.n} for row in self.rho
            ],
            "correspondence": None if found is None else {k: _number(v) for k, v in asdict(found).items()},
        }  # fmt: skip


def label_of(report: SpectrumReport) -> RunLabel:
    """See `grobust.report.labels.run_label`."""
    config, made = report.config, report.provenance
    return run_label(
        store=config.store, dataset=made.dataset, backbone=made.backbone, balance=config.balance, seed=config.seed
    )


def compare_spectra(reports: Sequence[SpectrumReport]) -> SpectraComparison:
    """Summarize the reports of several stores.

    Raises
    ------
    ConfigError
        If there is none, or two stores of one data set have different classes or attributes.
    """
    if not reports:
        raise ConfigError("No feature stores were given.")
    schemes: dict[str, tuple[str, ...]] = {}
    for report in reports:
        names = report.groups.names
        if schemes.setdefault(report.provenance.dataset, names) != names:
            raise ConfigError(f"{report.config.store} has other groups than the stores of its data set before it.")
    labels = _told_apart(reports, tuple(map(label_of, reports)))
    pairs = [
        RatioAndGap(_run_name(label, report), pair.class_name, pair.rho, pair.gap, pair.n_minority)
        for report, label in zip(reports, labels, strict=True)
        for pair in report.gaps
    ]
    return SpectraComparison(
        reports=tuple(reports),
        labels=labels,
        rho=tuple(_summaries(reports, labels)),
        eigenvalues=tuple(_mean_eigenvalues(reports, labels)),
        correspondence=correspondence(pairs) if pairs else None,
    )


def draw_spectra(comparison: SpectraComparison, folder: Path) -> tuple[Path, ...]:
    """The paper's two figures (eigenvalues per group, ρ(y) per class), ρ against its null, and curves over epochs.

    All but the curves are of the last epoch of each data set and method.

    Returns
    -------
    The files written: PNG, SVG and CSV of each.
    """
    points, nulls = [], []
    last = _last_epochs(comparison.labels)
    for report, label in zip(comparison.reports, comparison.labels, strict=True):
        for ratio, found in zip(report.ratios, report.inferences, strict=True):
            if ratio.against is not Against.MAJORITY or not math.isfinite(ratio.rho):
                continue
            low, high = (found.null_low, found.null_high) if found is not None else (math.nan, math.nan)
            points.append(
                RhoPoint(label.dataset, label.method, label.seed, label.epoch, ratio.class_name, ratio.rho, low, high)
            )
            if found is not None and found.null.size and label.epoch == last[label.dataset, label.method]:
                name = f"{_run_name(label, report)}: {ratio.minority} (n={ratio.n_minority})"
                nulls.append(NullDraws(name, ratio.rho, tuple(found.null.tolist()), found.p_value))
    written = [*plot_eigenvalues(comparison.eigenvalues, folder / "eigenvalues")] if comparison.eigenvalues else []
    drawn = [p for p in points if p.epoch == last[p.dataset, p.method]]
    if drawn:
        written += plot_rho(drawn, folder / "rho")
    if nulls:
        written += plot_null(nulls, folder / "rho_null")
    if len({p.epoch for p in points if p.epoch is not None}) > 1:
        written += plot_rho_over_training([p for p in points if p.epoch is not None], folder / "rho_over_training")
    return tuple(written)


def _told_apart(reports: Sequence[SpectrumReport], labels: tuple[RunLabel, ...]) -> tuple[RunLabel, ...]:
    """The labels; where stores of one data set are of several networks, the network stands beside the data set."""
    networks = networks_of([{"provenance": asdict(report.provenance)} for report in reports], {})
    several = {
        label.dataset: len({n for n, other in zip(networks, labels, strict=True) if other.dataset == label.dataset}) > 1
        for label in labels
    }
    return tuple(
        replace(label, dataset=f"{label.dataset}, {network}") if several[label.dataset] else label
        for label, network in zip(labels, networks, strict=True)
    )


def _run_name(label: RunLabel, report: SpectrumReport) -> str:
    parts = [label.dataset, label.method if label.method != "none" else ""]
    parts += [f"seed {label.seed}" if label.seed is not None else ""]
    parts += [f"epoch {label.epoch}" if label.epoch is not None else ""]
    if label.seed is None and label.epoch is None:
        parts.append(report.config.store.name)
    return ", ".join(part for part in parts if part)


def _cells(labels: Sequence[RunLabel]) -> list[RunLabel]:
    """What is left of the labels without the seed, each once, in order."""
    return list(dict.fromkeys(RunLabel(lb.dataset, lb.method, None, lb.epoch) for lb in labels))


def _summaries(reports: Sequence[SpectrumReport], labels: Sequence[RunLabel]) -> list[RhoSummary]:
    found = []
    for cell in _cells(labels):
        own = [r for r, lb in zip(reports, labels, strict=True) if _cells([lb]) == [cell]]
        for name in own[0].groups.class_names:
            pairs = [
                (ratio.rho, *((math.nan, False) if null is None else (null.null_mean, null.reading is Reading.SIZES)))
                for report in own
                for ratio, null in zip(report.ratios, report.inferences, strict=True)
                if ratio.class_name == name and ratio.against is Against.MAJORITY and math.isfinite(ratio.rho)
            ]
            if pairs:
                values, nulls, explained = zip(*pairs, strict=True)
                found.append(
                    RhoSummary(cell, name, fmean(values), pstdev(values), values, float(np.mean(nulls)), sum(explained))
                )
    return found


def _last_epochs(labels: Sequence[RunLabel]) -> dict[tuple[str, str], int | None]:
    last: dict[tuple[str, str], int | None] = {}
    for label in labels:
        key, epoch = (label.dataset, label.method), label.epoch
        if key not in last or (epoch is not None and epoch > (last[key] or -1)):
            last[key] = epoch
    return last


def _mean_eigenvalues(reports: Sequence[SpectrumReport], labels: Sequence[RunLabel]) -> list[GroupSpectrum]:
    last = _last_epochs(labels)
    found = []
    for (dataset, method), epoch in last.items():
        key = RunLabel(dataset, method, None, epoch)
        own = [r for r, lb in zip(reports, labels, strict=True) if _cells([lb]) == [key]]
        for g, name in enumerate(own[0].groups.names):
            rank = min(r.by_group.eigenvalues.shape[1] for r in own)
            values = np.mean([r.by_group.eigenvalues[g, :rank] for r in own], axis=0)
            kept = values[np.isfinite(values)]
            if kept.size:
                title = dataset if method == "none" else f"{dataset}, {method}"
                title += f" (mean of {len(own)} seeds)" if len(own) > 1 else ""
                n = round(fmean(int(r.by_group.counts[g]) for r in own))
                found.append(GroupSpectrum(title, name, n, g in own[0].minority_groups, tuple(kept.tolist())))
    return found


def _number(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {k: _number(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_number(v) for v in value]
    return value
