"""The page of `grobust diagnose`."""

import math
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from grobust_cli._output import number, percent, show_table, with_interval
from grobust_cli._probe_tables import with_interval as group_with_interval

if TYPE_CHECKING:
    from grobust.comparison import Difference
    from grobust.experiments.diagnosis_report import DiagnoseReport
    from grobust.metrics import Estimate

__all__ = ["show_diagnosis"]

PIPE_WIDTH = 120


def show_diagnosis(report: "DiagnoseReport") -> None:
    """Print the conclusion first, then what it rests on."""
    _show_verdict(report)
    _show_groups(report)
    if report.has_attributes:
        _show_attribute(report)
    _show_effects(report)
    if report.blind:
        _show_blind(report)
    _show_check(report)


def _show_verdict(report: "DiagnoseReport") -> None:
    verdict, made = report.verdict, report.provenance
    lines = [f"[bold]{escape(str(verdict.finding).capitalize())}[/]", "", escape(verdict.recommendation), ""]
    lines += [f"- {escape(sentence)}" for sentence in verdict.evidence]
    title = escape(f"{made.dataset}, {made.backbone} ({made.pooling}): {len(report.groups)} training rows")
    console = Console()
    # Off a terminal rich assumes 80 columns; a page of text is still read in lines.
    target = console if console.is_terminal else Console(width=PIPE_WIDTH)
    target.print(Panel("\n".join(lines), title=title, title_align="left"), highlight=False)


def _show_groups(report: "DiagnoseReport") -> None:
    groups = report.groups
    rows = [
        [
            name, str(int(n)), percent(n / len(groups)), percent(n / groups.class_counts[g // groups.n_attributes]),
            group_with_interval(report.plain, g),
        ]
        for g, (name, n) in enumerate(zip(groups.names, groups.counts, strict=True))
    ]  # fmt: skip
    title = (
        f"training groups (largest class {report.class_imbalance:.2f} times the smallest), and the plain head's "
        f"cross-validated accuracy, in %; l2 {report.l2:g}"
    )
    show_table(title, ["group", "n", "share", "of its class", "accuracy, 95% Wilson"], rows)
    gaps = [
        [gap.class_name, gap.best or "–", gap.worst or "–", _difference(gap.gap), _p(gap.p_corrected)]
        for gap in report.gaps
    ]
    if gaps:
        columns = ["class", "best group", "worst group", "gap in points", "p (Holm)"]
        show_table("accuracy gap inside each class", columns, gaps, text_columns=3)


def _show_attribute(report: "DiagnoseReport") -> None:
    from grobust.diagnosis import WITHIN_GROUP

    rows = []
    found = report.decodability
    if found is not None:
        reading = "decodable" if found.is_decodable else "not shown to be decodable"
        rows.append(
            ["attribute decoded by a linear head, group-balanced accuracy, %", _estimate(found.accuracy),
             f"chance {percent(found.chance)}", reading]
        )  # fmt: skip
    for a in report.alignments:
        within = a.metric == WITHIN_GROUP
        what = "within-group correlation of label's and attribute's score" if within else (
            "cosine of label's and attribute's weights, standardized")  # fmt: skip
        share = f" ({percent(a.cosine**2)}% of the variance)" if within else ""
        beyond = a.cosine > a.cosine_high
        rows.append([what, f"{number(a.cosine)}{share}", _range(a.cosine_low, a.cosine_high),
                     "more than a direction of noise" if beyond else "no more than a direction of noise"])  # fmt: skip
        if within:
            moves = "moves with the attribute" if a.p_value <= report.config.alpha else "not shown to move with it"
            rows.append(["shift of the label's score with the attribute, in sds of a group", number(a.shift),
                         _range(a.shift_low, a.shift_high), f"{moves}, p = {a.p_value:.2g}"])  # fmt: skip
    rows += [[f"ρ({r.class_name})", number(r.rho), _range(r.null_low, r.null_high), r.reading] for r in report.ratios]
    if rows:
        show_table("the attribute in the features", ["quantity", "value", "null, 95%", "reading"], rows)


def _show_effects(report: "DiagnoseReport") -> None:
    worst = "worst group" if report.has_attributes else "worst class"
    rows = [
        [
            effect.name, "class, attribute" if effect.needs_groups else "class", effect.worst_name,
            _estimate(effect.worst), _difference(effect.gain), _p(effect.p_corrected), percent(effect.average.value),
            percent(effect.worst_class.value),
        ]
        for effect in report.effects
    ]  # fmt: skip
    columns = ["balancing", "labels in training", worst, f"{worst} accuracy", "gain in points", "p (Holm)", "average",
               "worst class"]  # fmt: skip
    show_table(f"balancing, {report.config.folds}-fold cross-validation, in %", columns, rows, text_columns=3)


def _show_blind(report: "DiagnoseReport") -> None:
    rows = [[str(b.criterion), b.choice, percent(b.worst.value), _difference(b.loss)] for b in report.blind]
    columns = ["criterion", "choice", "its worst group", "loss to the best in points"]
    show_table("without group labels: what would be chosen among class balancing", columns, rows, text_columns=2)


def _show_check(report: "DiagnoseReport") -> None:
    check = report.check
    if check is None:
        return
    rows = [["none", check.plain.worst_group_name or "–", _estimate(check.plain.wga), "–",
             percent(check.plain.average.value)]]  # fmt: skip
    if check.remedy is not None and check.gain is not None:
        rows.append([report.verdict.remedy or "–", check.remedy.worst_group_name or "–", _estimate(check.remedy.wga),
                     _difference(check.gain), percent(check.remedy.average.value)])  # fmt: skip
    columns = ["head of all training rows", "worst group", "worst-group accuracy", "gain in points", "average"]
    title = f"check on {check.plain.n} validation rows, which had no part in the conclusion, in %"
    show_table(title, columns, rows, text_columns=2)


def _estimate(found: "Estimate") -> str:
    return with_interval(found.value, found.low, found.high)


def _difference(found: "Difference") -> str:
    return "–" if math.isnan(found.low) else with_interval(found.value, found.low, found.high)


def _range(low: float, high: float) -> str:
    return "–" if math.isnan(low) else f"[{number(low)}, {number(high)}]"


def _p(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2g}"
