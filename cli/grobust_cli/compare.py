"""``grobust compare``."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grobust.settings import SelectBy
from grobust_cli._options import Json
from grobust_cli._output import interval, note, percent, show_json, show_table

if TYPE_CHECKING:
    from grobust.experiments.compare import CompareReport, Comparison

__all__ = ["compare"]


def compare(
    source: Annotated[Path, typer.Argument(help="Records, or with --heads a feature store.", show_default=False)],
    heads: Annotated[
        Path | None,
        typer.Option(help="Heads that `grobust probe --save` wrote: adds the bootstrap over rows.", show_default=False),
    ] = None,
    metric: Annotated[
        SelectBy, typer.Option(help="What is compared: wga, average, average_group or worst_class.")
    ] = SelectBy.WGA,
    split: Annotated[str, typer.Option(help="Rows compared on: test or val.")] = "test",
    baseline: Annotated[
        str | None, typer.Option(help="Compare every method with this one. Default: all pairs.", show_default=False)
    ] = None,
    command: Annotated[
        str | None, typer.Option(help="Compare recorded runs of this command only.", show_default=False)
    ] = None,
    alpha: Annotated[float, typer.Option(help="Level of the tests; intervals have level 1 − alpha.")] = 0.05,
    replicates: Annotated[int, typer.Option(help="Resamples of the rows.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    json: Json = False,
) -> None:
    """Compare methods with intervals, and rank them only where the evidence does.

    Over seeds: Student's interval and an exact sign-flip test of the paired differences. Over rows (with --heads): a
    bootstrap that all heads share. P-values are corrected by Holm's method for the number of pairs. With too few seeds
    nothing is ranked, and the number that is needed is said.

    Examples:

    - `grobust compare records.jsonl --baseline none`

    - `grobust probe f.h5 --balance all --seeds 1..8 --save h.safetensors`, then
      `grobust compare f.h5 --heads h.safetensors`
    """
    from grobust.experiments.compare import run_compare
    from grobust.experiments.evidence_config import CompareConfig

    report = run_compare(
        CompareConfig(source=source, heads=heads, metric=metric, split=split, baseline=baseline, command=command,
                      alpha=alpha, replicates=replicates, seed=seed)
    )  # fmt: skip
    if json:
        show_json(report.as_dict())
        return
    for comparison in report.comparisons:
        _show(report, comparison)


def _show(report: "CompareReport", comparison: "Comparison") -> None:
    level = f"{100 * (1 - report.config.alpha):g}%"
    over_rows = comparison.n_rows is not None
    rows = [
        [
            m.name, str(len(m.values)), percent(m.mean), percent(m.sd), interval(m.low, m.high),
            *([interval(m.rows.low, m.rows.high)] if over_rows else []),
        ]
        for m in comparison.methods
    ]  # fmt: skip
    of_rows = f", {comparison.n_rows} rows" if over_rows else ""
    title = f"{comparison.title}: {report.config.split} {report.config.metric} in %{of_rows}; in the order given"
    columns = [
        "method",
        "seeds",
        "mean",
        "sd",
        f"{level} for new seeds",
        *([f"{level} for new rows"] if over_rows else []),
    ]
    show_table(title, columns, rows)
    rows = [
        [
            f"{pair.first} − {pair.second}", pair.verdict, str(pair.n_seeds), percent(pair.difference),
            interval(pair.over_seeds.low, pair.over_seeds.high), _p(pair.seeds_p),
            *([interval(pair.over_rows.low, pair.over_rows.high), _p(pair.rows_p)] if over_rows else []),
        ]
        for pair in comparison.pairs
    ]  # fmt: skip
    columns = ["difference", "verdict", "seeds", "points", f"{level} for new seeds", "p"]
    columns += [f"{level} for new rows", "p"] if over_rows else []
    show_table(
        f"differences; p after Holm's correction for {len(comparison.pairs)} pair(s)", columns, rows, text_columns=2
    )
    ranked = sum(pair.ranked for pair in comparison.pairs)
    note(*comparison.notes, f"{ranked} of {len(comparison.pairs)} pair(s) ranked; intervals are not corrected")


def _p(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2g}"
