"""What is to be computed, known before the network runs: settings, provenance, and the batches of every part."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.data.dataset import GroupedDataset
from grobust.errors import ConfigError, DataError
from grobust.features._schema import Provenance
from grobust.features.parts import StorePlan
from grobust.models.backbone import Backbone
from grobust.settings import Precision

__all__ = ["ExtractSettings", "OnError", "Part", "decode_side", "pending_parts", "plan_of", "planned_parts",
           "provenance_of"]  # fmt: skip

# Row numbers of the batches of a part.
Part = list[NDArray[Any]]

MAX_BATCHES_PER_PART = 64
# Texts tokenized at a time to learn their lengths: the tokenizer's threads share them.
COUNTED = 4096


class OnError(StrEnum):
    """What happens when an input cannot be read."""

    STOP = "stop"
    SKIP = "skip"


@dataclass(frozen=True)
class ExtractSettings:
    """How features are computed and stored.

    Parameters
    ----------
    batch_size : rows per forward pass; halved when memory runs out
    precision : arithmetic of the forward pass
    dtype : of the stored features, ``float32`` or ``float16``
    workers : loader processes; 0 decodes in a thread beside a GPU, and on a CPU in turn with the network, each on all
        cores, which is best unless files come slowly
    on_error : stop at inputs that cannot be read, or skip and list them
    part_rows : rows per part file, what a killed run can lose; None for about 64 batches or 20 parts a run
    fast_decode : read large JPEG files at a half, a quarter or an eighth of their size, which changes pixels slightly
    compile : have `torch.compile` make faster code of the network, which changes last bits
    channels_last : keep images and the weights of convolutions with the channels of a pixel side by side, which most
        convolutions are faster with; else one channel after the other, which changes last bits
    """

    batch_size: int = 64
    precision: Precision = Precision.FLOAT32
    dtype: str = "float32"
    workers: int = 0
    on_error: OnError = OnError.STOP
    part_rows: int | None = None
    fast_decode: bool = False
    compile: bool = False
    channels_last: bool = True

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.part_rows is not None and self.part_rows < 1:
            raise ConfigError(f"part_rows must be at least 1, got {self.part_rows}.")
        if self.dtype not in ("float32", "float16"):
            raise ConfigError(f"dtype must be float32 or float16, got {self.dtype!r}.")


def provenance_of(dataset: GroupedDataset, backbone: Backbone, settings: ExtractSettings) -> Provenance:
    """All that decides the features, known before the network runs."""
    # Padding and the shape of a product change the last bits of a feature.
    options = backbone.options | {"batch_size": str(settings.batch_size)}
    if backbone.count is not None:
        options["batching"] = "by tokens"
    side = decode_side(backbone, settings)
    if side is not None:
        options["decoding"] = f"JPEG files at 1/2, 1/4 or 1/8 with sides of at least {side}"
    if settings.compile:
        options["compile"] = "torch.compile"
    if not settings.channels_last and backbone.kind == "image":
        options["memory"] = "channels first"
    return Provenance(
        backbone=backbone.spec,
        weights_digest=backbone.digest,
        preprocessing=backbone.preprocessing,
        pooling=str(backbone.pooling),
        precision=str(settings.precision),
        dtype=settings.dtype,
        dataset=dataset.name,
        dataset_digest=dataset.digest,
        options=options,
        versions=dict(backbone.versions),
    )


def plan_of(dataset: GroupedDataset, backbone: Backbone, settings: ExtractSettings) -> StorePlan:
    """The store that these give, whoever computes it."""
    provenance = provenance_of(dataset, backbone, settings)
    return StorePlan(provenance, dataset.groups, dataset.split, dataset.sample_ids, backbone.dim)


def decode_side(backbone: Backbone, settings: ExtractSettings) -> int | None:
    """Pixels that a side of a decoded image must have; None for whole images.

    The libraries' transforms take the middle 7/8 of an image made smaller, or more.
    """
    if not settings.fast_decode or backbone.kind != "image":
        return None
    if backbone.image is None:
        raise ConfigError(f"fast_decode needs to know the input size of {backbone.spec}, and its source does not tell.")
    return -(-8 * max(backbone.image.size) // 7)


def pending_parts(
    dataset: GroupedDataset, settings: ExtractSettings, done: NDArray[Any], backbone: Backbone | None = None
) -> list[Part]:
    """Parts without the rows that are done; a part is done whole, but for inputs skipped before."""
    left = ([batch[~done[batch]] for batch in part] for part in planned_parts(dataset, settings, backbone))
    parts = ([batch for batch in part if batch.size] for part in left)
    return [part for part in parts if part]


def planned_parts(
    dataset: GroupedDataset, settings: ExtractSettings, backbone: Backbone | None = None
) -> Iterator[Part]:
    """Row numbers of each batch of each part: a function of data set, backbone and settings alone.

    Rows are sorted by length, longest first: batches hold alike rows, and memory runs out at once or not at all.
    Lengths are the backbone's (tokens) if it counts them, else the data set's.
    """
    counts = None if backbone is None or backbone.count is None else _counted(dataset, backbone.count)
    lengths = dataset.lengths() if counts is None else counts
    order = np.arange(len(dataset)) if lengths is None else np.argsort(-lengths, kind="stable")
    size = settings.batch_size
    batches = [order[start : start + size] for start in range(0, order.size, size)]
    per_part = min(MAX_BATCHES_PER_PART, max(1, len(batches) // 20))
    if settings.part_rows is not None:
        per_part = max(1, settings.part_rows // size)
    for start in range(0, len(batches), per_part):
        yield batches[start : start + per_part]


def _counted(dataset: GroupedDataset, count: Any) -> NDArray[Any]:
    """(n) tokens; 0 for what cannot be read, which is told when its turn comes."""
    lengths = np.zeros(len(dataset), dtype=np.int64)
    for start in range(0, len(dataset), COUNTED):
        items, rows = [], []
        for row in range(start, min(start + COUNTED, len(dataset))):
            try:
                items.append(dataset[row])
                rows.append(row)
            except DataError:
                continue
        if items:
            lengths[rows] = count(items)
    return lengths
