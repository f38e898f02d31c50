"""Learning rates against torch's schedulers, which go step by step."""

import math
import warnings
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from grobust.errors import ConfigError
from grobust.finetune.schedules import Schedule, Unit, learning_rate
from grobust.settings import SGD

SCHEDULES = st.sampled_from(list(Schedule))


@dataclass(frozen=True)
class Settings:
    lr: float = 0.1
    schedule: Schedule = Schedule.COSINE
    schedule_by: Unit = Unit.STEP
    warmup: int = 0
    step_size: int = 10
    gamma: float = 0.1


def of_torch(settings: Settings, units: int) -> list[float]:
    """Rates in units 0 … units − 1 as torch's schedulers give them, one after the other."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.lr)
    left = units - settings.warmup
    scheduler: lr_scheduler.LRScheduler
    match settings.schedule:
        case Schedule.CONSTANT:
            scheduler = lr_scheduler.ConstantLR(optimizer, factor=1.0)
        case Schedule.LINEAR:
            scheduler = lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.0, total_iters=left)
        case Schedule.COSINE:
            scheduler = lr_scheduler.CosineAnnealingLR(optimizer, T_max=left)
        case Schedule.STEP:
            scheduler = lr_scheduler.StepLR(optimizer, settings.step_size, settings.gamma)
    if settings.warmup:
        rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / (settings.warmup + 1), total_iters=settings.warmup)
        # torch's own SequentialLR passes an argument that torch warns about.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            scheduler = lr_scheduler.SequentialLR(optimizer, [rise, scheduler], milestones=[settings.warmup])
    rates = []
    for _ in range(units):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            scheduler.step()
    return rates


@given(SCHEDULES, st.integers(1, 40), st.integers(0, 12), st.integers(1, 9), st.sampled_from([0.1, 0.5]))
def test_by_step_equals_torch(schedule: Schedule, left: int, warmup: int, step_size: int, gamma: float) -> None:
    settings = Settings(schedule=schedule, warmup=warmup, step_size=step_size, gamma=gamma)
    steps = left + warmup
    rates = [learning_rate(settings, step, steps_per_epoch=3, steps=steps) for step in range(steps)]
    assert rates == pytest.approx(of_torch(settings, steps), rel=1e-9, abs=1e-15)


@given(SCHEDULES, st.integers(1, 9), st.integers(1, 7), st.integers(0, 6), st.integers(0, 3))
def test_by_epoch_equals_torch_and_stays_within_an_epoch(
    schedule: Schedule, left: int, per_epoch: int, cut: int, warmup: int
) -> None:
    """The last epoch may be cut short; it counts as one."""
    settings = Settings(schedule=schedule, schedule_by=Unit.EPOCH, warmup=warmup, step_size=2)
    epochs = left + warmup
    steps = epochs * per_epoch - min(cut, per_epoch - 1)
    rates = [learning_rate(settings, step, steps_per_epoch=per_epoch, steps=steps) for step in range(steps)]
    of_epoch = of_torch(settings, epochs)
    assert rates == pytest.approx([of_epoch[step // per_epoch] for step in range(steps)], rel=1e-9, abs=1e-15)


def test_the_papers_formulas() -> None:
    """20 epochs of 7 steps, changed once per epoch, no warm-up."""
    for schedule, formula in (
        (Schedule.COSINE, lambda e: 0.5 * 1e-5 * (1 + math.cos(math.pi * e / 20))),
        (Schedule.LINEAR, lambda e: 1e-5 * (1 - e / 20)),
    ):
        settings = Settings(lr=1e-5, schedule=schedule, schedule_by=Unit.EPOCH)
        for epoch in range(20):
            rate = learning_rate(settings, 7 * epoch + 6, steps_per_epoch=7, steps=140)
            assert rate == pytest.approx(formula(epoch), rel=1e-12)


def test_probes_share_the_schedules() -> None:
    settings = SGD(epochs=12, schedule=Schedule.STEP, step_size=5, gamma=0.2)
    factors = [settings.schedule.factor(e, 12, step_size=settings.step_size, gamma=settings.gamma) for e in range(12)]
    assert factors == pytest.approx([1] * 5 + [0.2] * 5 + [0.04] * 2)
    with pytest.raises(ConfigError, match="step_size must be at least 1"):
        SGD(step_size=0)
    with pytest.raises(ConfigError, match="gamma must be a positive number"):
        SGD(gamma=-1.0)


def test_a_warmup_that_leaves_nothing() -> None:
    settings = Settings(warmup=4, schedule_by=Unit.EPOCH)
    with pytest.raises(ConfigError, match=r"4 epoch\(s\) leaves nothing of a run of 4"):
        learning_rate(settings, 0, steps_per_epoch=10, steps=40)
    with pytest.raises(ConfigError, match="from 0 to 39, got 40"):
        learning_rate(Settings(), 40, steps_per_epoch=10, steps=40)
