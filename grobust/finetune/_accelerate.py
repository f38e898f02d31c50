"""The accelerator of one run: where it trains, in which arithmetic, with how many processes, and its tracker."""

import importlib.util
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import InitProcessGroupKwargs

from grobust.errors import ConfigError, DeviceError
from grobust.finetune.settings import FinetuneSettings
from grobust.settings import Precision

__all__ = ["accelerator_of", "finish_tracker", "log", "start_tracker"]

# The names that accelerate gives them.
MIXED = {Precision.FLOAT32: "no", Precision.BFLOAT16: "bf16", Precision.FLOAT16: "fp16"}
# Any of the packages that accelerate writes a tracker's data with.
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "mlflow": ("mlflow",)}
# Other processes wait while the first one writes checkpoints and features.
PATIENCE = timedelta(hours=12)


def accelerator_of(settings: FinetuneSettings, device: torch.device, folder: Path) -> Accelerator:
    """An accelerator on the kind of device that the network is on; under a launcher, of all its processes.

    Raises
    ------
    DeviceError
        If float16 is asked for on a CPU.
    ConfigError
        If the tracker's package is not installed.
    """
    on_cpu = device.type == "cpu"
    if on_cpu and settings.precision is Precision.FLOAT16:
        raise DeviceError("float16 training needs a GPU. Use --precision bfloat16, which a CPU has too, or float32.")
    tracker = settings.tracker
    if tracker is not None and not any(importlib.util.find_spec(name) for name in PACKAGES[tracker]):
        raise ConfigError(f"--tracker {tracker} needs its package: pip install {PACKAGES[tracker][0]}.")
    # accelerate keeps device and precision of the first accelerator of a process; the next run may have others. The
    # group of processes, where there is one, stays.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    GradientState._reset_state()
    return Accelerator(
        cpu=on_cpu,
        mixed_precision=MIXED[settings.precision],
        log_with=tracker,
        project_dir=str(folder),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


def start_tracker(accelerator: Accelerator, settings: FinetuneSettings) -> None:
    """Begin a tracker's run with the settings."""
    if settings.tracker is not None:
        shown = {name: value if isinstance(value, int | float | str) else str(value)
                 for name, value in settings.identity().items()}  # fmt: skip
        accelerator.init_trackers("grobust", config=shown)


def finish_tracker(accelerator: Accelerator) -> None:
    """Let the tracker write what it holds. `end_training` would end the group of processes too; later runs need it."""
    for tracker in accelerator.trackers:
        tracker.finish()


def log(accelerator: Accelerator, values: dict[str, Any], step: int) -> None:
    """Numbers to the tracker, if there is one; None is left out."""
    if accelerator.trackers:
        accelerator.log({name: value for name, value in values.items() if value is not None}, step=step)
