"""The batch size that a network and its device are fastest with, found by trying."""

import json
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from grobust.data.dataset import GroupedDataset
from grobust.errors import BackboneError, DataError, StoreError
from grobust.features._batches import Batch
from grobust.features._encode import Encoder
from grobust.features._plan import ExtractSettings, planned_parts
from grobust.features.profile import StageClock
from grobust.features.store import FeatureStore, parts_folder
from grobust.kept_memory import kept_memory
from grobust.models.backbone import Backbone
from grobust.models.views import collate_of

__all__ = ["earlier_batch_size", "find_batch_size"]

SMALLEST = 8
# On a CPU the rate levels off far below this, and memory does not run out with an error.
LARGEST_CPU, LARGEST_GPU = 256, 4096
# A doubling that brings less than this is not worth its memory.
GAIN = 1.05
TRIES = 2


def find_batch_size(dataset: GroupedDataset, backbones: Sequence[Backbone], settings: ExtractSettings) -> int:
    """Double the batch until it no longer makes the network faster, or memory runs out; the last size that did.

    Batches hold the longest rows of the data set, so what fits here fits everywhere. What comes out depends on the
    machine and its load: the size is part of the provenance, and a run that continues takes that of its beginning, see
    `earlier_batch_size`.

    Raises
    ------
    DataError
        If no row of those tried can be read.
    BackboneError
        If memory does not suffice for the smallest size.
    """
    wanted = iter(row for part in planned_parts(dataset, settings, backbones[0]) for batch in part for row in batch)
    device = next(iter(backbones[0].network.parameters())).device
    items: list[Any] = []
    best, rate = 0, 0.0
    size = SMALLEST
    while size <= (LARGEST_GPU if device.type == "cuda" else LARGEST_CPU):
        _read(dataset, wanted, items, size)
        if not items:
            raise DataError(f"No row of {dataset.name} can be read, so no batch size can be tried.")
        # As the extraction will have it.
        with kept_memory() if device.type == "cpu" else nullcontext():
            found = _rate(backbones, settings, items[:size])
        if found is None or found < GAIN * rate:
            break
        best, rate = size, found
        if len(items) < size:
            break
        size *= 2
    if best == 0:
        raise BackboneError(f"{backbones[0].spec} runs out of memory on {SMALLEST} rows. Give a smaller --batch-size.")
    return best


def earlier_batch_size(paths: Sequence[Path], *, resume: bool, overwrite: bool) -> int | None:
    """The batch size of a finished store, or of the run that left parts of it; None if there is neither to continue."""
    for path in paths:
        if path.is_file() and not overwrite:
            with FeatureStore(path) as store:
                text = store.provenance.options.get("batch_size")
        elif resume and (plan := parts_folder(path) / "plan.json").is_file():
            try:
                text = json.loads(plan.read_text()).get("options.batch_size")
            except (ValueError, AttributeError):
                raise StoreError(f"{plan} is damaged. Remove {plan.parent}, or run with --no-resume.") from None
        else:
            continue
        if text is not None and text.isdecimal() and int(text) > 0:
            return int(text)
    return None


def _read(dataset: GroupedDataset, rows: Any, items: list[Any], size: int) -> None:
    """Append items until there are `size`, or no more; those that cannot be read are told of when their turn comes."""
    while len(items) < size and (row := next(rows, None)) is not None:
        try:
            items.append(dataset[int(row)])
        except DataError:
            continue


def _rate(backbones: Sequence[Backbone], settings: ExtractSettings, items: list[Any]) -> float | None:
    """Rows per second of the network; None if memory runs out."""
    batch = Batch(rows=torch.arange(len(items)).numpy(), tensors=collate_of(backbones)(items), failures=())
    encoder = Encoder(backbones, replace(settings, batch_size=len(items)), StageClock(synchronize=True))
    seconds = []
    for _ in range(1 + TRIES):
        started = time.perf_counter()
        try:
            encoder.encode(batch)
        except BackboneError as error:
            if isinstance(error.__cause__, (torch.OutOfMemoryError, MemoryError)):
                return None
            raise
        seconds.append(time.perf_counter() - started)
        # The encoder cuts a batch that does not fit.
        if encoder.notes:
            return None
    return len(items) / min(seconds[1:])
