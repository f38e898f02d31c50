"""``grobust plot``."""

from pathlib import Path
from typing import Annotated

import typer

from grobust.report.choices import PlotKind
from grobust_cli._options import Json, RecordFiles, Where
from grobust_cli._output import note, show_json

__all__ = ["plot"]


def plot(
    kind: Annotated[PlotKind, typer.Argument(help="The figure.", show_default=False)],
    records: RecordFiles,
    out: Annotated[
        Path, typer.Option(help="File: .png, .svg or .pdf; its numbers go beside it as CSV.", show_default=False)
    ],
    where: Where = None,
    x: Annotated[
        str | None,
        typer.Option(help="Field on the horizontal axis of `scaling` and `mixture-ablation`.", show_default=False),
    ] = None,
    value: Annotated[
        str,
        typer.Option(help="Test metric, where the figure leaves a choice; of curves also `test.average`."),
    ] = "test.wga",
    json: Json = False,
) -> None:
    """Draw one figure from records alone.

    - From probes and finetuned runs: `wga` and `groups` (by method), `mixture-ablation` (against the ratio), `scaling`
      (against parameters, or any number: --x), `selection` (what each validation score would choose)

    - From runs over epochs (`probe --trajectory`, `finetune`): `collapse` and `mixture` (test worst-group accuracy over
      training, without and with the mixture; --value test.average for the average)

    - From spectra: `eigenvalues` and `rho` (of every method that there is), `rho-null`, `rho-over-training`, `rho-gap`

    - From any of them with method `none`: `composition` (rows of every group and split; the data's own are in
      `grobust data describe`)

    Colours stay apart for colour-blind readers, and lines in grey by dashes and markers. The same numbers give the same
    bytes.

    Examples:

    - `grobust plot collapse records.jsonl --out collapse.svg`

    - `grobust plot rho runs/ --out rho.pdf --where dataset=waterbirds`

    - `grobust plot collapse runs/ --value test.average --out average.svg`

    - `grobust plot scaling runs/ --x dim --out scaling.png`
    """
    from grobust.experiments.plot import run_plot
    from grobust.experiments.report_config import PlotConfig

    report = run_plot(
        PlotConfig(
            kind=kind, records=tuple(records), out=out, where=tuple(where or ()), x=x, value=value,
        )
    )  # fmt: skip
    if json:
        show_json(report.as_dict())
        return
    note(*report.notes, f"figure, and its numbers as CSV: {', '.join(report.files)}")
