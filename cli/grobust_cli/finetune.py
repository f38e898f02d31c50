"""``grobust finetune``."""

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grobust.errors import ConfigError
from grobust.finetune.choices import TRACKERS, Decay, FinetuneOptimizer
from grobust.finetune.schedules import Unit
from grobust.settings import BalanceBy, Match, Precision, Schedule, WeightNormalization
from grobust_cli._finetune_tables import curve_so_far, show_finetune
from grobust_cli._options import Device, DeviceOption, Json, Methods, columns, ints, methods
from grobust_cli._output import note, progress_bar, show_json

if TYPE_CHECKING:
    from grobust.finetune.run import FinetuneProgress

__all__ = ["finetune"]

DATA, BALANCING, TRAINING = "Data and network", "Balancing", "Training (default: the recipe's)"
KEEPING, MACHINE = "Evaluating and keeping", "Machine"
ALL = "all"


def _option(text: str, panel: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, show_default=False, **more)


def finetune(
    dataset: Annotated[str, _option("tweets, digits[:PRESET[:TASK]], waterbirds, metadata_csv, …", DATA)],
    backbone: Annotated[
        str, _option("source:name[@weights], or a name of `grobust recipes` such as convnextv2-nano.", DATA)
    ],
    data_dir: Annotated[Path | None, _option("Folder of a data set on disk.", DATA)] = None,
    column: Annotated[list[str] | None, _option("Column of metadata_csv, such as label=y; repeatable.", DATA)] = None,
    limit: Annotated[int | None, _option("Keep this many rows, with the group shares of each split.", DATA)] = None,
    limit_seed: Annotated[int, _option("Seed of --limit. Default: 1.", DATA)] = 1,
    pool: Annotated[str | None, _option("Vector that enters the head: model, gap, cls, mean, flatten.", DATA)] = None,
    image_size: Annotated[int | None, _option("Input pixels.", DATA)] = None,
    max_tokens: Annotated[int | None, _option("Longest text in tokens.", DATA)] = None,
    balance: Methods = "none",
    seeds: Annotated[
        str, typer.Option("--seeds", "--seed", help="One run per method and seed: 1, or 1,2,3, or 1..5.")
    ] = "1",
    by: Annotated[BalanceBy | None, _option("What is balanced. Default: class.", BALANCING)] = None,
    ratio: Annotated[float | None, _option("Mixture ratio r. Default: the recipe's.", BALANCING)] = None,
    sampler: Annotated[
        bool | None,
        typer.Option(
            "--sampler/--no-sampler",
            help="Mixture: draw classes evenly, or every kept row once an epoch.",
            show_default=False,
            rich_help_panel=BALANCING,
        ),
    ] = None,
    normalize: Annotated[
        WeightNormalization | None,
        _option("Divide upweighted losses by the batch's weights, or by nothing.", BALANCING),
    ] = None,
    match: Annotated[
        Match | None, _option("Equal epochs of each method's own rows, or equal steps.", BALANCING)
    ] = None,
    epochs: Annotated[int | None, _option("Passes over the rows.", TRAINING)] = None,
    max_steps: Annotated[int | None, _option("Stop after so many minibatches.", TRAINING)] = None,
    lr: Annotated[float | None, _option("Largest learning rate.", TRAINING)] = None,
    weight_decay: Annotated[float | None, _option("Weight decay.", TRAINING)] = None,
    decay: Annotated[Decay | None, _option("On all parameters, or not on biases and norms.", TRAINING)] = None,
    batch_size: Annotated[int | None, _option("Rows of an update, over all processes together.", TRAINING)] = None,
    accumulate: Annotated[
        int | None, _option("Pieces of a batch, one after the other, to save memory.", TRAINING)
    ] = None,
    optimizer: Annotated[FinetuneOptimizer | None, _option("Update.", TRAINING)] = None,
    momentum: Annotated[float | None, _option("Of SGD.", TRAINING)] = None,
    schedule: Annotated[Schedule | None, _option("Of the learning rate.", TRAINING)] = None,
    schedule_by: Annotated[Unit | None, _option("The rate changes with every epoch, or step.", TRAINING)] = None,
    warmup: Annotated[int | None, _option("Epochs or steps of rising rate.", TRAINING)] = None,
    step_size: Annotated[int | None, _option("Of the step schedule: epochs or steps.", TRAINING)] = None,
    gamma: Annotated[float | None, _option("Of the step schedule: factor.", TRAINING)] = None,
    label_smoothing: Annotated[float | None, _option("Share of the target spread evenly.", TRAINING)] = None,
    clip_norm: Annotated[float | None, _option("Longest gradient of an update.", TRAINING)] = None,
    head_dropout: Annotated[float | None, _option("Before the head.", TRAINING)] = None,
    augment: Annotated[bool | None, _option("Random crops and flips of training images.", TRAINING)] = None,
    eval_every: Annotated[int | None, _option("Epochs between evaluations. Default: the recipe's.", KEEPING)] = None,
    eval_batch_size: Annotated[
        int | None, _option("Rows of an evaluation's forward pass. Default: 64.", KEEPING)
    ] = None,
    keep: Annotated[
        str | None, _option("Networks kept, of the latest evaluations: a number, or all. Default: 1.", KEEPING)
    ] = None,
    state_every: Annotated[
        int | None, _option("Steps between checkpoints to continue from, beside every epoch's.", KEEPING)
    ] = None,
    extract_every: Annotated[int | None, _option("Epochs between feature stores of all splits.", KEEPING)] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs' folders.", rich_help_panel=KEEPING)] = Path("runs"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Train finished runs again.", rich_help_panel=KEEPING)
    ] = False,
    records: Annotated[Path | None, _option("File of records. Default: records.jsonl in --out.", KEEPING)] = None,
    figures: Annotated[Path | None, _option("Folder for figures and their numbers.", KEEPING)] = None,
    tracker: Annotated[str | None, _option(f"Also log to {', '.join(TRACKERS)}.", KEEPING)] = None,
    device: DeviceOption = Device.AUTO,
    precision: Annotated[Precision | None, _option("float32, or mixed precision.", MACHINE)] = None,
    processes: Annotated[
        int, typer.Option(help="Train with so many processes of this machine.", rich_help_panel=MACHINE)
    ] = 1,
    workers: Annotated[
        int | None, _option("Loader processes; 0 loads beside the network. Default: 0.", MACHINE)
    ] = None,
    channels_last: Annotated[bool | None, _option("Memory layout of images. Default: yes.", MACHINE)] = None,
    compile_: Annotated[bool | None, _option("torch.compile the network.", MACHINE, "--compile/--no-compile")] = None,
    json: Json = False,
) -> None:
    """Finetune a whole network with every balancing method and seed, and follow every group over training.

    Settings are those of the recipe for data set and backbone (`grobust recipes`) unless given. Training, validation
    and test split are evaluated as it goes; the last epoch is the result, and test rows choose nothing. A run that was
    stopped or killed continues from its last checkpoint when the same command is given again, and ends in the same
    weights; one that has finished is not trained again. The network of a kept epoch is a backbone for every other
    command: `run:FOLDER@EPOCH`.

    Examples:

    - `grobust finetune --dataset digits --backbone timm:test_resnet@random --image-size 32 --balance all --seeds 1..3`

    - `grobust finetune --dataset waterbirds --data-dir D --backbone convnextv2-nano --balance mixture --seed 1
      --keep all`

    - `grobust extract --dataset waterbirds --data-dir D --backbone run:runs/RUN@20 --out finetuned.h5`

    - `accelerate launch -m grobust_cli finetune --dataset celeba --data-dir D --backbone resnet-50
      --precision bfloat16`
    """
    given: dict[str, Any] = {
        name: value
        for name, value in {
            "by": by, "ratio": ratio, "sampler": sampler, "normalize": normalize, "match": match, "epochs": epochs,
            "max_steps": max_steps,
            "lr": lr, "weight_decay": weight_decay, "decay": decay, "batch_size": batch_size, "accumulate": accumulate,
            "optimizer": optimizer, "momentum": momentum, "schedule": schedule, "schedule_by": schedule_by,
            "warmup": warmup, "step_size": step_size, "gamma": gamma, "label_smoothing": label_smoothing,
            "clip_norm": clip_norm, "head_dropout": head_dropout, "augment": augment, "eval_every": eval_every,
            "eval_batch_size": eval_batch_size, "state_every": state_every, "extract_every": extract_every,
            "tracker": tracker, "precision": precision, "workers": workers, "channels_last": channels_last,
            "compile": compile_,
        }.items()
        if value is not None
    }  # fmt: skip
    if keep is not None:
        given["keep"] = None if keep.strip() == ALL else _count(keep)
    from grobust.finetune.launch import is_main_process, launch, launched

    if processes != 1 and not launched():
        raise typer.Exit(launch([sys.executable, "-m", "grobust_cli", *sys.argv[1:]], processes))
    from grobust.experiments.extract import torch_device
    from grobust.experiments.finetune import run_finetune
    from grobust.experiments.finetune_config import FinetuneConfig
    from grobust.finetune.run import leave_processes

    config = FinetuneConfig(
        dataset=dataset, backbone=backbone, out=out, data_dir=data_dir, columns=columns(column), pool=pool,
        image_size=image_size, max_tokens=max_tokens, limit=limit, limit_seed=limit_seed, balance=methods(balance),
        seeds=ints(seeds, "--seeds"), values=given, overwrite=overwrite, device=torch_device(device),
        records=records or out / "records.jsonl", figures=figures,
    )  # fmt: skip
    main = is_main_process()
    bar: AbstractContextManager[Callable[[int, int, str], None]] = (
        progress_bar(f"finetune {dataset}") if main else nullcontext(lambda done, total, text: None)
    )
    with bar as advance:

        def told(name: str, number: int, runs: int, at: "FinetuneProgress") -> None:
            which = f"run {number}/{runs} " if runs > 1 else ""
            advance(at.step, at.steps, f"{which}epoch {at.epoch}/{at.epochs} {at.rate:.1f} steps/s{curve_so_far(at)}")

        report = run_finetune(config, on_progress=told if main else None)
    leave_processes()
    if not main:
        return
    if json:
        show_json(report.as_dict())
        return
    show_finetune(report)
    note(f"device {report.device}; records in {config.records}")
    if report.figures:
        note(f"figures, and their numbers as CSV: {', '.join(report.figures)}")


def _count(text: str) -> int:
    if not text.strip().isdecimal():
        raise ConfigError(f"--keep expects a number or {ALL!r}, got {text!r}.")
    return int(text)
