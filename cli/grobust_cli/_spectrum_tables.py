"""Tables of ``grobust spectrum``."""

import math
from typing import TYPE_CHECKING, Any

from grobust_cli._output import note, number, show_table

if TYPE_CHECKING:
    from grobust.experiments.spectra_compared import SpectraComparison
    from grobust.experiments.spectrum import SpectrumReport

__all__ = ["show_comparison", "show_spectrum"]

SHOWN = 5


def show_spectrum(report: "SpectrumReport", *, groups: bool = True, classes: bool = True) -> None:
    """Print spectra of groups and classes, the ratios with their nulls, and the diagnostics."""
    result = report.as_dict()
    _show_spectra(report, result, groups=groups, classes=classes)
    _show_ratios(report, result["norm_ratios"])
    if result["diagnostics"]:
        _show_diagnostics(result)


def show_comparison(comparison: "SpectraComparison") -> None:
    """Print ρ(y) over several stores, and against accuracy gaps."""
    if len(comparison.reports) > 1:
        rows = [
            [
                row.label.dataset, row.label.method, "–" if row.label.epoch is None else str(row.label.epoch),
                row.class_name, str(row.n), number(row.mean), number(row.sd) if row.n > 1 else "–",
                number(row.null_mean), "–" if math.isnan(row.null_mean) else f"{row.explained} of {row.n}",
                ", ".join(number(v) for v in row.values),
            ]
            for row in comparison.rho
        ]  # fmt: skip
        columns = [
            "data set",
            "method",
            "epoch",
            "class",
            "runs",
            "ρ(y)",
            "sd",
            "null mean",
            "explained by sizes",
            "each",
        ]
        show_table("ρ(y) over runs: mean and population sd", columns, rows, text_columns=4)
    found = comparison.correspondence
    if found is None:
        return
    rows = [[p.run, p.class_name, number(p.rho), _points(p.gap), str(p.n_minority)] for p in found.pairs]
    columns = ["run", "class", "ρ(y)", "accuracy gap (points)", "minority test rows"]
    show_table("ρ(y) and the head's accuracy gap, majority minus minority, on test", columns, rows, text_columns=2)
    if math.isnan(found.spearman):
        note("three classes or more are needed for a rank correlation of ρ(y) and accuracy gap")
    else:
        interval = "" if math.isnan(found.low) else f", 95% interval {number(found.low)} to {number(found.high)}"
        note(
            f"Spearman's rank correlation of ρ(y) and gap: {number(found.spearman)}{interval}, permutation p = "
            f"{number(found.p_value)}, n = {len(found.pairs)}; the class of largest ρ has the largest gap in "
            f"{found.agreeing} of {found.runs} runs. Pairs of one network are not independent: the interval is at best "
            "this narrow"
        )


def _show_spectra(report: "SpectrumReport", result: dict[str, Any], *, groups: bool, classes: bool) -> None:
    shown = min(SHOWN, report.config.top)
    columns = ["", "n", *(f"λ{i + 1}" for i in range(shown)), "trace", "effective rank", "route"]
    cells = [{**row, "name": row["name"] + (" *" if row["minority"] else "")} for row in result["groups"] if groups]
    cells += [{**row, "name": f"class {row['name']}"} for row in result["classes"] if classes]
    rows = [
        [
            row["name"], str(row["n"]), *(number(v) for v in row["eigenvalues"][:shown]), number(row["trace"]),
            number(row["effective_rank"]), row["route"],
        ]
        for row in cells
    ]  # fmt: skip
    divisor = "n" if report.config.ddof == 0 else "n − 1"
    title = (
        f"{result['dataset']}, {result['backbone']}: covariance spectra on {result['split']}, d = {result['dim']}, "
        f"divided by {divisor}; * minority group of its class"
    )
    show_table(title, columns, rows)


def _show_ratios(report: "SpectrumReport", ratios: list[dict[str, Any]]) -> None:
    rows = []
    for ratio in ratios:
        found = ratio["inference"] or {}
        low, high = number(found.get("null_low")), number(found.get("null_high"))
        rows.append(
            [
                ratio["class_name"], number(ratio["rho"]), f"{number(found.get('null_mean'))} [{low}, {high}]",
                _p(found.get("p_value"), found.get("null_replicates")),
                _p(found.get("p_two_sided"), found.get("null_replicates"), sides=2),
                _p(found.get("permutation_p"), found.get("permutation_replicates")),
                number(found.get("size_matched")), f"[{number(found.get('low'))}, {number(found.get('high'))}]",
                number(ratio["trace_ratio"]), _group(ratio, "minority"), _group(ratio, "majority"),
                "; ".join(filter(None, [found.get("reading", ""), ratio["note"]])),
            ]
        )  # fmt: skip
    columns = ["class", "ρ(y)", "null mean [95%]", "p (as large)", "p two-sided", "permutation p", "ρ at equal sizes",
               "95% interval", "trace ratio", "minority (n)", "majority (n)", "reading"]  # fmt: skip
    replicates = report.config.null
    title = f"intra-class spectral norm ratio, size-matched null of {replicates} replicates"
    show_table(title, columns, rows)


def _show_diagnostics(result: dict[str, Any]) -> None:
    from grobust.spectrum import READINGS

    stars = {row["name"]: row["name"] + (" *" if row["minority"] else "") for row in result["groups"]}
    found = result["diagnostics"]
    groups = [name for name in stars if any(d["cell"] == name for d in found)]
    pairs = list(dict.fromkeys(d["cell"] for d in found if d["cell"] not in stars))
    for title, cells in (("diagnostics of groups", groups), ("diagnostics of pairs and of all groups", pairs)):
        names = [n for n in READINGS if any(d["name"] == n and d["cell"] in cells for d in found)]
        sizes = {d["cell"]: d["n"] for d in found}
        by_key = {(d["name"], d["cell"]): d for d in found}
        rows = [[name, READINGS[name], *(_cell(by_key.get((name, cell))) for cell in cells)] for name in names]
        columns = ["", "formula", *(f"{stars.get(cell, cell)} (n={sizes[cell]})" for cell in cells)]
        if rows:
            title += f", d = {result['dim']}; in brackets the 95% range for subsets of the majority group of that size"
            show_table(title, columns, rows, text_columns=2)


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    if found["null_low"] is None:
        return number(found["value"])
    matched = "" if found["matched"] == found["value"] else f"matched {number(found['matched'])} "
    return f"{number(found['value'])} {matched}[{number(found['null_low'])}, {number(found['null_high'])}]"


def _p(value: float | None, replicates: int | None, *, sides: int = 1) -> str:
    """The smallest p-value that the replicates allow is an upper bound."""
    if value is None:
        return "–"
    return f"≤ {number(value)}" if replicates and value <= 1.5 * sides / (replicates + 1) else number(value)


def _points(gap: float) -> str:
    return f"{100 * gap:.1f}"


def _group(ratio: dict[str, object], which: str) -> str:
    name = ratio[which]
    return "–" if name is None else f"{name} ({ratio[f'n_{which}']})"
