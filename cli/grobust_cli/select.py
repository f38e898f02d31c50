"""``grobust select``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grobust_cli._options import Json, criteria
from grobust_cli._output import interval, note, number, percent, show_json, show_table, with_interval

if TYPE_CHECKING:
    from grobust.comparison import Difference
    from grobust.experiments.select import PanelSelection, Selection
    from grobust.ledger import LabelLedger

__all__ = ["select"]


def select(
    records: Annotated[
        Path, typer.Argument(help="Records of `probe`, `probe --trajectory` or `finetune`.", show_default=False)
    ],
    criterion: Annotated[
        str,
        typer.Option(
            help="Validation scores to choose by, with commas, or `all`: worst_class, bias_unsupervised, "
            "bias_unsupervised_worst, class_difference, worst_pseudo_group, average, wga, average_group.",
            metavar="SCORE",
        ),
    ] = "all",
    epochs: Annotated[
        str, typer.Option(help="Epochs of a curve that are candidates: `last` (the paper) or `each`.")
    ] = "last",
    command: Annotated[
        str | None, typer.Option(help="Choose among runs of this command only.", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """Choose among recorded methods by every criterion, and report what each choice is worth on test rows.

    The paper's Table 1. Scores are means over seeds on validation rows; the choice is the largest, the first recorded
    on a tie. Test metrics are read of the choice only to report them. The ledger says which labels a criterion needs;
    the gaps say what a choice without group labels costs.

    Examples:

    - `grobust probe f.h5 --balance all --records r.jsonl`, then `grobust select r.jsonl`

    - `grobust select r.jsonl --criterion worst_class,wga --epochs each --json`
    """
    from grobust.errors import ConfigError
    from grobust.experiments.evidence_config import Epochs, SelectConfig
    from grobust.experiments.select import run_select

    if epochs not in set(Epochs):
        raise ConfigError(f"--epochs: expected last or each, got {epochs!r}.")
    report = run_select(SelectConfig(records, criteria(criterion), Epochs(epochs), command))
    if json:
        show_json(report.as_dict())
        return
    for found in report.panels:
        _show(found)


def _show(found: "PanelSelection") -> None:
    panel = found.panel
    title = (
        f"{panel.title}: chosen among {len(panel.candidates)} methods on validation, mean over {len(panel.seeds)} "
        "seed(s); test metrics in %, gaps in points"
    )
    columns = ["criterion", "choice", "labels: validation", "training", "score", "test WGA", "sd", "n",
               "95% for new seeds", "average", "gap to wga's", "gap to best"]  # fmt: skip
    show_table(title, columns, [_row(selection) for selection in found.selections], text_columns=4)
    notes = list(found.notes)
    for selection in found.selections:
        if selection.choice is None:
            notes.append(f"{selection.criterion}: {selection.reason}")
        elif selection.choice.tied:
            tied = ", ".join(selection.choice.tied)
            notes.append(f"{selection.criterion}: {selection.choice.name} is the first of a tie with {tied}")
    note(
        *notes,
        f"best on test rows is {found.best}, which no criterion can know; `grobust compare` tests differences",
    )


def _row(selection: "Selection") -> list[str]:
    if selection.choice is None:
        return [str(selection.criterion), "–", "–", "–", *["–"] * 8]
    return [
        str(selection.criterion), selection.choice.name, _labels(selection.ledger, "selection"),
        _labels(selection.ledger, "train"), number(selection.choice.score), percent(selection.mean),
        percent(selection.sd), str(len(selection.test_wga)), interval(*selection.interval), percent(selection.average),
        _gap(selection.gap_to_oracle), _gap(selection.gap_to_best),
    ]  # fmt: skip


def _gap(found: "Difference | None") -> str:
    return "–" if found is None else with_interval(found.value, found.low, found.high)


def _labels(ledger: "LabelLedger | None", which: str) -> str:
    return "–" if ledger is None else ", ".join(getattr(ledger, which)) or "none"
