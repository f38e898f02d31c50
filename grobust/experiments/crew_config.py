"""`CrewConfig`: the processes or machines that extract together."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from grobust.errors import ConfigError, DeviceError
from grobust.experiments.sweep.config import EngineName

__all__ = ["CrewConfig", "EngineName", "gpu_numbers"]

ALL = "all"


@dataclass(frozen=True)
class CrewConfig:
    """Who extracts; by default one process on the device of the config.

    Parameters
    ----------
    devices : of the local engine, a process for each: ``cpu``, or the number of a GPU that torch sees; ``all`` for all
        of these
    engine : ``local`` or ``ray``
    address : of a Ray cluster; None starts one on this machine
    actors : of Ray; None for one per GPU of the cluster, or without GPUs for as many as there are cores for, but one
    actor_cpus : cores that an actor asks Ray for
    """

    devices: tuple[str, ...] = ()
    engine: EngineName = EngineName.LOCAL
    address: str | None = None
    actors: int | None = None
    actor_cpus: int = 1

    def __post_init__(self) -> None:
        for name in ("actors", "actor_cpus"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}.")
        if self.engine is EngineName.RAY and self.devices:
            raise ConfigError(
                "devices are of the local engine; with --engine ray give --actors, and --device cuda or cpu."
            )
        if self.engine is EngineName.LOCAL and (self.address, self.actors, self.actor_cpus) != (None, None, 1):
            raise ConfigError("address, actors and actor_cpus are of a Ray cluster; give --engine ray with them.")
        for device in self.devices:
            if re.fullmatch(r"cpu|all|(cuda:)?\d{1,4}", device) is None:
                raise ConfigError(f"devices: {device!r} is none; expected cpu, the number of a GPU such as 0, or all.")
        if ALL in self.devices and len(self.devices) > 1:
            raise ConfigError("devices: 'all' stands alone.")

    @classmethod
    def of(
        cls, devices: str | None, *, engine: str, address: str | None, actors: int | None, actor_cpus: int
    ) -> "CrewConfig":
        """From the texts of the command line, such as ``0,1,2,3``."""
        if engine not in set(EngineName):
            raise ConfigError(f"engine must be one of {', '.join(EngineName)}; got {engine!r}.")
        named = () if devices is None else tuple(part.strip() for part in devices.split(","))
        return cls(named, EngineName(engine), address, actors, actor_cpus)

    @property
    def several(self) -> bool:
        """Whether others than this process do the work."""
        return bool(self.devices) or self.engine is EngineName.RAY


def gpu_numbers(devices: Sequence[str], visible: Sequence[str]) -> tuple[str, ...]:
    """Devices as CUDA_VISIBLE_DEVICES names them, ``cpu`` as it is.

    Parameters
    ----------
    visible : names of the GPUs that torch sees, in its order

    Raises
    ------
    DeviceError
        If torch does not see one that is asked for.
    """
    if tuple(devices) == (ALL,):
        devices = [str(number) for number in range(len(visible))]
        if not devices:
            raise DeviceError("All GPUs were asked for, but torch sees none. Use --devices cpu,cpu or --device cpu.")
    found = []
    for device in devices:
        if device == "cpu":
            found.append(device)
            continue
        number = int(device.removeprefix("cuda:"))
        if number >= len(visible):
            there = f"it sees {len(visible)}, counted from 0" if visible else "it sees none"
            raise DeviceError(f"GPU {number} was asked for, but torch does not see it: {there}. Use others, or cpu.")
        found.append(visible[number])
    return tuple(found)
