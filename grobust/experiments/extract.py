"""`run_extract`: data set and backbone by name, features into a store."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from grobust.data.catalog import load_dataset
from grobust.data.dataset import GroupedDataset
from grobust.data.tables import stratified_subset
from grobust.errors import ConfigError, DeviceError
from grobust.experiments.config import ExtractConfig, plain
from grobust.experiments.crew_config import EngineName, gpu_numbers
from grobust.features.batch_size import earlier_batch_size, find_batch_size
from grobust.features.cache import cached_path
from grobust.features.extract import (
    Crew,
    ExtractResult,
    ExtractSettings,
    OnError,
    Precision,
    Progress,
    extract_together,
    provenance_of,
)
from grobust.features.parallel.local import ProcessCrew
from grobust.models.backbone import Backbone, Pool
from grobust.models.backbones import load_backbones
from grobust.models.outputs import output_name
from grobust.models.views import View

__all__ = ["ExtractReport", "run_extract", "store_paths", "torch_device", "visible_gpus"]

Choice = TypeVar("Choice", Precision, OnError, Pool, View)


@dataclass(frozen=True)
class ExtractReport:
    """What an extraction did; `results` have rows, seconds and notes, one for each store."""

    config: ExtractConfig
    device: str
    results: tuple[ExtractResult, ...]

    @property
    def result(self) -> ExtractResult:
        """The only one, or the first."""
        return self.results[0]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report; `result` is the first of `results`."""
        results = [asdict(result) | {"path": str(result.path)} for result in self.results]
        return {"config": plain(self.config), "device": self.device, "result": results[0], "results": results}


def run_extract(config: ExtractConfig, *, on_progress: Callable[[Progress], None] | None = None) -> ExtractReport:
    """Load data set and backbone, extract.

    Raises
    ------
    ConfigError
        If a setting is out of range.
    DeviceError
        If a GPU is asked for that torch, or the cluster, does not have.
    """
    crew, device = _crew(config)
    try:
        return _run(config, crew, device, on_progress)
    finally:
        if crew is not None:
            crew.close()


def _run(
    config: ExtractConfig, crew: Crew | None, device: str, on_progress: Callable[[Progress], None] | None
) -> ExtractReport:
    settings = ExtractSettings(
        batch_size=1 if config.batch_size is None else config.batch_size,
        precision=_choice(Precision, config.precision, "precision"),
        dtype=config.dtype,
        workers=config.workers,
        on_error=_choice(OnError, config.on_error, "on_error"),
        fast_decode=config.fast_decode,
        compile=config.compile,
        channels_last=config.channels_last,
    )
    asked = config.pools if config.pool is None else (config.pool,)
    pools = [_choice(Pool, pool, "pool") for pool in asked]
    started = time.perf_counter()

    def reading(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(Progress(done, total, done / max(time.perf_counter() - started, 1e-9)))

    dataset = load_dataset(
        config.dataset, data_dir=config.data_dir, columns=config.columns, split=config.split, on_progress=reading
    )
    if config.limit is not None:
        dataset = stratified_subset(dataset, config.limit, seed=config.seed)
    backbones = load_backbones(
        config.backbone,
        pools=pools,
        layers=config.layers,
        views=[_choice(View, view, "view") for view in config.views],
        device=device if crew is None else "cpu",
        max_tokens=config.max_tokens,
        image_size=config.image_size,
    )
    told: tuple[str, ...] = ()
    if config.out is None:
        paths = _cached_paths(config, dataset, backbones, settings)
    else:
        paths = store_paths(config.out, backbones)
        if config.batch_size is None:
            settings = replace(settings, batch_size=_batch_size(config, crew, dataset, backbones, settings, paths))
            told = (f"batch size {settings.batch_size}",)
    results = extract_together(
        dataset,
        backbones,
        paths,
        settings=settings,
        resume=config.resume,
        overwrite=config.overwrite,
        on_progress=on_progress,
        crew=crew,
        profile=config.profile,
    )
    return ExtractReport(config, device, tuple(replace(result, notes=(*told, *result.notes)) for result in results))


def store_paths(out: Path, backbones: Sequence[Backbone]) -> list[Path]:
    """The store of each output: `out`, or if there are several ``NAME.gap.h5``, ``NAME.layer3.gap.h5`` beside it."""
    if len(backbones) == 1:
        return [out]
    return [out.with_name(f"{out.stem}.{output_name(backbone)}{out.suffix}") for backbone in backbones]


def _cached_paths(
    config: ExtractConfig, dataset: GroupedDataset, backbones: Sequence[Backbone], settings: ExtractSettings
) -> list[Path]:
    if config.batch_size is None:
        raise ConfigError(
            "A store's name in the cache is made of its batch size, and --batch-size auto may find another one next "
            "time. Give a number, or --out."
        )
    return [cached_path(provenance_of(dataset, backbone, settings)) for backbone in backbones]


def _batch_size(
    config: ExtractConfig, crew: Crew | None, dataset: GroupedDataset, backbones: Sequence[Backbone],
    settings: ExtractSettings, paths: Sequence[Path],
) -> int:  # fmt: skip
    earlier = earlier_batch_size(paths, resume=config.resume, overwrite=config.overwrite)
    if earlier is not None:
        return earlier
    if crew is not None:
        return crew.batch_size(dataset, backbones, settings)
    return find_batch_size(dataset, backbones, settings)


def _crew(config: ExtractConfig) -> tuple[Crew | None, str]:
    """Who does the work, None for this process, and on what device."""
    asked = config.crew
    if asked.engine is EngineName.RAY:
        # Ray Data takes a second to load.
        from grobust.features.parallel.ray_crew import RayCrew

        ray = RayCrew.connect(address=asked.address, actors=asked.actors, cpus=asked.actor_cpus, device=config.device)
        return ray, ray.about
    if asked.devices:
        return ProcessCrew(gpu_numbers(asked.devices, visible_gpus())), ", ".join(asked.devices)
    return None, torch_device(config.device)


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
