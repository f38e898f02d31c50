"""`FinetuneSettings`: everything that one finetuning run needs beside data and network. Loads no torch."""

import math
from dataclasses import asdict, dataclass
from enum import Enum, StrEnum
from typing import Any

from grobust.balancing import DEFAULT_RATIO, Balancer, make_balancer
from grobust.errors import ConfigError
from grobust.finetune.choices import TRACKERS, Decay, FinetuneOptimizer
from grobust.finetune.schedules import Unit
from grobust.settings import BalanceBy, BalanceMethod, Match, Precision, Schedule, WeightNormalization

__all__ = ["TRACKERS", "Decay", "FinetuneOptimizer", "FinetuneSettings"]

# What changes neither the weights nor the curve of a run: it may differ when the run is continued.
HARMLESS = ("keep", "state_every", "extract_every", "workers", "tracker")

CHOICES: dict[str, type[StrEnum]] = {
    "balance": BalanceMethod, "by": BalanceBy, "normalize": WeightNormalization, "match": Match,
    "optimizer": FinetuneOptimizer, "decay": Decay, "schedule": Schedule, "schedule_by": Unit, "precision": Precision,
}  # fmt: skip


@dataclass(frozen=True)
class FinetuneSettings:
    """Settings of one finetuning run; the defaults are LaBonte et al.'s (2024) for images.

    Parameters
    ----------
    seed : of the new head, the kept rows, the minibatches, augmentation and dropout
    balance, by, ratio, sampler, normalize : see `grobust.balancing`
    epochs : passes over the rows that the method keeps; with ``match="steps"`` over all n training rows
    max_steps : stop after so many minibatches; None for all epochs
    match : with ``"steps"`` an epoch has the ⌈n / batch_size⌉ minibatches of `none`, whatever the method
    batch_size : rows of one update, over all processes and pieces together
    accumulate : pieces that a batch is cut into, one after the other, where memory is short; the update is the same
    optimizer, lr, weight_decay, betas, epsilon, momentum : of torch.optim
    decay : None for the paper's: ``all`` for images, ``matrices`` for texts
    schedule, schedule_by : of the learning rate, and whether it changes with the epoch or the step
    warmup : epochs or steps (the unit of `schedule_by`) over which the rate rises to `lr`
    step_size, gamma : of the ``step`` schedule: times `gamma` every `step_size` epochs or steps
    label_smoothing : share of the target spread evenly over the classes
    clip_norm : longest gradient of an update; None for no limit
    head_dropout : on the features, before the head; None for what the network's own classifier has
    precision : arithmetic of the forward pass
    channels_last : memory layout of images and convolutions
    compile : compile the network with `torch.compile`
    augment : random crops and flips of training images, as in the paper
    eval_every : epochs between evaluations, after each of which the network can be kept; the last is evaluated always
    eval_batch_size : rows of an evaluation's forward pass
    keep : networks kept, the latest ones; None for those of all evaluations
    state_every : minibatches between checkpoints to continue from, beside those of every epoch; None for no others
    extract_every : epochs between feature stores of all splits; None for none
    workers : loader processes; 0 loads in a thread beside the network
    tracker : ``tensorboard``, ``wandb`` or ``mlflow``; None for none
    """

    seed: int = 1
    balance: BalanceMethod = BalanceMethod.NONE
    by: BalanceBy = BalanceBy.CLASS
    ratio: float = DEFAULT_RATIO
    sampler: bool = True
    normalize: WeightNormalization = WeightNormalization.BATCH
    epochs: int = 20
    max_steps: int | None = None
    match: Match = Match.EPOCHS
    batch_size: int = 32
    accumulate: int = 1
    optimizer: FinetuneOptimizer = FinetuneOptimizer.ADAMW
    lr: float = 1e-5
    weight_decay: float = 1e-4
    decay: Decay | None = None
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    momentum: float = 0.0
    schedule: Schedule = Schedule.COSINE
    schedule_by: Unit = Unit.EPOCH
    warmup: int = 0
    step_size: int = 10
    gamma: float = 0.1
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    head_dropout: float | None = None
    precision: Precision = Precision.FLOAT32
    channels_last: bool = True
    compile: bool = False
    augment: bool = True
    eval_every: int = 1
    eval_batch_size: int = 64
    keep: int | None = 1
    state_every: int | None = None
    extract_every: int | None = None
    workers: int = 0
    tracker: str | None = None

    def __post_init__(self) -> None:
        for name, kind in CHOICES.items():
            _choose(self, name, kind)
        for name in ("epochs", "batch_size", "accumulate", "step_size", "eval_every", "eval_batch_size"):
            _at_least(name, getattr(self, name), 1)
        for name in ("max_steps", "keep", "state_every", "extract_every"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        for name in ("seed", "warmup", "workers", "weight_decay"):
            _at_least(name, getattr(self, name), 0)
        for name in ("lr", "epsilon", "gamma", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number, got {value!r}.")
        shares = {"label_smoothing": self.label_smoothing, "head_dropout": self.head_dropout or 0.0,
                  "momentum": self.momentum, "betas[0]": self.betas[0], "betas[1]": self.betas[1]}  # fmt: skip
        for name, value in shares.items():
            if not 0 <= value < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, got {value!r}.")
        if self.accumulate > self.batch_size:
            raise ConfigError(f"accumulate cuts {self.batch_size} rows into {self.accumulate} pieces; give fewer.")
        if self.tracker is not None and self.tracker not in TRACKERS:
            raise ConfigError(f"tracker must be one of {', '.join(TRACKERS)}; got {self.tracker!r}.")
        self.balancer()

    def balancer(self) -> Balancer:
        """The balancing method with its settings."""
        return make_balancer(self.balance, by=self.by, ratio=self.ratio, normalize=self.normalize, sampler=self.sampler)

    def identity(self) -> dict[str, Any]:
        """What decides the weights and the curve, JSON-able."""
        found = {name: _plain(value) for name, value in asdict(self).items() if name not in HARMLESS}
        # Younger than runs that were made before it and are the same.
        return {name: value for name, value in found.items() if (name, value) != ("sampler", True)}


def _choose(settings: FinetuneSettings, name: str, kind: type[StrEnum]) -> None:
    """Take a choice by its name too; what is no choice must not pass for another one."""
    value = getattr(settings, name)
    if value is None and name == "decay":
        return
    try:
        object.__setattr__(settings, name, kind(value))
    except ValueError:
        raise ConfigError(f"{name} must be one of {', '.join(kind)}; got {value!r}.") from None


def _at_least(name: str, value: float, least: int) -> None:
    if not (math.isfinite(value) and value >= least):
        raise ConfigError(f"{name} must be at least {least}, got {value!r}.")


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
