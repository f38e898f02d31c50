"""Tables of `grobust finetune`, and its curve while it trains."""

import math
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

from grobust.settings import BalanceMethod, Match
from grobust_cli._collapse_tables import show_collapse
from grobust_cli._output import note, number, percent, show_table, span

if TYPE_CHECKING:
    from grobust.experiments.finetune import FinetuneReport, FinetuneRun
    from grobust.finetune.run import FinetuneProgress

__all__ = ["curve_so_far", "show_finetune"]

BARS = "▁▂▃▄▅▆▇█"
SHOWN_EVALUATIONS = 16


def curve_so_far(at: "FinetuneProgress") -> str:
    """Worst-group accuracy of the evaluations so far, on validation rows where there are some, as little bars."""
    split = "val" if "val" in at.curve.splits else "train"
    count = len(at.curve.evaluations)
    values = [at.curve.metrics(split, i).wga.value for i in range(max(0, count - SHOWN_EVALUATIONS), count)]
    if not values or not all(math.isfinite(value) for value in values):
        return ""
    bars = "".join(BARS[min(int(value * len(BARS)), len(BARS) - 1)] for value in values)
    return f" {split} WGA {bars} {percent(values[-1])}"


def show_finetune(report: "FinetuneReport") -> None:
    """Print methods, groups after the last epoch, and what each method draws; then notes."""
    equal = "epochs" if report.settings.match is Match.EPOCHS else "steps"
    used = [m for m in BalanceMethod if report.of_method(m)]
    split = next(s for s in ("test", "val", "train") if s in report.runs[0].results)
    title = (
        f"{report.dataset}, {report.backbone}: {split} metrics in % after the last epoch (equal {equal}), "
        "mean over seeds with population sd"
    )
    columns = ["method", "seeds", "steps", "rows drawn", "last loss", "train average", "interpolation epoch", "WGA",
               "sd", "worst group", "n", "average", "train-weighted"]  # fmt: skip
    show_table(title, columns, [_method_row(report.of_method(method), split) for method in used])
    first = [report.of_method(method)[0] for method in used]
    groups = [run.results[split]["groups"] for run in first]
    rows = [
        [group["name"], str(group["n"]), *(_interval(own[g]) for own in groups)] for g, group in enumerate(groups[0])
    ]
    title = f"{split} accuracy per group in % after the last epoch, seed {first[0].seed}, with 95% Wilson intervals"
    show_table(title, ["group", "n", *(str(m) for m in used)], rows)
    show_collapse(report.collapse)
    names = first[0].results["group_names"]
    columns = ["method", "rows/epoch", "steps/epoch", "repetition", *(f"share {name}" for name in names)]
    show_table(f"what each method draws, seed {first[0].seed}", columns, [_balance_row(run) for run in first])
    lines = dict.fromkeys([*report.notes, *(line for run in report.runs for line in run.results["notes"])])
    note(*lines, *_where(report))


def _method_row(runs: "tuple[FinetuneRun, ...]", split: str) -> list[str]:
    results = [run.results for run in runs]
    curves = [r["epochs"] for r in results]
    last = [r[split] for r in results]
    wga = [m["wga"]["value"] for m in last]
    interpolation = [r["interpolation_epoch"] for r in results]
    return [
        str(runs[0].method),
        str(len(runs)),
        span([c["steps"][-1] for c in curves]),
        span([c["rows"][-1] for c in curves]),
        number(fmean(c["loss"][-1] for c in curves)),
        percent(fmean(c["train"]["average"][-1] for c in curves)),
        ", ".join("–" if epoch is None else str(epoch) for epoch in interpolation),
        percent(fmean(wga)),
        percent(pstdev(wga)),
        "; ".join(sorted({m["worst_group"] or "–" for m in last})),
        "/".join(sorted({str(m["wga"]["n"]) for m in last})),
        percent(fmean(m["average"]["value"] for m in last)),
        _mean([m["average_train_weighted"]["value"] for m in last]),
    ]


def _balance_row(run: "FinetuneRun") -> list[str]:
    balance = run.results["balance"]
    shares = [f"{share:.3f}" for share in balance["batch_share"].values()]
    return [str(run.method), str(balance["rows_per_epoch"]), str(balance["steps_per_epoch"]),
            f"{balance['repetition']:.2f}", *shares]  # fmt: skip


def _where(report: "FinetuneReport") -> list[str]:
    trained = [run for run in report.runs if not run.reused]
    seconds = sum(run.results["seconds"] for run in trained)
    last = report.runs[-1]
    return [
        f"{len(trained)} run(s) trained in {seconds:.1f} s, {len(report.runs) - len(trained)} there already",
        *(f"{run.path}" for run in report.runs),
        f"the last network as a backbone: run:{last.path}@{last.results['epochs']['epochs'][-1]}",
    ]


def _interval(group: dict[str, Any]) -> str:
    return f"{percent(group['value'])} [{percent(group['low'])}, {percent(group['high'])}]"


def _mean(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return percent(fmean(known) if len(known) == len(values) else None)
