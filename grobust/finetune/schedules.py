"""Learning rates over training as a pure function of the step, with nothing to keep or to restore.

The paper changes the rate once per epoch, e = 0 … E − 1: cosine ½ lr (1 + cos(π e / E)), linear lr (1 − e / E).
Counted in steps instead of epochs the formulas stay. Loads no torch.
"""

import math
from enum import StrEnum
from typing import Protocol

from grobust.errors import ConfigError
from grobust.settings import Schedule

__all__ = ["Schedule", "ScheduleSettings", "Unit", "learning_rate"]


class Unit(StrEnum):
    """How often the learning rate changes, and what warm-up and step size are counted in."""

    EPOCH = "epoch"
    STEP = "step"


class ScheduleSettings(Protocol):
    """The part of `FinetuneSettings` that decides the learning rate.

    `lr` is the largest rate, `warmup` the units over which it rises, and `step_size` and `gamma` belong to the ``step``
    schedule: times `gamma` every `step_size` units.
    """

    @property
    def lr(self) -> float: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def schedule_by(self) -> Unit: ...
    @property
    def warmup(self) -> int: ...
    @property
    def step_size(self) -> int: ...
    @property
    def gamma(self) -> float: ...


def learning_rate(settings: ScheduleSettings, step: int, *, steps_per_epoch: int, steps: int) -> float:
    """Learning rate of one update.

    With W units of warm-up the rate is ``lr (u + 1) / (W + 1)`` in unit u = 0 … W − 1: equal rises, the first above 0,
    so that a warm-up counted in epochs wastes none. The schedule begins after it and has the units that are left.

    Parameters
    ----------
    step : of the whole run, from 0
    steps_per_epoch : minibatches of an epoch
    steps : minibatches of the whole run; the last epoch may be cut short

    Raises
    ------
    ConfigError
        If the warm-up leaves nothing of the run, or the step is not in it.
    """
    if not 0 <= step < steps:
        raise ConfigError(f"step must be from 0 to {steps - 1}, got {step}.")
    by_epoch = settings.schedule_by == Unit.EPOCH
    at = step // steps_per_epoch if by_epoch else step
    units = math.ceil(steps / steps_per_epoch) if by_epoch else steps
    if settings.warmup >= units:
        raise ConfigError(
            f"A warm-up of {settings.warmup} {settings.schedule_by}(s) leaves nothing of a run of {units}. "
            "Give a shorter one, or train longer."
        )
    if at < settings.warmup:
        return settings.lr * (at + 1) / (settings.warmup + 1)
    factor = settings.schedule.factor(
        at - settings.warmup, units - settings.warmup, step_size=settings.step_size, gamma=settings.gamma
    )
    return settings.lr * factor
