"""Tables of `grobust probe --trajectory`."""

from statistics import fmean, pstdev
from typing import TYPE_CHECKING

from grobust.settings import BalanceMethod, Match
from grobust_cli._output import note, number, percent, show_table, span
from grobust_cli._probe_tables import with_interval

if TYPE_CHECKING:
    from grobust.experiments.trajectory import TrajectoryReport, TrajectoryRun

__all__ = ["show_trajectories"]


def show_trajectories(report: "TrajectoryReport") -> None:
    """Print the last epoch beside validation's best, by method, and the groups after the last epoch."""
    config, provenance = report.config, report.provenance
    sgd = config.sgd
    equal = "epochs" if sgd.match is Match.EPOCHS else "steps"
    title = (
        f"{provenance.dataset}, {provenance.backbone}: test metrics in % over {sgd.epochs} epochs (equal {equal}), "
        f"mean over seeds; best epoch by validation {config.select}"
    )
    columns = ["method", "seeds", "steps", "rows drawn", "last loss", "best epoch", "WGA first", "WGA best",
               "WGA last", "sd", "drop", "worst group", "n", "average"]  # fmt: skip
    used = [m for m in BalanceMethod if m in config.balance]
    show_table(title, columns, [_row(report.of_method(method)) for method in used])
    runs = [report.of_method(method)[0] for method in used]
    last = runs[0].last
    rows = [
        [name, str(int(last.counts[g])), *(with_interval(run.last, g) for run in runs)]
        for g, name in enumerate(last.names)
    ]
    title = f"test accuracy per group in % after the last epoch, seed {runs[0].seed}, with 95% Wilson intervals"
    show_table(title, ["group", "n", *(str(m) for m in used)], rows)
    note(*dict.fromkeys([*report.notes, *(line for run in report.runs for line in run.notes)]))


def _row(runs: "tuple[TrajectoryRun, ...]") -> list[str]:
    last = [run.last.wga.value for run in runs]
    best = [run.best.wga.value for run in runs if run.best is not None]
    epochs = [str(run.best_epoch) for run in runs if run.best_epoch is not None]
    return [
        str(runs[0].method),
        str(len(runs)),
        span([int(run.steps[-1]) for run in runs]),
        span([int(run.rows[-1]) for run in runs]),
        number(fmean(float(run.loss[-1]) for run in runs)),
        ", ".join(epochs) or "–",
        percent(fmean(float(run.wga("test")[0]) for run in runs)),
        percent(fmean(best) if best else None),
        percent(fmean(last)),
        percent(pstdev(last)),
        percent(fmean(best) - fmean(last) if best else None),
        "; ".join(sorted({run.last.worst_group_name or "–" for run in runs})),
        "/".join(sorted({str(run.last.wga.n) for run in runs})),
        percent(fmean(run.last.average.value for run in runs)),
    ]
