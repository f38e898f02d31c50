"""`finetune`: train a backbone's whole network on a data set, balanced, with checkpoints and a curve."""

import re
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from grobust.balancing import BalancedSample, BalanceSummary, balance_summary
from grobust.data.dataset import GroupedDataset, Split
from grobust.errors import BackboneError, DataError
from grobust.finetune._accelerate import accelerator_of, finish_tracker, start_tracker
from grobust.finetune._evaluate import Part
from grobust.finetune._folder import RunIdentity, claim, describe, read_result, write_result
from grobust.finetune._job import FinetuneProgress, Job
from grobust.finetune._loop import train
from grobust.finetune._plan import plan_of
from grobust.finetune.curve import Curve, Evaluation
from grobust.finetune.schedules import learning_rate
from grobust.finetune.settings import FinetuneSettings
from grobust.models.backbone import Backbone
from grobust.models.run_files import HEAD, RunFiles
from grobust.probe import Probe
from grobust.typing import PathLike

__all__ = ["FinetuneProgress", "FinetuneResult", "finetune", "leave_processes", "run_name"]

DEFAULT_OUT = Path("runs")


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """A finished run.

    Parameters
    ----------
    path : its folder; ``run:PATH@EPOCH`` is its network as a backbone
    run : digest of all that decides it
    settings : of the run
    curve : evaluations over training; the last one is the result
    balance : rows and steps per epoch, repetition, batch shares
    epochs_kept : epochs whose network is in the folder
    device, processes : of the process that finished it
    seconds : of that process; `resumed_step` is the minibatch that it began with
    reused : whether the run had finished before
    notes : what a reader must know
    """

    path: Path
    run: str
    settings: FinetuneSettings
    curve: Curve
    balance: BalanceSummary
    epochs_kept: tuple[int, ...]
    device: str
    processes: int
    seconds: float
    resumed_step: int
    reused: bool
    notes: tuple[str, ...]

    def head(self, epoch: int | None = None) -> Probe:
        """The trained head of a kept epoch (the last by default), on the features that its backbone gives.

        Raises
        ------
        RunError
            If the epoch was not kept.
        """
        chosen = self.epochs_kept[-1] if epoch is None else epoch
        _, tensors = RunFiles(self.path).read_network(chosen)
        return Probe(tensors[f"{HEAD}weight"].double().numpy(), tensors[f"{HEAD}bias"].double().numpy())


def finetune(
    dataset: GroupedDataset,
    backbone: Backbone,
    settings: FinetuneSettings | None = None,
    *,
    out: PathLike | None = None,
    overwrite: bool = False,
    on_progress: Callable[[FinetuneProgress], None] | None = None,
) -> FinetuneResult:
    """Train the whole network with a new head on the training split, and evaluate every split as it goes.

    The backbone itself stays as it is. A run that was interrupted or killed continues from its last checkpoint, and
    one that has finished is not trained again, if data, network and settings are the same. Under ``accelerate launch``
    or ``torchrun`` all processes train together.

    Parameters
    ----------
    dataset : items of the backbone's kind, with training rows; validation and test rows are only evaluated
    backbone : on the device to train on
    settings : see `FinetuneSettings`
    out : folder of the run; None for one below ``runs/`` named after data, backbone, method and seed
    overwrite : train again in the folder of another or a finished run
    on_progress : called after every update

    Raises
    ------
    BackboneError
        If the backbone is for another kind of item.
    DataError
        If there are no training rows, fewer than two classes, or an input cannot be read.
    RunMismatchError, RunLockedError, RunCorruptError, RunError
        If the folder holds another run, is in use, or a checkpoint cannot be read or written.
    DivergedError
        If a loss is not finite.
    """
    settings = settings or FinetuneSettings()
    started = time.perf_counter()
    identity = RunIdentity.of(dataset, backbone, settings)
    files = RunFiles(Path(out) if out is not None else DEFAULT_OUT / run_name(dataset, backbone, settings))
    job, sample = _job(dataset, backbone, settings, files, identity.digest)
    device = next(iter(backbone.network.parameters())).device
    accelerator = accelerator_of(settings, device, files.root)
    main = accelerator.is_main_process
    with claim(files) if main else nullcontext():
        if main:
            if overwrite:
                _clear(files)
            describe(files, identity, backbone, dataset)
        accelerator.wait_for_everyone()
        found = read_result(files)
        result = found or _trained(job, accelerator, started, on_progress)
    groups = dataset.groups.take(job.train_rows)
    return FinetuneResult(
        path=files.root, run=identity.digest, settings=settings,
        curve=job.curve([Evaluation(**e) for e in result["evaluations"]]),
        balance=balance_summary(sample, groups, batch_size=settings.batch_size), epochs_kept=files.epochs(),
        device=result["device"], processes=result["processes"], seconds=result["seconds"],
        resumed_step=result["resumed_step"], reused=found is not None, notes=sample.notes,
    )  # fmt: skip


def leave_processes() -> None:
    """End the group of processes that trained together, if there is one, when no further run follows."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def run_name(dataset: GroupedDataset, backbone: Backbone, settings: FinetuneSettings) -> str:
    """Folder name of a run: data, network, method and seed. Other settings are not in it: they are checked instead."""
    network = re.split(r"[/:]", backbone.spec)[-1]
    method = str(settings.balance) if settings.by == "class" else f"{settings.balance}-group"
    # What stands in brackets says which rows are left.
    data = dataset.name.partition("[")[0]
    text = f"{data}-{network}-{method}-seed{settings.seed}"
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-")


def _job(
    dataset: GroupedDataset, backbone: Backbone, settings: FinetuneSettings, files: RunFiles, run: str
) -> tuple[Job, BalancedSample]:
    if dataset.kind != backbone.kind:
        raise BackboneError(f"{backbone.spec} takes {backbone.kind}s; {dataset.name} holds {dataset.kind}s.")
    rows = {split: np.flatnonzero(dataset.split == split) for split in Split}
    train_rows = rows[Split.TRAIN]
    if train_rows.size == 0:
        raise DataError(f"{dataset.name} has no training rows; finetuning needs some.")
    if dataset.groups.n_classes < 2:
        raise DataError(f"{dataset.name} has one class ({dataset.groups.class_names[0]}); training needs two.")
    sample = settings.balancer().sample(dataset.groups.take(train_rows), seed=settings.seed)
    evaluated = {"train": train_rows[sample.indices], "val": rows[Split.VAL], "test": rows[Split.TEST]}
    parts = {name: Part(r, dataset.groups.take(r)) for name, r in evaluated.items() if r.size}
    plan = plan_of(sample, settings)
    # A warm-up without end is known before anything is written.
    learning_rate(settings, 0, steps_per_epoch=plan.per_epoch, steps=plan.steps)
    return Job(dataset, backbone, settings, plan, train_rows, parts, files, run), sample


def _trained(
    job: Job, accelerator: Accelerator, started: float, on_progress: Callable[[FinetuneProgress], None] | None
) -> dict[str, Any]:
    start_tracker(accelerator, job.settings)
    curve, first = train(job, accelerator, on_progress)
    finish_tracker(accelerator)
    result = _about(curve, accelerator, first, time.perf_counter() - started)
    if accelerator.is_main_process:
        write_result(job.files, result)
    accelerator.wait_for_everyone()
    return result


def _about(curve: Curve, accelerator: Accelerator, first: int, seconds: float) -> dict[str, Any]:
    return {
        "evaluations": [asdict(e) for e in curve.evaluations],
        "interpolation_epoch": curve.interpolation_epoch,
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "seconds": round(seconds, 3),
        "resumed_step": first,
        "torch": torch.__version__,
    }


def _clear(files: RunFiles) -> None:
    """Remove what a run wrote, and nothing else."""
    for path in (files.result, files.state, files.previous_state, files.curve, files.description):
        path.unlink(missing_ok=True)
    for epoch in files.epochs():
        files.network(epoch).unlink()
    for path in files.features(0).parent.glob("epoch-*.h5*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
