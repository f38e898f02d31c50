"""Tables of `grobust methods` and `grobust probe --method`."""

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from grobust_cli._output import percent, show_table
from grobust_cli._probe_tables import with_interval

if TYPE_CHECKING:
    from grobust.experiments.methods import MethodRun, MethodsReport

__all__ = ["show_catalog", "show_methods"]

KINDS = {0: "–", 1: "class", 2: "group"}
# Of the table of groups, so that a line stays readable.
WIDEST = 8


def show_catalog(rows: Sequence[dict[str, Any]]) -> None:
    """Print what methods are and need."""
    columns = ["name", "what", "train", "train on val", "choose on val", "seeds matter", "cost", "source"]
    table = [
        [row["name"], row["title"], *(KINDS[len(row["labels"][key])] for key in ("train", "reweighting", "selection")),
         "yes" if row["random"] else "no", row["cost"], row["source"]]
        for row in rows
    ]  # fmt: skip
    show_table("methods, and the labels they read", columns, table, text_columns=len(columns))


def show_methods(report: "MethodsReport") -> None:
    """Print the table of methods and that of groups."""
    by_method = report.by_method()
    provenance = report.provenance
    title = f"{provenance.dataset}, {provenance.backbone}: test metrics in %, mean over seeds; interval of one seed"
    columns = ["method", "labels", "seeds", "chosen", "WGA", "sd", "95% interval", "worst group", "n", "average",
               "worst class", "seconds"]  # fmt: skip
    show_table(title, columns, [_row(runs) for runs in by_method.values()], text_columns=2)
    firsts = [runs[0] for runs in by_method.values()]
    for start in range(0, len(firsts), WIDEST):
        part = firsts[start : start + WIDEST]
        names, counts = part[0].test.names, part[0].test.counts
        rows = [[name, str(int(counts[g])), *(with_interval(r.test, g) for r in part)] for g, name in enumerate(names)]
        title = f"test accuracy per group in %, seed {part[0].seed}, with 95% Wilson intervals"
        show_table(title, ["group", "n", *(run.name for run in part)], rows)


def _row(runs: "tuple[MethodRun, ...]") -> list[str]:
    first = runs[0]
    wga = [run.test.wga.value for run in runs]
    estimate = first.test.wga
    return [
        first.name,
        "/".join(KINDS[len(first.labels[key])] for key in ("train", "reweighting", "selection")),
        str(len(runs)),
        _chosen(runs),
        percent(fmean(wga)),
        percent(pstdev(wga)),
        f"{percent(estimate.low)} – {percent(estimate.high)}",
        "; ".join(sorted({run.test.worst_group_name or "–" for run in runs})),
        "/".join(sorted({str(run.test.wga.n) for run in runs})),
        percent(fmean(run.test.average.value for run in runs)),
        percent(fmean(run.test.worst_class.value for run in runs)),
        f"{sum(run.seconds for run in runs):.1f}",
    ]


def _chosen(runs: "tuple[MethodRun, ...]") -> str:
    """Settings chosen: one value, or the range over seeds."""
    parts = []
    for key in runs[0].fit.chosen:
        values = sorted({run.fit.chosen[key] for run in runs if key in run.fit.chosen})
        shown = f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} … {values[-1]:g}"
        parts.append(f"{key} {shown}")
    return ", ".join(parts) or "–"
