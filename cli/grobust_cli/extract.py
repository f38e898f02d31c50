"""``grobust extract``."""

from pathlib import Path
from typing import Annotated

import typer

from grobust_cli._options import Columns, DataDir, Device, DeviceOption, Json, columns
from grobust_cli._output import note, progress_bar, show_json, show_text

__all__ = ["extract"]


def extract(
    dataset: Annotated[
        str,
        typer.Option(
            help="tweets, digits[:PRESET[:TASK]], waterbirds, celeba, civilcomments[-wilds], multinli, metadata_csv, "
            "arrow, image_folder or webdataset.",
            show_default=False,
        ),
    ],
    backbone: Annotated[
        str,
        typer.Option(
            help="source:name[@weights]; sources: timm, transformers, open_clip, torchvision, packaged, run.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Feature store to write. Default: a name made of data set, backbone and every setting in the cache "
            "folder ($GROBUST_CACHE, else ~/.cache/grobust), printed on stdout; the same request finds it again.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    column: Columns = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Split anew: half[:SEED] (the paper's held-out half), fraction:70/10/20[:SEED] (within every group) "
            "or content:70/10/20[:SEED] (equal items stay together)."
        ),
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="model, gap, cls, mean or flatten. Default: the network's own.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Input pixels. Default: the network's own.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest text in tokens. Default: 220.")] = None,
    limit: Annotated[int | None, typer.Option(help="Keep this many rows, with the group shares of each split.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of --limit.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Rows per forward pass; halved when memory runs out.")] = 64,
    precision: Annotated[str, typer.Option(help="float32, or mixed precision in bfloat16 or float16.")] = "float32",
    dtype: Annotated[str, typer.Option(help="Stored features: float32 or float16.")] = "float32",
    workers: Annotated[int, typer.Option(help="Loader processes; 0 loads in a thread beside the network.")] = 0,
    on_error: Annotated[str, typer.Option(help="Inputs that cannot be read: stop, or skip and list them.")] = "stop",
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run.")] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace a finished store.")] = False,
    device: DeviceOption = Device.AUTO,
    json: Json = False,
) -> None:
    """Run a backbone over a data set once and store its features.

    An interrupted run keeps what is done; the same command continues it. A finished store made with the same settings
    is left as it is, and one made with others is never reused.

    Examples:

    - `grobust extract --dataset digits --backbone packaged:efficientnet_lite0 --out f.h5`

    - `grobust probe $(grobust extract --dataset digits --backbone packaged:efficientnet_lite0)`: extracted once,
      found again in the cache

    - `grobust extract --dataset metadata_csv --data-dir birds --column label=species --column attribute=place
      --backbone timm:convnextv2_nano.fcmae_ft_in1k --out birds.h5`

    - `grobust extract --dataset waterbirds --data-dir birds --split half:1 --backbone timm:resnet50.tv_in1k
      --out half1.h5`: what `probe` then does on it is the paper's last-layer retraining
    """
    from grobust.experiments.config import ExtractConfig
    from grobust.experiments.extract import run_extract, torch_device

    config = ExtractConfig(
        dataset=dataset,
        backbone=backbone,
        out=out,
        data_dir=data_dir,
        columns=columns(column),
        split=split,
        pool=pool,
        image_size=image_size,
        max_tokens=max_tokens,
        limit=limit,
        seed=seed,
        device=torch_device(device),
        batch_size=batch_size,
        precision=precision,
        dtype=dtype,
        workers=workers,
        on_error=on_error,
        resume=resume,
        overwrite=overwrite,
    )
    with progress_bar(f"extract {dataset}") as advance:
        report = run_extract(config, on_progress=lambda p: advance(p.done, p.total, f"{p.rate:.0f} rows/s"))
    result = report.result
    if json:
        show_json(report.as_dict())
        return
    note(*result.notes, *(f"skipped {name}: {reason}" for name, reason in result.skipped))
    if result.reused:
        note(f"{result.path} was there already, made with the same settings: {result.n} rows, nothing to do")
    else:
        note(
            f"{result.path}: {result.n} rows ({result.n_resumed} from an earlier run), {result.seconds:.1f} s, "
            f"{result.rows_per_second:.1f} rows/s on {report.device}"
        )
    if out is None:
        show_text(f"{result.path}\n")
