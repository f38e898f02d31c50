"""``grobust data``: commands about data sets on disk."""

from pathlib import Path
from typing import Annotated

import typer

from grobust_cli._data_tables import show_description, show_verification
from grobust_cli._options import Columns, DataDir, Json, columns
from grobust_cli._output import progress_bar, show_json

__all__ = ["app", "describe", "verify"]

MISMATCH = 1

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")

Name = Annotated[
    str,
    typer.Argument(
        help="waterbirds, celeba, civilcomments[-wilds], multinli, metadata_csv, arrow, image_folder, webdataset, "
        "tweets or digits[:PRESET[:TASK]].",
        show_default=False,
    ),
]


@app.callback()
def data() -> None:
    """Data sets on disk: check them against what was published, and see their groups."""


@app.command()
def verify(
    name: Name,
    data_dir: DataDir = None,
    column: Columns = None,
    quick: Annotated[bool, typer.Option("--quick", help="Only look for files, do not read them.")] = False,
    json: Json = False,
) -> None:
    """Compare a data set with what was published of it, and read every item.

    Shows rows per split and group beside the published ones, files that are missing or cannot be read, contents that
    stand in several splits, and the digest of the manifest. Exit code 0 if counts agree and all items are readable, 1
    if not, 2 if the tables cannot be read.

    Examples:

    - `grobust data verify waterbirds --data-dir waterbird_complete95_forest2water2`

    - `grobust data verify celeba --data-dir celeba --quick`
    """
    from grobust.experiments.verify_data import VerifyConfig, run_verify_data

    config = VerifyConfig(dataset=name, data_dir=data_dir, columns=columns(column), decode=not quick)
    with progress_bar(f"verify {name}") as advance:
        report = run_verify_data(config, on_progress=lambda done, total: advance(done, total, ""))
    if json:
        show_json(report.as_dict())
    else:
        show_verification(report)
    if not report.ok:
        raise typer.Exit(MISMATCH)


@app.command()
def describe(
    name: Name,
    data_dir: DataDir = None,
    column: Columns = None,
    split: Annotated[
        str | None,
        typer.Option(help="Split anew: half[:SEED], fraction:70/10/20[:SEED] or content:70/10/20[:SEED]."),
    ] = None,
    samples: Annotated[
        int, typer.Option(help="Items shown per group; texts in the terminal, images with --sheet.")
    ] = 2,
    sheet: Annotated[Path | None, typer.Option(help="PNG to draw images of every group on.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the items shown.")] = 1,
    json: Json = False,
) -> None:
    """Groups with their shares, imbalance, minority groups, and how strongly label and attribute go together.

    Mutual information (in bits) and Cramér's V come with 95% intervals: percentiles of a multinomial bootstrap, whose
    lower end is 0 where the chi-squared test does not reject independence.

    Examples:

    - `grobust data describe tweets`

    - `grobust data describe waterbirds --data-dir birds --samples 6 --sheet groups.png`

    - `grobust data describe metadata_csv --data-dir mine --column label=kind --column attribute=place --json`
    """
    from grobust.experiments.describe import DescribeConfig, run_describe

    config = DescribeConfig(
        dataset=name, data_dir=data_dir, columns=columns(column), split=split, samples=samples, sheet=sheet, seed=seed
    )
    with progress_bar(f"describe {name}") as advance:
        report = run_describe(config, on_progress=lambda done, total: advance(done, total, ""))
    if json:
        show_json(report.as_dict())
    else:
        show_description(report)
