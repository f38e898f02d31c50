"""The training loop.

A minibatch is a function of (settings, step), and so are dropout and augmentation: a run that was killed continues
from its last checkpoint as if nothing had happened. The loss of a minibatch B is Σ w_i ℓ_i / Σ w_i, or over |B|, as
`grobust.balancing` says; cut into pieces or shared out among processes it is the same sum.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from grobust.errors import RunError
from grobust.features._batches import Batch
from grobust.features.extract import ExtractSettings, extract_features
from grobust.finetune._accelerate import log
from grobust.finetune._checkpoint import load_state, save_network, save_state
from grobust.finetune._evaluate import evaluate, on_device
from grobust.finetune._folder import append_curve, write_curve
from grobust.finetune._job import FinetuneProgress, Job, backbone_at, diverged, shown_metrics
from grobust.finetune._load import TrainingInputs
from grobust.finetune._model import (
    AUGMENT_STREAM,
    STEP_STREAM,
    Classifier,
    build_optimizer,
    derived_seed,
    freeze_unread,
)
from grobust.finetune._plan import Shares
from grobust.finetune.curve import Curve, Evaluation
from grobust.finetune.schedules import learning_rate
from grobust.interrupts import interrupts

__all__ = ["train"]

# Each look at the losses waits for the GPU, and for the other processes.
LOOK_EVERY = 16


def train(
    job: Job, accelerator: Accelerator, on_progress: Callable[[FinetuneProgress], None] | None = None
) -> tuple[Curve, int]:
    """Train from the last checkpoint to the end; the curve, and the step at which this process began.

    Raises
    ------
    DivergedError
        If a loss is not finite.
    DataError
        If an input cannot be read.
    RunError
        If a checkpoint cannot be read or written.
    """
    devices = [accelerator.device] if accelerator.device.type == "cuda" else []
    with interrupts() as interrupted, torch.random.fork_rng(devices=devices):
        training = _Training(job, accelerator)
        first, started = training.state.step, time.perf_counter()
        with closing(training.load()) as loaded:
            for step in range(first, job.plan.steps):
                training.update(step, loaded)
                training.after(step + 1)
                if on_progress is not None:
                    epoch = math.ceil((step + 1) / job.plan.per_epoch)
                    rate = (step + 1 - first) / (time.perf_counter() - started)
                    curve = job.curve(training.state.evaluations)
                    on_progress(FinetuneProgress(step + 1, job.plan.steps, epoch, job.plan.epochs, rate, curve))
                if interrupted.is_set():
                    training.stop()
                    raise KeyboardInterrupt
        return job.curve(training.state.evaluations), first


class _Training:
    """Network, optimizer and counters of one run."""

    def __init__(self, job: Job, accelerator: Accelerator) -> None:
        self.job, self.accelerator, self.settings = job, accelerator, job.settings
        self.started = time.perf_counter()
        self.labels = torch.from_numpy(job.dataset.groups.labels)
        self.classifier = Classifier(job.backbone, job.dataset.groups.n_classes, job.settings).to(accelerator.device)
        if accelerator.num_processes > 1:
            first = job.dataset[int(job.train_rows[0])]
            freeze_unread(self.classifier, on_device(job.backbone.collate([first, first]), accelerator.device))
        self.optimizer = build_optimizer(self.classifier, job.settings, job.decay)
        if job.settings.compile:
            self.classifier.compile()
        self.model, self.prepared = accelerator.prepare(self.classifier, self.optimizer)
        self.state, scaler = load_state(job.files, job.run, self.classifier, self.optimizer)
        steps: Tensor = accelerator.reduce(torch.tensor(self.state.step, device=accelerator.device), reduction="sum")
        if int(steps) != self.state.step * accelerator.num_processes:
            raise RunError(
                f"Processes would begin at different steps: this one sees step {self.state.step} in {job.files.root}. "
                "Give a folder that all machines share."
            )
        if scaler is not None and accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(scaler)
        self.shares = Shares(
            job.plan, self.state.step, job.settings.accumulate, accelerator.process_index, accelerator.num_processes
        )  # fmt: skip
        self.unseen: list[Tensor] = []
        self.rate = job.settings.lr
        self.model.train()
        if accelerator.is_main_process:
            curve = job.curve(self.state.evaluations)
            shown = [shown_metrics(curve, i) for i in range(len(curve.evaluations))]
            write_curve(job.files, self.state.evaluations, shown)
            self._extract(self.state.step)

    def load(self) -> Generator[Batch, None, None]:
        """This process's pieces from the checkpoint's step on."""
        job, settings = self.job, self.settings
        augment = derived_seed(AUGMENT_STREAM, settings.seed) if settings.augment else None
        inputs = TrainingInputs(job.dataset, job.plan, job.train_rows, job.backbone, augment)
        return inputs.load(self.shares, workers=settings.workers)

    def update(self, step: int, loaded: Iterator[Batch]) -> None:
        """One minibatch: forward and backward of its pieces, and a step of the optimizer."""
        accelerator, settings, plan = self.accelerator, self.settings, self.job.plan
        rate = learning_rate(settings, step, steps_per_epoch=plan.per_epoch, steps=plan.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=accelerator.device)
        for piece in range(settings.accumulate):
            last = piece == settings.accumulate - 1
            batch = next(loaded)
            weights = self.shares.weights(step, piece)
            place = accelerator.process_index * settings.accumulate + piece
            torch.manual_seed(derived_seed(STEP_STREAM, settings.seed, step, place))
            with nullcontext() if last else accelerator.no_sync(self.model):
                logits = self.model(on_device(batch.tensors, accelerator.device, settings.channels_last)).float()
                losses = nn.functional.cross_entropy(
                    logits, self.labels[batch.rows].to(accelerator.device), reduction="none",
                    label_smoothing=settings.label_smoothing,
                )  # fmt: skip
                loss = losses @ torch.from_numpy(weights).to(losses)
                # Gradients are averaged over processes; the loss is a sum over their shares.
                accelerator.backward(loss * accelerator.num_processes)
            total += loss.detach()
        if settings.clip_norm is not None:
            accelerator.clip_grad_norm_(self.model.parameters(), settings.clip_norm)
        self.prepared.step()
        self.prepared.zero_grad()
        self.unseen.append(total)
        self.state.step = step + 1
        self.rate = rate

    def after(self, step: int) -> None:
        """Look at losses, evaluate, write: what is due when `step` minibatches are done."""
        settings, plan = self.settings, self.job.plan
        ends, done = step % plan.per_epoch == 0, step == plan.steps
        on_the_way = settings.state_every is not None and step % settings.state_every == 0
        if ends or done or on_the_way or len(self.unseen) >= self._patience:
            self._look()
        epoch = math.ceil(step / plan.per_epoch)
        if done or (ends and epoch % settings.eval_every == 0):
            self._evaluate(epoch)
        if ends or done or on_the_way:
            self._save()
            self._extract(step)

    def stop(self) -> None:
        """Keep what is done. Several processes stop at different steps, so they fall back to the last checkpoint."""
        if self.accelerator.num_processes == 1:
            self._look()
            self._save()

    @property
    def _patience(self) -> int:
        alone = self.accelerator.num_processes == 1 and self.accelerator.device.type == "cpu"
        return 1 if alone else LOOK_EVERY

    def _look(self) -> None:
        """Add up the losses of the last steps, which must be finite on every process."""
        if not self.unseen:
            return
        summed: Tensor = self.accelerator.reduce(torch.stack(self.unseen), reduction="sum")
        values = summed.double().cpu().tolist()
        first = self.state.step - len(values)
        self.unseen.clear()
        for i, value in enumerate(values):
            if not math.isfinite(value):
                raise diverged(self.job, first + i, f"{value} in", self.state)
            self.state.loss_sum += value
            self.state.loss_steps += 1
        log(self.accelerator, {"train/loss": values[-1], "lr": self.rate}, self.state.step)

    def _evaluate(self, epoch: int) -> None:
        job, state = self.job, self.state
        if self.accelerator.num_processes > 1:
            # Running statistics of normalization are those of each process's share; the first one's are kept.
            for buffer in self.classifier.buffers():
                buffer.copy_(broadcast(buffer, from_process=0))
        correct, loss = evaluate(
            self.classifier, job.dataset, job.parts, job.backbone.collate, self.accelerator,
            batch_size=self.settings.eval_batch_size, workers=self.settings.workers,
        )  # fmt: skip
        lost = [name for name, value in loss.items() if value is None]
        if lost:
            raise diverged(job, state.step - 1, f"not finite on {', '.join(lost)} after", state)
        state.evaluations.append(
            Evaluation(
                epoch, state.step, job.plan.rows_until(state.step), state.loss_sum / state.loss_steps, self.rate,
                correct, loss, round(time.perf_counter() - self.started, 3),
            )
        )  # fmt: skip
        state.loss_sum, state.loss_steps = 0.0, 0
        metrics = shown_metrics(job.curve(state.evaluations), -1)
        log(self.accelerator, {f"{k}/{n}": v for k, part in metrics.items() for n, v in part.items()
                               if not isinstance(v, str)}, state.step)  # fmt: skip
        if self.accelerator.is_main_process:
            append_curve(job.files, state.evaluations[-1], metrics)
            save_network(job.files, job.run, epoch, self.classifier, self.settings.keep)

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            scaler = None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
            save_state(self.job.files, self.job.run, self.classifier, self.optimizer, self.state, scaler)
        self.state.saved_step = self.state.step

    def _extract(self, step: int) -> None:
        """Features of all splits where they are due; after a kill between checkpoint and features, they come first."""
        every, plan, job = self.settings.extract_every, self.job.plan, self.job
        if every is None or step == 0 or not self.accelerator.is_main_process:
            return
        epoch, rest = divmod(step, plan.per_epoch)
        if step != plan.steps and (rest or epoch % every):
            return
        epoch = math.ceil(step / plan.per_epoch)
        self.model.eval()
        settings = ExtractSettings(
            batch_size=self.settings.eval_batch_size, precision=self.settings.precision, workers=self.settings.workers,
            channels_last=self.settings.channels_last,
        )  # fmt: skip
        extract_features(
            job.dataset, backbone_at(job, self.classifier, epoch), job.files.features(epoch), settings=settings
        )
        self.model.train()
