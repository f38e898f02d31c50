"""``grobust extract``."""

from pathlib import Path
from typing import Annotated

import typer

from grobust.errors import ConfigError
from grobust_cli._extract_tables import show_profile
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
        list[str] | None,
        typer.Option(
            help="model, gap, cls, mean or flatten. Repeatable: all in one pass, into NAME.gap.h5 and so on. Default: "
            "the network's own.",
            show_default=False,
        ),
    ] = None,
    layer: Annotated[
        list[str] | None,
        typer.Option(
            help="Module inside the network, such as layer3, blocks.8 or encoder.layer.5, instead of the last layer. "
            "Repeatable: all in one pass, into NAME.layer3.gap.h5 and so on.",
            show_default=False,
        ),
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            help="plain; mirror, the mirror image; five-crop, the mean of the features of the four corners and the "
            "centre of the resized image; ten-crop, of these and their mirror images. Repeatable, in one pass, into "
            "NAME.gap.mirror.h5 and so on. An image is decoded once, and goes through the network for each crop.",
            show_default=False,
        ),
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Input pixels. Default: the network's own.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest text in tokens. Default: 220.")] = None,
    limit: Annotated[int | None, typer.Option(help="Keep this many rows, with the group shares of each split.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of --limit.")] = 1,
    batch_size: Annotated[
        str,
        typer.Option(
            help="Rows per forward pass; halved when memory runs out. `auto` tries what is fastest, with --devices or "
            "--engine ray the smallest of what each finds (a run that continues keeps its size).",
            metavar="N|auto",
        ),
    ] = "64",
    precision: Annotated[str, typer.Option(help="float32, or mixed precision in bfloat16 or float16.")] = "float32",
    dtype: Annotated[str, typer.Option(help="Stored features: float32 or float16.")] = "float32",
    workers: Annotated[
        int,
        typer.Option(
            help="Loader processes. 0 loads in a thread beside a GPU, and on a CPU in turn with the network; where "
            "files come slowly, 1 or more load beside it."
        ),
    ] = 0,
    fast_decode: Annotated[
        bool,
        typer.Option(
            "--fast-decode", help="Read JPEG files at 1/2, 1/4 or 1/8 where that is enough; changes pixels slightly."
        ),
    ] = False,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile the network first (torch.compile); changes last bits.")
    ] = False,
    channels_last: Annotated[
        bool,
        typer.Option(
            "--channels-last/--no-channels-last",
            help="Memory layout of images and convolutions: the channels of a pixel side by side, as most networks are "
            "fastest with, or one channel after the other; changes last bits.",
        ),
    ] = True,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Print where the time went and what to change; waits for the GPU. Of several processes, added up.",
        ),
    ] = False,
    on_error: Annotated[str, typer.Option(help="Inputs that cannot be read: stop, or skip and list them.")] = "stop",
    resume: Annotated[bool, typer.Option(help="Continue an interrupted run.")] = True,
    overwrite: Annotated[bool, typer.Option(help="Replace a finished store.")] = False,
    device: DeviceOption = Device.AUTO,
    devices: Annotated[
        str | None,
        typer.Option(
            help="One process for each: GPUs as 0,1,2,3 or `all`, or cpu,cpu. Parts come from one queue; the store is "
            "that of one process.",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[str, typer.Option(help="`local` (this machine) or `ray` (a cluster; extra `ray`).")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to use, such as `auto`. Default: one of its own.", show_default=False),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(help="Ray actors. Default: one per GPU, or per core but one.", show_default=False),
    ] = None,
    actor_cpus: Annotated[int, typer.Option(help="Cores that a Ray actor asks for.")] = 1,
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

    - `grobust extract --dataset digits --backbone timm:vit_base_patch16_224.augreg_in21k --pool gap --pool cls
      --profile --out f.h5`: f.gap.h5 and f.cls.h5 in one pass, and where its time went

    - `grobust extract --dataset digits --backbone torchvision:resnet50 --view plain --view ten-crop --out f.h5`: the
      centre of an image, and the mean over ten crops of it

    - `grobust extract --dataset celeba --data-dir D --backbone timm:resnet50.tv_in1k --devices 0,1,2,3 --out f.h5`

    - `grobust extract --dataset celeba --data-dir s3://bucket/celeba --backbone timm:resnet50.tv_in1k
      --engine ray --address auto --out /shared/f.h5`: machines that all see the folder of `--out`
    """
    from grobust.experiments.config import ExtractConfig
    from grobust.experiments.crew_config import CrewConfig
    from grobust.experiments.extract import run_extract, torch_device

    crew = CrewConfig.of(devices, engine=engine, address=address, actors=actors, actor_cpus=actor_cpus)
    if devices is not None and device is not Device.AUTO:
        raise ConfigError("--device and --devices exclude each other; give --devices alone.")
    config = ExtractConfig(
        dataset=dataset,
        backbone=backbone,
        out=out,
        data_dir=data_dir,
        columns=columns(column),
        split=split,
        pools=tuple(pool or ()),
        layers=tuple(layer or ()),
        views=tuple(view or ()),
        image_size=image_size,
        max_tokens=max_tokens,
        limit=limit,
        seed=seed,
        # What there is on other machines, these know.
        device=str(device) if crew.several else torch_device(device),
        batch_size=_rows(batch_size),
        precision=precision,
        dtype=dtype,
        workers=workers,
        on_error=on_error,
        resume=resume,
        overwrite=overwrite,
        crew=crew,
        fast_decode=fast_decode,
        compile=compile_,
        channels_last=channels_last,
        profile=profile,
    )
    with progress_bar(f"extract {dataset}") as advance:
        report = run_extract(config, on_progress=lambda p: advance(p.done, p.total, f"{p.rate:.0f} rows/s"))
    if json:
        show_json(report.as_dict())
        return
    told = [text for result in report.results for text in result.notes]
    skipped = [f"skipped {name}: {reason}" for result in report.results for name, reason in result.skipped]
    note(*dict.fromkeys((*told, *skipped)))
    for result in report.results:
        if result.reused:
            note(f"{result.path} was there already, made with the same settings: {result.n} rows, nothing to do")
        else:
            note(
                f"{result.path}: {result.n} rows ({result.n_resumed} from an earlier run), {result.seconds:.1f} s, "
                f"{result.rows_per_second:.1f} rows/s on {report.device}"
            )
    if profile:
        made = [result.profile for result in report.results if result.profile is not None]
        if made:
            show_profile(made[0])
        else:
            note("nothing ran, so there is no profile")
    if out is None:
        show_text("".join(f"{result.path}\n" for result in report.results))


def _rows(text: str) -> int | None:
    """``auto`` as None, or a number."""
    if text.strip() == "auto":
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"--batch-size: expected a number or `auto`, got {text!r}.") from None
