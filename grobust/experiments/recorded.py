"""Recorded runs as candidates: what `grobust select` and `grobust compare` read of records.

Runs of one command, data set and backbone form a *panel*. In it a *candidate* is a method with its settings, run with
several seeds. A run has one point (a solved head) or one per evaluated epoch (a curve); each point has scores on
validation rows and metrics on test rows, kept apart.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from grobust.errors import DataError
from grobust.experiments.records import read_records
from grobust.report.labels import base_name, settings_of
from grobust.report.record_shape import reading
from grobust.selection import cell_scores
from grobust.settings import SelectBy

__all__ = ["Candidate", "Panel", "Point", "RecordedRun", "read_panels"]

METRICS = (SelectBy.WGA, SelectBy.AVERAGE, SelectBy.AVERAGE_GROUP, SelectBy.WORST_CLASS)


@dataclass(frozen=True)
class Point:
    """One head: scores on validation rows by name, and metrics on test rows.

    `epoch` is None for a solved head, `n_val` (validation rows behind the scores) where it is not recorded.
    """

    epoch: int | None
    val: dict[str, float]
    test: dict[str, float]
    n_val: int | None = None


@dataclass(frozen=True)
class RecordedRun:
    """One record: its seed, points in order, and the labels that training and its own choices used."""

    seed: int
    points: tuple[Point, ...]
    train_labels: tuple[str, ...]
    selection_labels: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A method with its settings, and its runs by seed."""

    name: str
    runs: dict[int, RecordedRun]


@dataclass(frozen=True)
class Panel:
    """Candidates that can be compared: one command, data set and backbone, in the order they were recorded.

    Parameters
    ----------
    seeds : those that every candidate has, ascending
    notes : what was left out
    """

    command: str
    dataset: str
    backbone: str
    candidates: tuple[Candidate, ...]
    seeds: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """For tables."""
        return f"{self.dataset}, {self.backbone}, {self.command}"


def read_panels(path: Path, *, command: str | None = None) -> tuple[Panel, ...]:
    """Panels of a file of records.

    A run that was recorded more than once counts as it was recorded last.

    Raises
    ------
    DataError
        If the file is missing or damaged, has no runs with test metrics, or a panel has no seed that all its
        candidates share; the message says which seeds there are.
    """
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for record in read_records(path, command=command):
        if _has_points(record):
            found.setdefault(_panel_key(record), []).append(record)
    if not found:
        what = "runs" if command is None else f"runs of `{command}`"
        raise DataError(
            f"{path} has no {what} with metrics on test rows. Record some: `grobust probe STORE --balance all`."
        )
    return tuple(_panel(path, key, records) for key, records in found.items())


def _has_points(record: dict[str, Any]) -> bool:
    results = record.get("results")
    if not isinstance(results, dict) or "method" not in results:
        return False
    return "test" in (results["epochs"] if isinstance(results.get("epochs"), dict) else results)


def _panel_key(record: dict[str, Any]) -> tuple[str, ...]:
    made = record["provenance"]
    names = ("dataset", "dataset_digest", "backbone", "weights_digest", "pooling", "preprocessing")
    return (str(record["command"]), *(str(made.get(name)) for name in names))


def _panel(path: Path, key: tuple[str, ...], records: list[dict[str, Any]]) -> Panel:
    settings = [settings_of(record) for record in records]
    names = _names(records, settings)
    runs: dict[str, dict[int, RecordedRun]] = {}
    repeated = 0
    for name, record in zip(names, records, strict=True):
        own = runs.setdefault(name, {})
        seed = _seed(record)
        repeated += seed in own
        own[seed] = reading(record, _run)
    common = sorted(set.intersection(*(set(own) for own in runs.values())))
    everything = set.union(*(set(own) for own in runs.values()))
    if not common:
        lines = "\n".join(f"  {name}: {', '.join(map(str, sorted(own)))}" for name, own in runs.items())
        raise DataError(f"{path}: no seed was run with every method, so they cannot be compared.\n{lines}")
    notes = []
    if repeated:
        notes.append(f"{repeated} run(s) were recorded again; the last record of each counts")
    if len(common) < len(everything):
        left = ", ".join(map(str, sorted(everything - set(common))))
        notes.append(f"seed(s) {left} left out: not every method has them")
    candidates = tuple(Candidate(name, {seed: own[seed] for seed in common}) for name, own in runs.items())
    return Panel(key[0], key[1], key[3], candidates, tuple(common), tuple(notes))


def _names(records: Sequence[dict[str, Any]], settings: Sequence[dict[str, str]]) -> list[str]:
    """Method, ratio, what is balanced; and the settings that differ among records of one such name."""
    base = [base_name(record, with_ratio=True) for record in records]
    names = []
    for name, own in zip(base, settings, strict=True):
        others = [other for of, other in zip(base, settings, strict=True) if of == name]
        differing = sorted(key for key in own if len({other.get(key, "") for other in others}) > 1)
        names.append(", ".join([name, *(f"{key} {own[key]}" for key in differing)]))
    return names


def _run(record: dict[str, Any]) -> RecordedRun:
    results, ledger = record["results"], record["label_ledger"]
    points = tuple(_curve(results["epochs"])) if "epochs" in results else (_solved(results),)
    if not points:
        raise ValueError("a curve without epochs")
    return RecordedRun(_seed(record), points, tuple(ledger["train"]), tuple(ledger["selection"]))


def _seed(record: dict[str, Any]) -> int:
    return int(record["seed"] if record.get("seed") is not None else record["results"].get("seed") or 0)


def _solved(results: dict[str, Any]) -> Point:
    val = {str(name): _number(value) for name, value in (results.get("val_scores") or {}).items()}
    n_val = int(results["val"]["average"]["n"]) if results.get("val") else 0
    if not val and n_val:
        val = {str(m): _number(results["val"][m]["value"]) for m in METRICS}
    return Point(None, val, {str(m): _number(results["test"][m]["value"]) for m in METRICS}, n_val)


def _curve(epochs: dict[str, Any]) -> Iterable[Point]:
    test = _split_curve(epochs["test"])
    val = _split_curve(epochs["val"]) if "val" in epochs else {}
    n = len(test[str(SelectBy.WGA)])
    numbers = epochs.get("epochs", range(1, n + 1))
    n_val = int(np.sum(epochs["val"]["counts"])) if "counts" in epochs.get("val", {}) else None
    for i in range(n):
        on_val, on_test = ({name: own[i] for name, own in curve.items()} for curve in (val, test))
        yield Point(int(numbers[i]), on_val, on_test, n_val)


def _split_curve(curve: dict[str, Any]) -> dict[str, list[float]]:
    """(E) values of the scores that a curve has; without scores, of the metrics that follow from it."""
    if "scores" in curve:
        return {str(name): [_number(v) for v in values] for name, values in curve["scores"].items()}
    accuracy = np.array([[_number(v) for v in row] for row in curve["groups"]])
    there = ~np.isnan(accuracy[0])
    found = {str(SelectBy.AVERAGE_GROUP): accuracy[:, there].mean(axis=1).tolist()}
    if "counts" in curve and "n_classes" in curve:
        counts = np.asarray(curve["counts"], dtype=np.float64)
        correct = np.where(there, np.nan_to_num(accuracy) * counts, 0.0)
        own = cell_scores(correct, counts, int(curve["n_classes"]), SelectBy.WORST_CLASS)
        found[str(SelectBy.WORST_CLASS)] = own.tolist()
    for name in METRICS:
        if name in curve:
            found[str(name)] = [_number(v) for v in curve[name]]
    return found


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
