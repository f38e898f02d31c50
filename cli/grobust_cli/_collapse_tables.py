"""The collapse report: what each method loses between validation's best epoch and the last."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grobust_cli._output import percent, show_table

if TYPE_CHECKING:
    from grobust.experiments.collapse import MeanSd, MethodCollapse

__all__ = ["show_collapse"]

COLUMNS = ("method", "seeds", "peak val WGA", "at epoch", "val WGA at the end", "drop", "test WGA at the peak",
           "test WGA at the end", "test drop", "100% on train, from epoch")  # fmt: skip


def show_collapse(methods: "Sequence[MethodCollapse]") -> None:
    """Print one row per method: mean ± population sd over seeds."""
    title = "collapse in %: validation's best epoch (first of equals) against the last, mean ± population sd over seeds"
    show_table(title, COLUMNS, [_row(each) for each in methods])


def _row(of: "MethodCollapse") -> list[str]:
    return [
        of.method,
        str(len(of.runs)),
        _percent(of.peak),
        ", ".join("–" if run.peak_epoch is None else str(run.peak_epoch) for run in of.runs),
        _percent(of.end),
        _percent(of.drop),
        _percent(of.test_at_peak),
        _percent(of.test_end),
        _percent(of.test_drop),
        ", ".join("–" if run.interpolation_epoch is None else str(run.interpolation_epoch) for run in of.runs),
    ]


def _percent(value: "MeanSd | None") -> str:
    return percent(None) if value is None else f"{percent(value.mean)} ± {percent(value.sd)}"
