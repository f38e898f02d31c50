"""``grobust predict``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grobust_cli._options import Device, DeviceOption, Json, Store
from grobust_cli._output import note, number, percent, show_json, show_table
from grobust_cli._probe_tables import with_interval

if TYPE_CHECKING:
    from grobust.experiments.predict import PredictReport

__all__ = ["predict"]


def predict(
    store: Store,
    heads: Annotated[Path, typer.Argument(help="Heads that `grobust probe --save` wrote.", show_default=False)],
    head: Annotated[
        str | None, typer.Option(help="Name or number (from 0) of one head. Default: all.", show_default=False)
    ] = None,
    split: Annotated[str, typer.Option(help="Rows predicted: train, val or test.")] = "test",
    out: Annotated[
        Path | None,
        typer.Option(help="File for the predictions of every row: .csv or .npz.", show_default=False),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Predict though the heads were trained on features of another kind.")
    ] = False,
    device: DeviceOption = Device.AUTO,
    json: Json = False,
) -> None:
    """Predict the rows of a feature store with saved heads, and report accuracy per group.

    Features must come from the backbone, preprocessing and pooling that the heads were trained on; the data set may be
    another one.

    Examples:

    - `grobust predict f.h5 heads.safetensors --out predictions.csv`

    - `grobust predict other.h5 heads.safetensors --head mixture/seed1 --split val --json`
    """
    from grobust.arrays import resolve_device
    from grobust.experiments.config import PredictConfig
    from grobust.experiments.predict import run_predict

    report = run_predict(
        PredictConfig(
            store=store, heads=heads, head=head, split=split, out=out, force=force, device=resolve_device(device)
        )
    )
    if json:
        show_json(report.as_dict())
        return
    show_predict(report)
    note(
        *report.notes,
        f"{report.n} rows predicted on {report.device}" + (f"; predictions written to {out}" if out else ""),
    )


def show_predict(report: "PredictReport") -> None:
    """Print a table of heads, and one of groups where the classes are those of the heads."""
    provenance = report.provenance
    title = f"{provenance.dataset}, {provenance.backbone}: {report.config.split} metrics in %"
    columns = ["head", "method", "L2", "L1", "status", "WGA", "95% interval", "worst group", "n", "average",
               "worst class"]  # fmt: skip
    rows = []
    for i, info in enumerate(report.infos):
        row = [info.name, info.method or "–", number(info.l2), number(info.l1), info.status or "–"]
        if report.metrics:
            m = report.metrics[i]
            interval = f"[{percent(m.wga.low)}, {percent(m.wga.high)}]"
            row += [percent(m.wga.value), interval, m.worst_group_name or "–", str(m.wga.n), percent(m.average.value),
                    percent(m.worst_class.value)]  # fmt: skip
        rows.append(row + ["–"] * (len(columns) - len(row)))
    show_table(title, columns, rows)
    if not report.metrics:
        return
    first = report.metrics[0]
    groups = [
        [name, str(int(first.counts[g])), *(with_interval(m, g) for m in report.metrics)]
        for g, name in enumerate(first.names)
    ]
    show_table(
        "accuracy per group in %, with 95% Wilson intervals",
        ["group", "n", *(info.name for info in report.infos)],
        groups,
    )
