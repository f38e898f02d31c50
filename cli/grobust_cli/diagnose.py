"""``grobust diagnose``."""

from pathlib import Path
from typing import Annotated

import typer

from grobust_cli._diagnosis_page import show_diagnosis
from grobust_cli._options import Device, DeviceOption, Json, Ratio, Store, floats
from grobust_cli._output import note, progress_bar, show_json

__all__ = ["diagnose"]


def diagnose(
    store: Store,
    folds: Annotated[int, typer.Option(help="Of the cross-validation on training rows.")] = 5,
    l2: Annotated[
        str, typer.Option(help="L2 strengths of the plain head to choose from; the other heads take the chosen one.")
    ] = "1e-3,1e-2,1e-1",
    ratio: Ratio = 2.0,
    alpha: Annotated[float, typer.Option(help="Level of the tests; intervals have level 1 − alpha.")] = 0.05,
    replicates: Annotated[int, typer.Option(help="Resamples of the rows behind the intervals.")] = 2000,
    permutations: Annotated[int, typer.Option(help="Of the attribute, for the null of the directions.")] = 500,
    null: Annotated[int, typer.Option(help="Replicates of the null of ρ(y).")] = 200,
    max_rows: Annotated[int, typer.Option(help="Most training rows used; 0 for all.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of folds, subsets and draws.")] = 0,
    device: DeviceOption = Device.AUTO,
    records: Annotated[
        Path | None, typer.Option(help="File to append the run to. Default: none.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Say whether a classifier on these features leans on the attribute, and what would help.

    One page: imbalance, whether the attribute can be decoded, how much of the label's head is the attribute's, the gaps
    between groups, ρ(y), what each balancing method does, what could be known without group labels, and a conclusion
    with its evidence. Training rows are cross-validated, validation rows check the conclusion; test rows are not read.

    Examples:

    - `grobust diagnose f.h5`

    - `grobust diagnose f.h5 --folds 10 --alpha 0.01 --json`
    """
    from grobust.arrays import resolve_device
    from grobust.experiments.diagnose import run_diagnose
    from grobust.experiments.evidence_config import DiagnoseConfig

    config = DiagnoseConfig(
        store=store, folds=folds, l2=floats(l2, "--l2"), ratio=ratio, alpha=alpha, replicates=replicates,
        permutations=permutations, null=null, max_rows=max_rows or None, seed=seed, device=resolve_device(device),
        records=records,
    )  # fmt: skip
    with progress_bar("diagnose") as advance:
        report = run_diagnose(config, on_progress=advance)
    if json:
        show_json(report.as_dict())
        return
    show_diagnosis(report)
    written = "" if records is None else f"; record appended to {records}"
    note(*report.notes, f"device {report.device}{written}")
