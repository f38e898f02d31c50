"""``grobust probe``."""

from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Annotated

import typer

from grobust.settings import BalanceBy, BalanceMethod, SelectBy
from grobust_cli._options import By, Device, DeviceOption, Json, Methods, Ratio, Records, Store, floats, ints, methods
from grobust_cli._output import note, percent, show_json, show_table

if TYPE_CHECKING:
    from grobust.experiments.probe import ProbeReport, ProbeRun
    from grobust.metrics import Estimate

__all__ = ["probe", "show_probe"]


def probe(
    store: Store,
    balance: Methods = "none",
    by: By = BalanceBy.CLASS,
    ratio: Ratio = 2.0,
    seeds: Annotated[str, typer.Option(help="Seeds with commas.")] = "1,2,3",
    l2: Annotated[str, typer.Option(help="L2 strengths (per-sample loss) to choose from on validation.")] = (
        "1e-4,1e-3,1e-2,1e-1,1"
    ),
    select: Annotated[
        SelectBy, typer.Option(help="Validation score that chooses L2; `wga` reads attributes of validation rows.")
    ] = SelectBy.WORST_CLASS,
    rtol: Annotated[float, typer.Option(help="Converged when so close to the minimum, relative to it.")] = 1e-6,
    max_iter: Annotated[int, typer.Option(help="Most iterations of the solver.")] = 1000,
    device: DeviceOption = Device.AUTO,
    records: Records = None,
    json: Json = False,
) -> None:
    """Fit last-layer probes on stored features and report accuracy per group.

    Every balancing method, seed and L2 strength is fitted in one solve to a stated optimality. L2 is chosen on the
    validation split; test data is only reported on.

    Examples:

    - `grobust probe f.h5 --balance mixture --ratio 2`

    - `grobust probe f.h5 --balance all --seeds 1,2,3,4,5 --json`
    """
    from grobust.arrays import resolve_device
    from grobust.experiments.config import ProbeConfig
    from grobust.experiments.probe import run_probe

    config = ProbeConfig(
        store=store,
        balance=methods(balance),
        by=by,
        ratio=ratio,
        seeds=ints(seeds, "--seeds"),
        l2=floats(l2, "--l2"),
        select=select,
        rtol=rtol,
        max_iter=max_iter,
        device=resolve_device(device),
        records=records or store.parent / "records.jsonl",
    )
    report = run_probe(config)
    if json:
        show_json(report.as_dict())
    else:
        show_probe(report)
        note(*_all_notes(report), f"device {report.device}; records appended to {config.records}")


def show_probe(report: "ProbeReport") -> None:
    """Print the table of methods and the table of groups."""
    config, provenance = report.config, report.provenance
    title = f"{provenance.dataset}, {provenance.backbone}: test metrics in %, mean over seeds"
    columns = ["method", "seeds", "L2", "WGA", "sd", "worst group", "n", "average", "train-weighted", "group mean",
               "worst class"]  # fmt: skip
    used = [m for m in BalanceMethod if m in config.balance]
    rows = [_method_row(report.of_method(method)) for method in used]
    show_table(title, columns, rows)
    runs = [report.of_method(method)[0] for method in used]
    seed = runs[0].seed
    names, counts = runs[0].test.names, runs[0].test.counts
    group_rows = [
        [name, str(int(counts[g])), *(_with_interval(run, g) for run in runs)] for g, name in enumerate(names)
    ]
    title = f"test accuracy per group in %, seed {seed}, with 95% Wilson intervals"
    show_table(title, ["group", "n", *(str(m) for m in used)], group_rows)
    balance_rows = [_balance_row(run) for run in runs]
    columns = ["method", "rows/epoch", "steps/epoch (batch 32)", "repetition", *(f"share {n}" for n in names)]
    show_table(f"what each method draws, seed {seed}", columns, balance_rows)


def _method_row(runs: "tuple[ProbeRun, ...]") -> list[str]:
    first = runs[0]
    wga = [run.test.wga.value for run in runs]
    worst = sorted({run.test.worst_group_name or "–" for run in runs})
    strengths = sorted({run.l2 for run in runs})
    tests = [run.test for run in runs]
    return [
        str(first.method),
        str(len(runs)),
        ", ".join(f"{s:g}" for s in strengths),
        percent(fmean(wga)),
        percent(pstdev(wga)),
        "; ".join(worst),
        "/".join(sorted({str(t.wga.n) for t in tests})),
        _mean([t.average for t in tests]),
        _mean([t.average_train_weighted for t in tests]),
        _mean([t.average_group for t in tests]),
        _mean([t.worst_class for t in tests]),
    ]


def _mean(estimates: "list[Estimate]") -> str:
    return percent(fmean(e.value for e in estimates))


def _with_interval(run: "ProbeRun", group: int) -> str:
    low, high = run.test.intervals()[group]
    value = float(run.test.accuracy[group])
    return f"{percent(value)} [{percent(float(low))}, {percent(float(high))}]"


def _balance_row(run: "ProbeRun") -> list[str]:
    summary = run.balance
    shares = [f"{share:.3f}" for share in summary.batch_share.values()]
    return [
        str(run.method), str(summary.rows_per_epoch), str(summary.steps_per_epoch), f"{summary.repetition:.2f}",
        *shares,
    ]  # fmt: skip


def _all_notes(report: "ProbeReport") -> list[str]:
    return list(dict.fromkeys([*report.notes, *(line for run in report.runs for line in run.notes)]))
