"""`run_extract`: data set and backbone by name, features into a store."""

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from grobust.data.catalog import load_dataset
from grobust.data.tables import stratified_subset
from grobust.errors import ConfigError, DeviceError
from grobust.experiments.config import ExtractConfig, plain
from grobust.features.cache import cached_path
from grobust.features.extract import (
    ExtractResult,
    ExtractSettings,
    OnError,
    Precision,
    Progress,
    extract_features,
    provenance_of,
)
from grobust.models.backbone import Pool
from grobust.models.backbones import load_backbone

__all__ = ["ExtractReport", "run_extract", "torch_device", "visible_gpus"]

Choice = TypeVar("Choice", Precision, OnError, Pool)


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction did; `result` has rows, seconds and notes."""

    config: ExtractConfig
    device: str
    result: ExtractResult

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        result = asdict(self.result) | {"path": str(self.result.path)}
        return {"config": plain(self.config), "device": self.device, "result": result}


def run_extract(config: ExtractConfig, *, on_progress: Callable[[Progress], None] | None = None) -> ExtractReport:
    """Load data set and backbone, extract.

    Raises
    ------
    ConfigError
        If a setting is out of range.
    DeviceError
        If ``cuda`` is asked for and torch sees no GPU.
    """
    settings = ExtractSettings(
        batch_size=config.batch_size,
        precision=_choice(Precision, config.precision, "precision"),
        dtype=config.dtype,
        workers=config.workers,
        on_error=_choice(OnError, config.on_error, "on_error"),
    )
    pool = None if config.pool is None else _choice(Pool, config.pool, "pool")
    device = torch_device(config.device)
    started = time.perf_counter()

    def reading(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(Progress(done, total, done / max(time.perf_counter() - started, 1e-9)))

    dataset = load_dataset(
        config.dataset, data_dir=config.data_dir, columns=config.columns, split=config.split, on_progress=reading
    )
    if config.limit is not None:
        dataset = stratified_subset(dataset, config.limit, seed=config.seed)
    backbone = load_backbone(
        config.backbone, pool=pool, device=device, max_tokens=config.max_tokens, image_size=config.image_size
    )
    result = extract_features(
        dataset,
        backbone,
        cached_path(provenance_of(dataset, backbone, settings)) if config.out is None else config.out,
        settings=settings,
        resume=config.resume,
        overwrite=config.overwrite,
        on_progress=on_progress,
    )
    return ExtractReport(config, device, result)


def torch_device(name: str) -> str:
    """``cpu``, ``cuda`` or ``auto`` as a torch device that is there.

    Raises
    ------
    DeviceError
        If it is unknown or absent.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise DeviceError(f"Unknown device {name!r}. Expected one of: auto, cpu, cuda.")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DeviceError("Device 'cuda' was asked for, but torch sees no GPU. Use --device cpu.")
    return "cuda" if available and name != "cpu" else "cpu"


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that torch sees, as CUDA_VISIBLE_DEVICES names them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named[:count]) if named else tuple(map(str, range(count)))


def _choice(kind: type[Choice], value: str, name: str) -> Choice:
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(f"{name} must be one of {', '.join(kind)}; got {value!r}.") from None
