"""`run_predict`: saved heads on the rows of a feature store."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import getpid
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from grobust.errors import DataError, ShapeError, StoreMismatchError
from grobust.experiments.config import PredictConfig
from grobust.experiments.splits import reported
from grobust.features._schema import Provenance
from grobust.features.store import FeatureStore
from grobust.groups import Groups, Split
from grobust.heads import HeadInfo, Heads, load_heads
from grobust.metrics import GroupMetrics, group_metrics
from grobust.probe import logits_by_block

__all__ = ["PredictReport", "run_predict"]


@dataclass(frozen=True, eq=False)
class PredictReport:
    """What saved heads say about one split.

    Parameters
    ----------
    config, provenance : of the run and of the store
    infos : H heads used
    metrics : of each head; empty where the store's classes are not the heads'
    n : rows predicted
    notes : what a reader must know
    """

    config: PredictConfig
    provenance: Provenance
    infos: tuple[HeadInfo, ...]
    metrics: tuple[GroupMetrics, ...]
    n: int
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        metrics: list[Any] = [m.as_dict() for m in self.metrics] or [None] * len(self.infos)
        return {
            "store": str(self.config.store),
            "dataset": self.provenance.dataset,
            "backbone": self.provenance.backbone,
            "split": self.config.split,
            "n": self.n,
            "heads": [
                {**asdict(info), "metrics": found} for info, found in zip(self.infos, metrics, strict=True)
            ],
            "out": None if self.config.out is None else str(self.config.out),
            "notes": list(self.notes),
        }  # fmt: skip


def run_predict(config: PredictConfig) -> PredictReport:
    """Predict one split, block by block, with all heads or one; metrics by group where the classes are the same.

    Raises
    ------
    StoreMismatchError
        If the features are of another kind than those that the heads were trained on, and `force` is not set; the
        message shows the difference.
    ShapeError
        If their dimension is another one, `force` or not.
    DataError
        If the heads cannot be read, or the split has no rows.
    """
    heads = load_heads(config.heads)
    chosen = range(len(heads)) if config.head is None else [heads.index(config.head)]
    with FeatureStore(config.store) as store:
        notes = _check(config, heads, store)
        split = Split[config.split.upper()]
        rows = store.rows(split)
        if rows.size == 0:
            raise DataError(f"{config.store} has no {config.split} rows to predict.")
        groups, known = store.groups.take(rows), store.groups.class_names == heads.class_names
        used = _Used(heads, tuple(chosen), [store.sample_ids[i] for i in rows.tolist()], groups, known)
        predictions = np.zeros((len(used.chosen), rows.size), dtype=np.int64)
        with _writer(config.out, used) as write:
            for lo, logits in logits_by_block([heads.probe(i) for i in used.chosen], store.view(split)):
                predictions[:, lo : lo + len(logits)] = logits.argmax(axis=2).T
                write(lo, logits)
        counts = store.groups.take(store.rows(Split.TRAIN)).counts
    train = counts if counts.any() else None
    by_cell = [group_metrics(row, groups, train_counts=train) for row in predictions] if known else []
    metrics = reported(by_cell, store.provenance, groups)
    if metrics:
        notes += metrics[0].notes
    return PredictReport(
        config=config, provenance=store.provenance, infos=tuple(heads.infos[i] for i in used.chosen), metrics=metrics,
        n=int(rows.size), notes=notes,
    )  # fmt: skip


def _check(config: PredictConfig, heads: Heads, store: FeatureStore) -> tuple[str, ...]:
    difference = heads.difference(store.provenance, store.dim)
    if heads.class_names != store.groups.class_names:
        difference["classes"] = (", ".join(heads.class_names), ", ".join(store.groups.class_names))
    notes = [] if heads.provenance else ["the heads do not say what features they were trained on"]
    if not difference:
        return tuple(notes)
    lines = [f"  {name}: heads {of_heads}, store {of_store}" for name, (of_heads, of_store) in difference.items()]
    if not config.force:
        text = "\n".join(lines)
        raise StoreMismatchError(
            f"{config.heads} was trained on features of another kind than {config.store} holds.\n{text}\n"
            "Extract with the heads' settings, or predict all the same with --force."
        )
    if store.dim != heads.dim:
        raise ShapeError(
            f"{config.heads} has heads for {heads.dim} features, {config.store} has {store.dim}: --force cannot help."
        )
    notes += [f"forced:{line.removeprefix(' ')}" for line in lines]
    if "classes" in difference:
        notes.append("the store's classes are not the heads', so there are no metrics")
    return tuple(notes)


@dataclass(frozen=True, eq=False)
class _Used:
    """Heads in use, and what is known of the rows; labels mean the heads' classes only if `known`."""

    heads: Heads
    chosen: tuple[int, ...]
    sample_ids: list[str]
    groups: Groups
    known: bool

    @property
    def names(self) -> list[str]:
        return [self.heads.infos[i].name for i in self.chosen]


@contextmanager
def _writer(out: Path | None, used: _Used) -> Iterator[Callable[[int, NDArray[Any]], None]]:
    """A function of the first row and the logits (b, H, k) of a block; the file is there once all were written."""
    if out is None:
        yield lambda lo, logits: None
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{getpid()}.tmp")
    try:
        if out.suffix == ".csv":
            with temporary.open("w", newline="", encoding="utf-8") as file:
                yield _CsvRows(csv.writer(file), used)
        else:
            logits = np.zeros((len(used.chosen), len(used.groups), len(used.heads.class_names)))

            def keep(lo: int, block: NDArray[Any]) -> None:
                logits[:, lo : lo + len(block)] = block.transpose(1, 0, 2)

            yield keep
            with temporary.open("wb") as binary:
                np.savez(
                    binary, sample_ids=np.array(used.sample_ids), heads=np.array(used.names),
                    class_names=np.array(used.heads.class_names), predictions=logits.argmax(axis=2), logits=logits,
                    labels=np.array(used.groups.class_names)[used.groups.labels],
                    attributes=np.array(used.groups.attribute_names)[used.groups.attributes],
                )  # fmt: skip
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


class _CsvRows:
    """One line per row and head: names for label, attribute and prediction; logit and probability of every class."""

    def __init__(self, writer: Any, used: _Used) -> None:
        self._writer, self._used = writer, used
        classes = used.heads.class_names
        writer.writerow(
            ["sample_id", "label", "attribute", "head", "prediction", *(f"logit {c}" for c in classes),
             *(f"probability {c}" for c in classes)]
        )  # fmt: skip

    def __call__(self, lo: int, logits: NDArray[Any]) -> None:
        used, classes = self._used, self._used.heads.class_names
        probabilities, predicted = softmax(logits, axis=2), logits.argmax(axis=2)
        for i, row in enumerate(range(lo, lo + len(logits))):
            label = used.groups.class_names[used.groups.labels[row]]
            attribute = used.groups.attribute_names[used.groups.attributes[row]]
            for h, name in enumerate(used.names):
                self._writer.writerow(
                    [used.sample_ids[row], label, attribute, name, classes[predicted[i, h]],
                     *(f"{v:.9g}" for v in logits[i, h]), *(f"{v:.9g}" for v in probabilities[i, h])]
                )  # fmt: skip
