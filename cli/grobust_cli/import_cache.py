"""``grobust import``."""

from pathlib import Path
from typing import Annotated

import typer

from grobust_cli._options import Json, pairs
from grobust_cli._output import note, progress_bar, show_json

__all__ = ["import_cache"]

FORMATS = "dfr, spurious_feature_learning, clip_benchmark, afr, thingsvision, arrays (named by --key), or auto"


def import_cache(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Files of one cache, or folders: npz, npy, pt, h5, safetensors.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Feature store to write.", show_default=False)],
    format_: Annotated[str, typer.Option("--format", help=f"Who wrote it: {FORMATS}.")] = "auto",
    key: Annotated[
        list[str] | None,
        typer.Option(
            help="Array that holds features, labels, attributes, groups or split, such as features=X; repeatable.",
            show_default=False,
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Table with labels, attributes or splits of the rows.", show_default=False)
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of --csv: label=, attribute=, split=, id= (names of rows); also class_names=A,B. Repeatable.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Split of rows of which nobody says it: train, val or test.", show_default=False)
    ] = None,
    rename_split: Annotated[
        list[str] | None,
        typer.Option(
            help="Call a split otherwise, such as val=train (DFR fits on validation); repeatable.", show_default=False
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the data set. Default: of the first file.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="What made the features, as far as you know; recorded as your words.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Stored features: float32, float16, or auto.")] = "auto",
    flatten: Annotated[bool, typer.Option(help="Make one vector of each row of (n, c, h, w).")] = False,
    on_error: Annotated[str, typer.Option(help="Rows that are not finite: stop, or skip and list them.")] = "stop",
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run.")] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace a finished store.")] = False,
    json: Json = False,
) -> None:
    """Make a feature store of a cache that other software wrote; then `probe`, `spectrum` and `verify` work on it.

    Nothing is unpickled: arrays of Python objects are refused, with what to do instead. The store says that it was
    imported, and from which bytes; what the cache does not say stays unknown. Labels, attributes and splits come from
    the cache or from a CSV; where both have labels, they must agree.

    Examples:

    - `grobust import dfr_test.npz --out wb.h5 --rename-split val=train`

    - `grobust import features/ViT-B-32-openai --out vit.h5 --csv metadata.csv --column attribute=place`

    - `grobust import features.npy --out tv.h5 --csv birds.csv --column label=y --column attribute=place
      --column id=img_filename`

    - `grobust import mine.npz --key features=X --key labels=y --key groups=g --key split=s --out mine.h5`
    """
    from grobust.experiments.importing import ImportConfig, run_import

    config = ImportConfig(
        paths=tuple(paths),
        out=out,
        format=format_,
        keys=pairs(key or [], "--key", "features=X"),
        csv=csv,
        columns=pairs(column or [], "--column", "label=y"),
        split=split,
        rename_split=pairs(rename_split or [], "--rename-split", "val=train"),
        name=name,
        backbone=backbone,
        dtype=dtype,
        flatten=flatten,
        on_error=on_error,
        resume=resume,
        overwrite=overwrite,
    )
    with progress_bar("import") as advance:
        report = run_import(config, on_progress=lambda done, total: advance(done, total, "rows"))
    result = report.result
    if json:
        show_json(report.as_dict())
        return
    note(*result.notes, *(f"skipped {sample}: {reason}" for sample, reason in result.skipped))
    if result.reused:
        note(f"{out} was there already, imported from the same files: {result.n} rows, nothing to do")
    else:
        note(
            f"{out}: {result.n} rows of {result.dim} features, layout {result.layout}, from {len(result.files)} file(s)"
        )
