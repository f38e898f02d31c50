"""`run_plot`: one figure from records alone."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grobust.errors import DataError
from grobust.experiments.gathered import gather_runs
from grobust.experiments.report_config import OF_CURVES, PlotConfig
from grobust.report.choices import PlotKind
from grobust.report.comparisons import plot_against, plot_groups, plot_selection
from grobust.report.composition import plot_composition
from grobust.report.curves import plot_collapse
from grobust.report.fields import require
from grobust.report.figures import plot_eigenvalues, plot_wga_by_method
from grobust.report.null_figures import plot_null_ranges, plot_rho_gap
from grobust.report.spectra import plot_rho, plot_rho_over_training
from grobust.report.views import (
    curve_points,
    gap_pairs,
    group_accuracies,
    group_counts,
    group_spectra,
    method_results,
    null_ranges,
    number_points,
    rho_points,
    score_points,
)
from grobust.settings import BalanceMethod
from grobust.spectrum import correspondence

__all__ = ["PlotReport", "run_plot"]

Records = list[dict[str, Any]]
Drawing = Callable[[PlotConfig, Records], tuple[Path, ...]]
OF_X = {PlotKind.SCALING: "parameters", PlotKind.MIXTURE_ABLATION: "ratio"}


@dataclass(frozen=True)
class PlotReport:
    """The files of a figure: the image, and its numbers as CSV."""

    config: PlotConfig
    files: tuple[str, ...]
    runs: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "kind": str(self.config.kind),
            "runs": self.runs,
            "files": list(self.files),
            "notes": list(self.notes),
        }


def run_plot(config: PlotConfig) -> PlotReport:
    """Draw a figure.

    Raises
    ------
    DataError
        If records are missing or damaged, or none of them can give the figure; the message says which can.
    ConfigError
        If a field or condition is unknown.
    """
    records, notes = gather_runs(config.records, where=config.where)
    files = _DRAWINGS[config.kind](config, records)
    return PlotReport(config, tuple(map(str, files)), len(records), notes)


def _needed(config: PlotConfig, points: list[Any], what: str, how: str) -> list[Any]:
    if not points:
        raise DataError(f"No record has {what}, which '{config.kind}' draws. Record some: {how}.")
    return points


def _wga(config: PlotConfig, records: Records) -> tuple[Path, ...]:
    return plot_wga_by_method(_tested(config, method_results(records)), config.out)


def _groups(config: PlotConfig, records: Records) -> tuple[Path, ...]:
    return plot_groups(_tested(config, group_accuracies(records)), config.out)


def _tested(config: PlotConfig, points: list[Any]) -> list[Any]:
    return _needed(config, points, "metrics on test rows", "`grobust probe STORE --balance all`")


def _curves(config: PlotConfig, records: Records) -> tuple[Path, ...]:
    points = curve_points(records)
    if config.kind is PlotKind.COLLAPSE:
        others = [p for p in points if not p.method.startswith(BalanceMethod.MIXTURE)]
        points = others or points
    how = "`grobust probe STORE --balance all --trajectory`, or `grobust finetune`"
    points = _needed(config, points, "accuracy after every epoch", how)
    return plot_collapse(points, config.out, metric=OF_CURVES[config.value])


def _composition(config: PlotConfig, records: Records) -> tuple[Path, ...]:
    return plot_composition(_tested(config, group_counts(records)), config.out)


def _against(config: PlotConfig, records: Records) -> tuple[Path, ...]:
    x = config.x or OF_X[config.kind]
    if config.kind is PlotKind.MIXTURE_ABLATION:
        records = [r for r in records if r.get("results", {}).get("method") == BalanceMethod.MIXTURE]
        _needed(
            config, records, "the method 'mixture'", "`grobust probe STORE --balance mixture --ratio R` for several R"
        )
    require(records, x, option="--x")
    require(records, config.value, option="--value")
    points = number_points(records, x, config.value)
    how = f"runs with both {x} and {config.value}"
    name = "mixture ratio r" if x == "ratio" else x
    return plot_against(
        _needed(config, points, f"{x} and {config.value}", how), config.out, x_name=name, value_name=config.value
    )


def _selection(config: PlotConfig, records: Records) -> tuple[Path, ...]:
    require(records, config.value, option="--value")
    points = _needed(
        config, score_points(records, config.value), "scores on validation rows", "`grobust probe STORE --balance all`"
    )
    return plot_selection(points, config.out, value_name=config.value)


def _eigenvalues(config: PlotConfig, records: Records) -> tuple[Path, ...]:
    return plot_eigenvalues(_of_spectra(config, group_spectra(records)), config.out)


def _rho(config: PlotConfig, records: Records) -> tuple[Path, ...]:
    return plot_rho(_of_spectra(config, rho_points(records, last=True)), config.out)


def _rho_null(config: PlotConfig, records: Records) -> tuple[Path, ...]:
    return plot_null_ranges(_of_spectra(config, null_ranges(records)), config.out)


def _rho_over_training(config: PlotConfig, records: Records) -> tuple[Path, ...]:
    points = [p for p in rho_points(records, last=False) if p.epoch is not None]
    how = "`grobust spectrum` of stores of several epochs, `epoch1.h5`, or of `run:DIR@EPOCH`"
    return plot_rho_over_training(_needed(config, points, "ρ(y) of an epoch", how), config.out)


def _rho_gap(config: PlotConfig, records: Records) -> tuple[Path, ...]:
    pairs = _needed(
        config, gap_pairs(records), "ρ(y) beside accuracy gaps", "`grobust spectrum STORE --heads HEADS.safetensors`"
    )
    return plot_rho_gap(correspondence(pairs), config.out)


def _of_spectra(config: PlotConfig, points: list[Any]) -> list[Any]:
    return _needed(config, points, "spectra of groups with two rows or more", "`grobust spectrum STORE`")


_DRAWINGS: dict[PlotKind, Drawing] = {
    PlotKind.WGA: _wga,
    PlotKind.GROUPS: _groups,
    PlotKind.COLLAPSE: _curves,
    PlotKind.MIXTURE: _curves,
    PlotKind.MIXTURE_ABLATION: _against,
    PlotKind.SCALING: _against,
    PlotKind.SELECTION: _selection,
    PlotKind.EIGENVALUES: _eigenvalues,
    PlotKind.RHO: _rho,
    PlotKind.RHO_NULL: _rho_null,
    PlotKind.RHO_OVER_TRAINING: _rho_over_training,
    PlotKind.RHO_GAP: _rho_gap,
    PlotKind.COMPOSITION: _composition,
}
