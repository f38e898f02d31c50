"""Records as what figures and pages draw. Nothing is computed here that a record does not say."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from grobust.errors import DataError
from grobust.report.comparisons import GroupAccuracy, NumberPoint, ScorePoint
from grobust.report.curves import TrajectoryPoint
from grobust.report.fields import lookup, method_of
from grobust.report.figures import GroupSpectrum, MethodResult
from grobust.report.labels import RunLabel, panel_names, run_names, spectrum_label
from grobust.report.null_figures import NullRange
from grobust.report.spectra import RhoPoint
from grobust.spectrum import Against, RatioAndGap

__all__ = [
    "curve_points",
    "final_metrics",
    "gap_pairs",
    "group_accuracies",
    "group_spectra",
    "method_result",
    "method_results",
    "null_ranges",
    "number_points",
    "rho_points",
    "score_points",
]

Point = TypeVar("Point")


def final_metrics(record: dict[str, Any], split: str = "test") -> dict[str, Any] | None:
    """Metrics of a run's head, or of its last epoch, on a split; None where the record has none."""
    results = record.get("results", {})
    found = results.get(split) or (results.get("last") if split == "test" else None)
    if not isinstance(found, dict) or not isinstance(found.get("wga"), dict) or found["wga"].get("value") is None:
        return None
    return found


def method_result(record: dict[str, Any], panel: str | None = None, name: str | None = None) -> MethodResult:
    """The test metrics of a run; `panel` and `name` where data set and method do not tell runs apart."""
    test = final_metrics(record)
    assert test is not None
    return MethodResult(
        dataset=panel or record["provenance"]["dataset"],
        method=name or str(method_of(record)),
        seed=_seed(record),
        wga=test["wga"]["value"],
        low=test["wga"]["low"],
        high=test["wga"]["high"],
        worst_group=test["worst_group"],
        n_worst_group=test["wga"]["n"],
        average=test["average"]["value"],
    )


def method_results(records: Sequence[dict[str, Any]]) -> list[MethodResult]:
    """Test metrics of all runs that have them."""
    return [_read(r, partial(method_result, panel=panel, name=name)) for r, panel, name in _named(records)]


def group_accuracies(records: Sequence[dict[str, Any]]) -> list[GroupAccuracy]:
    """Test accuracy of every group of every run."""

    def of(panel: str, name: str, record: dict[str, Any]) -> list[GroupAccuracy]:
        groups = (final_metrics(record) or {}).get("groups", [])
        seed = _seed(record)
        return [
            GroupAccuracy(panel, name, seed, g["name"], g["n"], g["value"], g["low"], g["high"])
            for g in groups
            if g["value"] is not None
        ]

    return [point for r, panel, name in _named(records) for point in _read(r, partial(of, panel, name))]


def curve_points(records: Sequence[dict[str, Any]]) -> list[TrajectoryPoint]:
    """Every epoch that was evaluated on test rows, of runs over epochs."""
    curves = [r for r in records if isinstance(r.get("results", {}).get("epochs"), dict)]
    curves = [r for r in curves if "test" in r["results"]["epochs"]]
    return [
        point
        for record, panel, name in zip(curves, panel_names(curves), run_names(curves), strict=True)
        for point in _read(record, partial(_curve, panel, name))
    ]


def number_points(records: Sequence[dict[str, Any]], x: str, value: str) -> list[NumberPoint]:
    """A metric against a field that holds a number, of runs that have both."""
    kept = [r for r in records if lookup(r, value) is not None and lookup(r, x) is not None]
    points = []
    for record, panel in zip(kept, panel_names(kept, across_backbones=True), strict=True):
        at, found = lookup(record, x), lookup(record, value)
        assert at is not None
        assert found is not None
        if any(isinstance(v, bool) or not isinstance(v, int | float) for v in (at.value, found.value)):
            raise DataError(f"{x} and {value} must be numbers, a record has {at.value!r} and {found.value!r}.")
        results = record["results"]
        interpolates = results["interpolation_epoch"] is not None if "interpolation_epoch" in results else None
        points.append(
            NumberPoint(
                panel, str(method_of(record)), _seed(record), float(at.value), float(found.value), found.low,
                found.high, interpolates,
            )
        )  # fmt: skip
    return points


def score_points(records: Sequence[dict[str, Any]], value: str) -> list[ScorePoint]:
    """Every validation score of every run, beside a test metric."""
    found = []
    for record, panel, name in _named(records):
        test, scores = lookup(record, value), record["results"].get("val_scores") or {}
        if not scores:
            scores = _read(record, _validation_scores)
        if test is not None:
            found += [
                ScorePoint(panel, name, _seed(record), score, float(number), test.value)
                for score, number in scores.items()
                if number is not None
            ]
    return found


def group_spectra(records: Sequence[dict[str, Any]]) -> list[GroupSpectrum]:
    """Eigenvalues of every group of every record of spectra, the last epoch of each run."""
    found = []
    for record, label in _last(records):
        title = _title(label)
        for group in record["results"]["groups"]:
            values = tuple(v for v in group["eigenvalues"] if v is not None)
            if values:
                found.append(GroupSpectrum(title, group["name"], group["n"], bool(group["minority"]), values))
    return found


def rho_points(records: Sequence[dict[str, Any]], *, last: bool) -> list[RhoPoint]:
    """ρ(y) of every class; of the last epoch of each run, or of all."""
    points = []
    for record, label in _last(records) if last else _labelled(records):
        for ratio in _ratios(record):
            null = ratio["inference"] or {}
            low, high = (math.nan if null.get(k) is None else null[k] for k in ("null_low", "null_high"))
            points.append(
                RhoPoint(
                    label.dataset, label.method, label.seed, label.epoch, ratio["class_name"], ratio["rho"], low, high
                )
            )
    return points


def null_ranges(records: Sequence[dict[str, Any]], *, all_ratios: bool = False) -> list[NullRange]:
    """ρ(y) beside the quantiles of its size-matched null; with `all_ratios` also where a record has no null."""
    found = []
    for record, label in _last(records):
        for ratio in _ratios(record):
            null = ratio["inference"] or {}
            quantiles = {float(level): float(value) for level, value in null.get("null_quantiles", {}).items()}
            if quantiles or all_ratios:
                found.append(
                    NullRange(
                        _title(label), ratio["class_name"], ratio["rho"], quantiles, null.get("p_value", math.nan),
                        null.get("reading", ""), ratio["minority"], ratio["n_minority"], ratio["n_majority"],
                    )
                )  # fmt: skip
    return found


def _title(label: RunLabel) -> str:
    parts = [label.dataset, label.method if label.method != "none" else ""]
    parts.append(f"seed {label.seed}" if label.seed is not None else "")
    return ", ".join(part for part in parts if part)


def gap_pairs(records: Sequence[dict[str, Any]]) -> list[RatioAndGap]:
    """ρ(y) and accuracy gaps of records of spectra that had heads."""
    return [
        RatioAndGap(pair["run"], pair["class_name"], pair["rho"], pair["gap"], pair["n_minority"])
        for record, _ in _last(records)
        for pair in record["results"].get("gaps", [])
        if pair["rho"] is not None and pair["gap"] is not None
    ]


def _validation_scores(record: dict[str, Any]) -> dict[str, float | None]:
    """Scores of the head that the run's test metrics are of: a solved one, or that of the last epoch."""
    val = final_metrics(record, "val")
    if val is not None:
        return {k: val[k]["value"] for k in ("wga", "worst_class", "average", "average_group") if k in val}
    curve = (record["results"].get("epochs") or {}).get("val") or {}
    return {k: curve[k][-1] for k in ("wga", "worst_class", "average") if k in curve}


def _named(records: Sequence[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Runs with test metrics, each with the name of its panel and its own."""
    kept = [r for r in records if final_metrics(r) is not None and method_of(r) is not None]
    return zip(kept, panel_names(kept), run_names(kept), strict=True)


def _curve(panel: str, name: str, record: dict[str, Any]) -> list[TrajectoryPoint]:
    curve = record["results"]["epochs"]
    test, n = curve["test"], len(curve["test"]["wga"])
    numbers = curve.get("epochs") or curve.get("epoch") or range(1, n + 1)
    val = curve["val"]["wga"] if "val" in curve else [None] * n
    train = curve["train"]["average"] if "train" in curve else [None] * n
    columns = (numbers, curve["steps"], curve["rows"], curve["loss"], test["wga"], test["average"], val, train)
    seed = _seed(record)
    return [
        TrajectoryPoint(panel, name, seed, int(epoch), int(steps), int(rows), loss, wga, average, val_wga, train)
        for epoch, steps, rows, loss, wga, average, val_wga, train in zip(*columns, strict=True)
        if wga is not None
    ]


def _labelled(records: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], RunLabel]]:
    spectra = [r for r in records if r.get("command") == "spectrum"]
    return [(r, _read(r, spectrum_label)) for r in spectra]


def _last(records: Iterable[dict[str, Any]]) -> list[tuple[dict[str, Any], RunLabel]]:
    """Records of spectra of the last epoch of their run; those without an epoch all count."""
    labelled = _labelled(records)
    last: dict[tuple[Any, ...], int] = {}
    for _, label in labelled:
        key = (label.dataset, label.method, label.seed)
        last[key] = max(last.get(key, -1), -1 if label.epoch is None else label.epoch)
    return [
        (r, label) for r, label in labelled
        if (-1 if label.epoch is None else label.epoch) == last[label.dataset, label.method, label.seed]
    ]  # fmt: skip


def _ratios(record: dict[str, Any]) -> list[dict[str, Any]]:
    ratios = record["results"]["norm_ratios"]
    return [r for r in ratios if r["against"] == Against.MAJORITY and r["rho"] is not None]


def _seed(record: dict[str, Any]) -> int:
    seed = record.get("seed")
    return int(record["results"].get("seed") or 0 if seed is None else seed)


def _read(record: dict[str, Any], view: Callable[[dict[str, Any]], Point]) -> Point:
    """Apply a view; what a record lacks is an error that names it."""
    try:
        return view(record)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"The record of `grobust {record.get('command')}`, seed {record.get('seed')}, {record.get('time')} lacks "
            f"or damages what a run must have ({type(error).__name__}: {error}). Run it again with this grobust."
        ) from error
