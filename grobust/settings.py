"""Frozen settings and choices of single algorithms; each checks itself and holds its own defaults."""

import math
from dataclasses import dataclass
from enum import StrEnum

from grobust.errors import ConfigError

__all__ = [
    "LBFGS",
    "SGD",
    "BalanceBy",
    "BalanceMethod",
    "Match",
    "Optimizer",
    "Penalty",
    "Precision",
    "Schedule",
    "SelectBy",
    "WeightNormalization",
]


class BalanceMethod(StrEnum):
    """How the rows of a training split are kept, drawn and weighted (LaBonte et al. 2024, section 3)."""

    NONE = "none"
    SUBSETTING = "subsetting"
    UPSAMPLING = "upsampling"
    UPWEIGHTING = "upweighting"
    MIXTURE = "mixture"


class BalanceBy(StrEnum):
    """Which cells are made equal: classes, or groups (class and attribute)."""

    CLASS = "class"
    GROUP = "group"


class WeightNormalization(StrEnum):
    """What a minibatch's weighted loss is divided by: the sum of its weights, or its size."""

    BATCH = "batch"
    NONE = "none"


class SelectBy(StrEnum):
    """Score on validation rows by which a head is chosen; `grobust.metrics` defines them."""

    WORST_CLASS = "worst_class"
    WGA = "wga"
    AVERAGE = "average"
    AVERAGE_GROUP = "average_group"

    @property
    def needs_groups(self) -> bool:
        """Whether the score looks at the groups of validation rows, and not at their labels alone."""
        return self in (SelectBy.WGA, SelectBy.AVERAGE_GROUP)


class Penalty(StrEnum):
    """Penalty of a head: ½ λ ‖W‖², λ₁ Σ |W|, or both."""

    L2 = "l2"
    L1 = "l1"
    ELASTICNET = "elasticnet"


class Precision(StrEnum):
    """Arithmetic of a network: float32, or automatic mixed precision in a shorter type."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Optimizer(StrEnum):
    """Update of minibatch training, as in torch.optim."""

    SGD = "sgd"
    ADAMW = "adamw"


class Schedule(StrEnum):
    """Learning rate in epoch e = 0 … E − 1, as a factor: 1, 1 − e/E, ½ (1 + cos(π e/E)), or γ^⌊e/S⌋."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"
    STEP = "step"

    def factor(self, epoch: int, epochs: int, *, step_size: int = 10, gamma: float = 0.1) -> float:
        """The factor of one epoch; ``step`` multiplies by `gamma` every `step_size` epochs."""
        if self is Schedule.CONSTANT:
            return 1.0
        if self is Schedule.LINEAR:
            return 1 - epoch / epochs
        if self is Schedule.STEP:
            return float(gamma ** (epoch // step_size))
        return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


class Match(StrEnum):
    """What runs of different balancing methods have in common: epochs of their own rows, or steps."""

    EPOCHS = "epochs"
    STEPS = "steps"


@dataclass(frozen=True)
class LBFGS:
    """Settings of the batched L-BFGS solver.

    Parameters
    ----------
    rtol : a head has converged when its objective is at most `rtol`, relatively, above its minimum: by the bound
        ‖gradient‖² / (2 λ), or by ten times the quasi-Newton decrement ½ gᵀ H⁻¹ g
    gtol : and when its gradient norm is at most `gtol` times the norm at zero weights
    max_iter : most iterations of any head
    memory : number of curvature pairs kept
    newton : heads of at most so many weights (columns times features and intercept) are finished by Newton steps, to
        the rounding of their gradient; float64 features on the CPU and l2 > 0 only. 0 for none
    """

    rtol: float = 1e-6
    gtol: float = 1e-3
    max_iter: int = 1000
    memory: int = 10
    newton: int = 0

    def __post_init__(self) -> None:
        for name in ("gtol", "rtol"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number, got {value!r}.")
        if self.max_iter < 1 or self.memory < 1:
            raise ConfigError(f"max_iter and memory must be at least 1, got {self.max_iter} and {self.memory}.")


@dataclass(frozen=True)
class SGD:
    """Settings of training heads on minibatches; the defaults are LaBonte et al.'s last-layer retraining.

    Parameters
    ----------
    epochs : passes over the rows of a balanced sample; with ``match="steps"`` over all n rows
    batch_size : rows of a minibatch; the last of an epoch may be smaller
    optimizer, momentum, betas, epsilon : of torch.optim.SGD or AdamW
    schedule : of the learning rate, one step per epoch
    step_size, gamma : of the ``step`` schedule: times `gamma` every `step_size` epochs
    match : with ``"epochs"`` every head sees `epochs` times the rows of its own sample; with ``"steps"`` every head
        takes ⌈n / batch_size⌉ steps per epoch, drawing anew when its rows are used up
    """

    epochs: int = 20
    batch_size: int = 32
    optimizer: Optimizer = Optimizer.SGD
    momentum: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    schedule: Schedule = Schedule.CONSTANT
    step_size: int = 10
    gamma: float = 0.1
    match: Match = Match.EPOCHS

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ConfigError(f"epochs and batch_size must be at least 1, got {self.epochs} and {self.batch_size}.")
        for name, value in (("momentum", self.momentum), ("betas[0]", self.betas[0]), ("betas[1]", self.betas[1])):
            if not 0 <= value < 1:
                raise ConfigError(f"{name} must be at least 0 and below 1, got {value!r}.")
        if self.step_size < 1:
            raise ConfigError(f"step_size must be at least 1, got {self.step_size}.")
        for name in ("epsilon", "gamma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} must be a positive number, got {value!r}.")
