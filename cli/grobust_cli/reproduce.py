"""``grobust reproduce``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grobust.errors import ConfigError
from grobust_cli._options import Json
from grobust_cli._output import note, number, show_json, show_table

if TYPE_CHECKING:
    from grobust.experiments.reproduce.compare import Row

__all__ = ["reproduce"]

NOT_REPRODUCED = 1


def reproduce(
    target: Annotated[
        str | None,
        typer.Argument(help="Figure or table, such as `rho`; those that there are without it.", show_default=False),
    ] = None,
    records: Annotated[
        list[Path] | None,
        typer.Option(
            help="File of records, or a sweep's folder; repeatable. Default: all in sweeps/.", show_default=False
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of a data set, for `composition`; repeatable.", metavar="NAME=DIR", show_default=False
        ),
    ] = None,
    json: Json = False,
) -> None:
    """The paper's figures and tables: what your records say beside what the authors report, with the source of each.

    A mean over seeds agrees when it is within the tolerance of the published one. What is missing is said, with the
    sweep that makes it. Exit code 1 says that a number is missing or differs.

    Examples:

    - `grobust reproduce`

    - `grobust reproduce mixture --records sweeps/paper-waterbirds`

    - `grobust reproduce composition --data waterbirds=D`
    """
    from grobust.experiments.reproduce.published import published_targets
    from grobust.experiments.reproduce.run import ReproduceConfig, run_reproduce

    if target is None:
        found = published_targets()
        if json:
            show_json({"targets": [{"name": t.name, "paper": t.paper, "content": t.content} for t in found]})
            return
        show_table(
            "figures and tables",
            ["name", "paper", "shows"],
            [[t.name, t.paper, t.content] for t in found],
            text_columns=3,
        )
        return
    report = run_reproduce(ReproduceConfig(target, tuple(records or ()), _folders(data or [])))
    if json:
        show_json(report.as_dict())
    else:
        columns = ["of", "quantity", "got", "95% interval", "n", "published", "±", "tolerance", ""]
        title = f"{report.target.name} ({report.target.paper}): {report.target.content}"
        show_table(title, columns, [_cells(row) for row in report.rows], text_columns=2)
        note(f"to expect: {report.target.shape}")
        note(*dict.fromkeys(f"{row.of}: {row.note}" for row in report.rows if row.note))
        note(*(f"source: {source}" for source in dict.fromkeys(row.source for row in report.rows if row.source)))
        note(", ".join(f"{count} {what}" for what, count in report.counts.items()) or "nothing to show")
    if not report.reproduced:
        raise typer.Exit(NOT_REPRODUCED)


def _cells(row: "Row") -> list[str]:
    def text(value: float | str | None) -> str:
        return value if isinstance(value, str) else number(value)

    between = "–" if row.low is None else f"{number(row.low)} to {number(row.high)}"
    return [row.of, row.what, text(row.got), between, str(row.n), text(row.expected), number(row.expected_sd),
            number(row.tolerance), str(row.agreement)]  # fmt: skip


def _folders(options: list[str]) -> dict[str, Path]:
    found = {}
    for option in options:
        name, equals, folder = option.partition("=")
        if not (equals and name and folder):
            raise ConfigError(f"--data expects NAME=DIR, such as waterbirds=birds; got {option!r}.")
        found[name] = Path(folder)
    return found
