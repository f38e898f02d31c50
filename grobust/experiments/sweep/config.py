"""`SweepConfig`: which grid, where, and what does the work."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from grobust.errors import ConfigError

__all__ = ["EngineName", "SweepConfig"]


class EngineName(StrEnum):
    """What does the steps of a sweep."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class SweepConfig:
    """Everything that a grid declares, each step once.

    Parameters
    ----------
    grid : a file, or the name of a grid that comes with grobust
    out : folder of the sweep; None for one below ``sweeps/`` named after the grid
    variables : in place of those in the grid's ``[vars]``
    only : names of sections; none for all. What they read is done too
    engine : ``local`` or ``ray``
    jobs : steps at the same time; None for one per GPU, or 1 without (with Ray: for as many as the cluster takes)
    device : ``cpu`` or ``cuda``
    address : of a Ray cluster; None starts one on this machine
    step_cpus : cores that a step asks Ray for
    stale_seconds : age from which another process's claim on a step counts for nothing
    """

    grid: str
    out: Path | None = None
    variables: dict[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    engine: EngineName = EngineName.LOCAL
    jobs: int | None = None
    device: str = "cpu"
    address: str | None = None
    step_cpus: int = 1
    stale_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name in ("jobs", "step_cpus"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}.")
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise ConfigError(f"{self.out} is a file; give a folder.")
        if self.address is not None and self.engine is not EngineName.RAY:
            raise ConfigError("address is of a Ray cluster; give --engine ray with it.")
