"""Tables of `grobust probe`."""

from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from grobust.settings import BalanceMethod, Penalty
from grobust_cli._output import note, percent, show_table

if TYPE_CHECKING:
    from grobust.experiments.probe import ProbeReport, ProbeRun
    from grobust.metrics import Estimate, GroupMetrics

__all__ = ["show_probe", "show_probe_notes", "with_interval"]

# Columns of group shares that a table has room for; --json has all.
MOST_SHARES = 12


def show_probe(report: "ProbeReport") -> None:
    """Print the table of methods and the table of groups."""
    config, provenance = report.config, report.provenance
    title = f"{provenance.dataset}, {provenance.backbone}: test metrics in %, mean over seeds"
    penalty = config.penalty
    columns = ["method", "seeds", *(["L2"] if penalty is not Penalty.L1 else []),
               *(["L1", "weights not 0"] if penalty is not Penalty.L2 else []), "fits", "WGA", "sd", "worst group",
               "n", "average", "train-weighted", "group mean", "worst class"]  # fmt: skip
    used = [m for m in BalanceMethod if m in config.balance]
    rows = [_method_row(report.of_method(method), penalty) for method in used]
    show_table(title, columns, rows)
    runs = [report.of_method(method)[0] for method in used]
    seed = runs[0].seed
    names, counts = runs[0].test.names, runs[0].test.counts
    group_rows = [
        [name, str(int(counts[g])), *(with_interval(run.test, g) for run in runs)] for g, name in enumerate(names)
    ]
    title = f"test accuracy per group in %, seed {seed}, with 95% Wilson intervals"
    show_table(title, ["group", "n", *(str(m) for m in used)], group_rows)
    # Cells that are balanced; the groups reported may be unions of them.
    cells = list(runs[0].balance.batch_share)
    shown = cells if len(cells) <= MOST_SHARES else []
    balance_rows = [_balance_row(run, shown) for run in runs]
    columns = ["method", "rows/epoch", "steps/epoch (batch 32)", "repetition", *(f"share {n}" for n in shown)]
    show_table(f"what each method draws, seed {seed}", columns, balance_rows)


def show_probe_notes(report: "ProbeReport", *lines: str) -> None:
    """Print what a reader must know to stderr: of the runs, each once, and of the files written."""
    notes = dict.fromkeys([*report.notes, *(line for run in report.runs for line in run.notes)])
    note(*notes, *lines)


def _method_row(runs: "tuple[ProbeRun, ...]", penalty: Penalty) -> list[str]:
    first = runs[0]
    wga = [run.test.wga.value for run in runs]
    worst = sorted({run.test.worst_group_name or "–" for run in runs})
    l1 = [_listed({run.l1 for run in runs}), _listed({run.nonzero_weights for run in runs})]
    tests = [run.test for run in runs]
    return [
        str(first.method),
        str(len(runs)),
        *([_listed({run.l2 for run in runs})] if penalty is not Penalty.L1 else []),
        *(l1 if penalty is not Penalty.L2 else []),
        _fits(runs),
        percent(fmean(wga)),
        percent(pstdev(wga)),
        "; ".join(worst),
        "/".join(sorted({str(t.wga.n) for t in tests})),
        _mean([t.average for t in tests]),
        _mean([t.average_train_weighted for t in tests]),
        _mean([t.average_group for t in tests]),
        _mean([t.worst_class for t in tests]),
    ]


def _listed(values: set[float] | set[int]) -> str:
    ordered = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in sorted(values)]
    return ", ".join(ordered) if len(ordered) <= 3 else f"{ordered[0]} … {ordered[-1]}"


def _fits(runs: "tuple[ProbeRun, ...]") -> str:
    """How the chosen heads' fits ended."""
    lost = [run for run in runs if run.fit.status != "converged"]
    return f"{len(lost)} of {len(runs)} {lost[0].fit.status}" if lost else "converged"


def _mean(estimates: "list[Estimate]") -> str:
    return percent(fmean(e.value for e in estimates))


def with_interval(metrics: "GroupMetrics", group: int) -> str:
    """Accuracy of a group in percent, with its interval."""
    low, high = metrics.intervals()[group]
    value = float(metrics.accuracy[group])
    return f"{percent(value)} [{percent(float(low))}, {percent(float(high))}]"


def _balance_row(run: "ProbeRun", cells: list[str]) -> list[str]:
    summary = run.balance
    shares = [f"{summary.batch_share[cell]:.3f}" for cell in cells]
    return [
        str(run.method), str(summary.rows_per_epoch), str(summary.steps_per_epoch), f"{summary.repetition:.2f}",
        *shares,
    ]  # fmt: skip
