"""``grobust report``."""

from pathlib import Path
from typing import Annotated

import typer

from grobust.report.choices import Projection
from grobust_cli._options import Json, RecordFiles, Where, columns
from grobust_cli._output import note, progress_bar, show_json

__all__ = ["report"]

FEATURES, ITEMS = "Features and mistakes", "Texts and images of mistakes"


def report(
    records: RecordFiles,
    out: Annotated[Path, typer.Option(help="The page, .html.")] = Path("report.html"),
    store: Annotated[
        list[Path] | None,
        typer.Option(
            help="Feature store to draw, or a folder of some. Repeatable.", show_default=False, rich_help_panel=FEATURES
        ),
    ] = None,
    heads: Annotated[
        list[Path] | None,
        typer.Option(
            help="Heads that `grobust probe --save` wrote: shows mistakes. Repeatable.",
            show_default=False,
            rich_help_panel=FEATURES,
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            help="Name or number of the head. Default: the recommended method's first.",
            show_default=False,
            rich_help_panel=FEATURES,
        ),
    ] = None,
    projection: Annotated[
        Projection, typer.Option(help="`umap` needs the extra `report`.", rich_help_panel=FEATURES)
    ] = Projection.PCA,
    points: Annotated[int, typer.Option(help="Rows drawn per store at most.", rich_help_panel=FEATURES)] = 50_000,
    examples: Annotated[int, typer.Option(help="Mistakes shown.", rich_help_panel=FEATURES)] = 12,
    seed: Annotated[int, typer.Option(help="Of the rows drawn, and of UMAP.", rich_help_panel=FEATURES)] = 1,
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="Data set of the stores: `tweets`, `digits`, … Repeatable.", show_default=False, rich_help_panel=ITEMS
        ),
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Its folder.", show_default=False, rich_help_panel=ITEMS)
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="Of metadata_csv: `label=y`. Repeatable.", show_default=False, rich_help_panel=ITEMS),
    ] = None,
    diagnosis: Annotated[
        Path | None, typer.Option(help="What `grobust diagnose --json` printed.", show_default=False)
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page.", show_default=False)] = None,
    where: Where = None,
    json: Json = False,
) -> None:
    """One self-contained page from records: opens offline, in light and dark, by mouse and by keyboard, on paper.

    Summary and recommendation, methods with intervals, curves over training, every group, spectra and ρ(y) on its null;
    with --store the features in two dimensions; with --heads the worst group's most confident mistakes; with --dataset
    their texts or images. The folder of a sweep brings its own stores and heads.

    Examples:

    - `grobust report grobust-demo`

    - `grobust report sweeps/quick --dataset tweets --dataset digits:celeba-even`

    - `grobust report records.jsonl --store f.h5 --heads heads.safetensors --dataset tweets --out tweets.html`

    - `grobust report runs/ --where dataset=waterbirds --title "Waterbirds, three backbones"`
    """  # fmt: skip
    from grobust.experiments.report import run_report
    from grobust.experiments.report_config import ReportConfig

    config = ReportConfig(
        records=tuple(records), out=out, stores=tuple(store or ()), heads=tuple(heads or ()), head=head,
        datasets=tuple(dataset or ()), data_dir=data_dir, columns=columns(column or []),
        diagnosis=diagnosis, where=tuple(where or ()), title=title, projection=projection,
        points=points, examples=examples, seed=seed,
    )  # fmt: skip
    with progress_bar("report") as advance:
        found = run_report(config, on_progress=advance)
    if json:
        show_json(found.as_dict())
        return
    for card in found.content.summaries:
        note(f"{card.title}: {card.figure}, {card.figure_of}. {' '.join(card.sentences)}")
    note(*found.notes, f"page of {found.runs} runs, {found.n_bytes / 1e6:.1f} MB, written to {out}")
