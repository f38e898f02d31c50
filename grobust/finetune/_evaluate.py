"""Counting correct predictions per group on whole splits, shared out among processes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor, nn

from grobust.data.dataset import GroupedDataset
from grobust.errors import DataError
from grobust.features._batches import Batch, Collate, load_batches
from grobust.finetune._model import Classifier
from grobust.groups import Groups

__all__ = ["Part", "check_readable", "evaluate", "on_device"]


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of a data set that are evaluated together, and their groups."""

    rows: NDArray[Any]
    groups: Groups


def evaluate(
    classifier: Classifier,
    dataset: GroupedDataset,
    parts: Mapping[str, Part],
    collate: Collate,
    accelerator: Accelerator,
    *,
    batch_size: int,
    workers: int,
) -> tuple[dict[str, list[int]], dict[str, float | None]]:
    """Correct predictions by group, and mean cross-entropy, of every part; the same on every process.

    Rows are sorted by length, so that a batch's texts are padded to alike lengths.

    Raises
    ------
    DataError
        If an input cannot be read.
    """
    world, rank = accelerator.num_processes, accelerator.process_index
    batches = [(name, rows) for name, part in parts.items() for rows in _batches(dataset, part, batch_size)]
    own = batches[rank::world]
    sums = {name: np.zeros(part.groups.n_groups + 1) for name, part in parts.items()}
    labels, ids = dataset.groups.labels, dataset.groups.ids
    was_training = classifier.training
    classifier.eval()
    loaded = load_batches(dataset, collate, [rows for _, rows in own], workers=workers)
    with torch.inference_mode(), accelerator.autocast():
        for (name, _), batch in zip(own, loaded, strict=True):
            check_readable(dataset, batch)
            logits = classifier(on_device(batch.tensors, accelerator.device)).float()
            target = torch.from_numpy(labels[batch.rows]).to(logits.device)
            loss = nn.functional.cross_entropy(logits, target, reduction="none")
            hit = (logits.argmax(dim=1) == target).cpu().numpy()
            sums[name][:-1] += np.bincount(ids[batch.rows][hit], minlength=sums[name].size - 1)
            sums[name][-1] += float(loss.double().sum())
    classifier.train(was_training)
    total = {name: _summed(value, accelerator) for name, value in sums.items()}
    correct = {name: value[:-1].astype(np.int64).tolist() for name, value in total.items()}
    means = {name: float(value[-1]) / parts[name].rows.size for name, value in total.items()}
    return correct, {name: mean if math.isfinite(mean) else None for name, mean in means.items()}


def check_readable(dataset: GroupedDataset, batch: Batch) -> None:
    """Raise a `DataError` that names every input of a batch that could not be read."""
    if batch.failures:
        listed = "\n".join(f"  {dataset.sample_ids[row]}: {reason}" for row, reason in batch.failures)
        raise DataError(
            f"{len(batch.failures)} input(s) of {dataset.name} cannot be read:\n{listed}\n"
            "Mend them or take them out of the data set, and run again; training continues from its last checkpoint."
        )


def on_device(batch: Mapping[str, Tensor], device: torch.device, channels_last: bool = True) -> dict[str, Tensor]:
    """A batch on the network's device, images in the layout of its convolutions."""
    moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return {name: t.contiguous(memory_format=layout) if t.ndim == 4 else t for name, t in moved.items()}


def _batches(dataset: GroupedDataset, part: Part, batch_size: int) -> list[NDArray[Any]]:
    lengths = dataset.lengths()
    rows = part.rows if lengths is None else part.rows[np.argsort(-lengths[part.rows], kind="stable")]
    return [rows[start : start + batch_size] for start in range(0, rows.size, batch_size)]


def _summed(values: NDArray[Any], accelerator: Accelerator) -> NDArray[Any]:
    # Counts are far below 2^53, where float64 is exact; a device without float64 does not exist among ours.
    total: Tensor = accelerator.reduce(torch.from_numpy(values).to(accelerator.device), reduction="sum")
    summed: NDArray[Any] = total.cpu().numpy()
    return summed
