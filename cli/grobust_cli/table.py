"""``grobust table``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grobust.report.choices import BestIn, TableFormat
from grobust_cli._options import Json, RecordFiles, Where
from grobust_cli._output import note, show_json, show_table, show_text

if TYPE_CHECKING:
    from grobust.experiments.table import TableReport

__all__ = ["table"]


def table(
    records: RecordFiles,
    rows: Annotated[str, typer.Option(help="Field whose values are the rows.")] = "method",
    columns: Annotated[str, typer.Option(help="Field whose values are the columns.")] = "dataset",
    value: Annotated[str, typer.Option(help="Number in the cells, such as `test.average` or `val.wga`.")] = "test.wga",
    where: Where = None,
    form: Annotated[TableFormat, typer.Option("--format", help="How the table is printed.")] = TableFormat.TERMINAL,
    out: Annotated[
        Path | None, typer.Option(help="Also write it to a file: .md, .tex or .csv.", show_default=False)
    ] = None,
    best: Annotated[
        BestIn, typer.Option(help="Where one cell may be best; bold only if its interval allows.")
    ] = BestIn.COLUMN,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="The smallest mean is best: for losses and gaps.")
    ] = False,
    ddof: Annotated[int, typer.Option(help="The sd divides by n - ddof: 0 as in the paper, or 1.")] = 0,
    json: Json = False,
) -> None:
    """Any number in the records by any two of their fields: mean ± sd over runs, with n.

    A field is a path with dots: `method`, `dataset`, `seed`, `l2`, `ratio`, `backbone`, `test.wga`, `val.average`,
    `test.groups.positive / negation`, `balance.steps_per_epoch`; a wrong one names the nearest. A run that was recorded
    twice counts once.

    Examples:

    - `grobust table records.jsonl`

    - `grobust table records.jsonl --rows method --columns ratio --value test.wga --where dataset=waterbirds`

    - `grobust table runs/ other/records.jsonl --rows backbone --columns method --format latex --out table.tex`
    """
    from grobust.experiments.report_config import TableConfig
    from grobust.experiments.table import run_table

    report = run_table(
        TableConfig(
            records=tuple(records), rows=rows, columns=columns, value=value, where=tuple(where or ()), ddof=ddof,
            best_in=best, lower_is_better=lower_is_better, out=out,
        )
    )  # fmt: skip
    if json:
        show_json(report.as_dict())
        return
    if form is TableFormat.TERMINAL:
        _show(report)
    else:
        show_text(report.text(form))
    notes = report.table.notes if form is TableFormat.TERMINAL else ()
    note(*notes, *report.notes, *([f"table written to {out}"] if out else []))


def _show(report: "TableReport") -> None:
    found = report.table
    lines = [
        [name, *(found.text(cell) for cell in cells)] for name, cells in zip(found.row_names, found.cells, strict=True)
    ]
    best = [[False, *(cell is not None and cell.is_best for cell in cells)] for cells in found.cells]
    show_table(found.title, [found.rows, *found.column_names], lines, bold=best)
