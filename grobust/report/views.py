"""Records as what figures and pages draw. Nothing is computed here that a record does not say."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from grobust.errors import DataError
from grobust.report.comparisons import GroupAccuracy, NumberPoint, ScorePoint
from grobust.report.composition import GroupCount
from grobust.report.curves import TrajectoryPoint
from grobust.report.fields import lookup, method_of, text_of
from grobust.report.figures import GroupSpectrum, MethodResult
from grobust.report.labels import RunLabel, networks_of, panel_names, run_names, spectrum_label
from grobust.report.null_figures import NullRange
from grobust.report.record_shape import LARGEST, place_of, reading
from grobust.report.spectra import RhoPoint
from grobust.settings import BalanceMethod
from grobust.spectrum import Against, RatioAndGap

__all__ = [
    "curve_points",
    "final_metrics",
    "gap_pairs",
    "group_accuracies",
    "group_counts",
    "group_spectra",
    "method_result",
    "method_results",
    "null_ranges",
    "number_points",
    "rho_points",
    "score_points",
]


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
        # A number each: `reading` says of a damaged record which line it is.
        wga=float(test["wga"]["value"]),
        low=float(test["wga"]["low"]),
        high=float(test["wga"]["high"]),
        worst_group=test["worst_group"],
        n_worst_group=test["wga"]["n"],
        average=float(test["average"]["value"]),
    )


def method_results(records: Sequence[dict[str, Any]]) -> list[MethodResult]:
    """Test metrics of all runs that have them."""
    return [reading(r, partial(method_result, panel=panel, name=name)) for r, panel, name in _named(records)]


def group_accuracies(records: Sequence[dict[str, Any]]) -> list[GroupAccuracy]:
    """Test accuracy of every group of every run."""

    def of(panel: str, name: str, record: dict[str, Any]) -> list[GroupAccuracy]:
        groups = (final_metrics(record) or {}).get("groups", [])
        seed = _seed(record)
        return [
            GroupAccuracy(panel, name, seed, g["name"], g["n"], g["value"], float(g["low"]), float(g["high"]))
            for g in groups
            if g["value"] is not None
        ]

    return [point for r, panel, name in _named(records) for point in reading(r, partial(of, panel, name))]


def curve_points(records: Sequence[dict[str, Any]]) -> list[TrajectoryPoint]:
    """Every epoch that was evaluated on test rows, of runs over epochs."""
    curves = [r for r in records if isinstance(r.get("results", {}).get("epochs"), dict)]
    curves = [r for r in curves if "test" in r["results"]["epochs"]]
    return [
        point
        for record, panel, name in zip(curves, panel_names(curves), run_names(curves), strict=True)
        for point in reading(record, partial(_curve, panel, name))
    ]


def number_points(records: Sequence[dict[str, Any]], x: str, value: str) -> list[NumberPoint]:
    """A metric against a field that holds a number, of runs that have both."""
    kept = [r for r in records if lookup(r, value) is not None and lookup(r, x) is not None]
    points = []
    for record, panel in zip(kept, panel_names(kept, across_backbones=True), strict=True):
        name = f"{method_of(record)}{' without sampler' if _without_sampler(record) else ''}"
        at, found = lookup(record, x), lookup(record, value)
        assert at is not None
        assert found is not None
        for asked, number in ((x, at.value), (value, found.value)):
            if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= LARGEST:
                raise DataError(f"{place_of(record)}: {asked} must be a number, got {text_of(number)[:60]!r}.")
        results = record["results"]
        interpolates = results["interpolation_epoch"] is not None if "interpolation_epoch" in results else None
        points.append(
            NumberPoint(
                panel, name, _seed(record), float(at.value), float(found.value), found.low,
                found.high, interpolates,
            )
        )  # fmt: skip
    return points


def _without_sampler(record: dict[str, Any]) -> bool:
    found = lookup(record, "sampler")
    return method_of(record) == BalanceMethod.MIXTURE and found is not None and found.value is False


def score_points(records: Sequence[dict[str, Any]], value: str) -> list[ScorePoint]:
    """Every validation score of every run, beside a test metric."""
    found = []
    for record, panel, name in _named(records):
        test, scores = lookup(record, value), record["results"].get("val_scores") or {}
        if not scores:
            scores = reading(record, _validation_scores)
        if test is not None:
            if isinstance(test.value, bool) or not isinstance(test.value, int | float):
                raise DataError(f"{place_of(record)}: {value} must be a number, got {text_of(test.value)[:60]!r}.")
            found += [
                ScorePoint(panel, name, _seed(record), score, float(number), test.value)
                for score, number in scores.items()
                if number is not None
            ]
    return found


def group_counts(records: Sequence[dict[str, Any]]) -> list[GroupCount]:
    """Rows of every group in every split of every data set.

    Training rows are those that a run without balancing kept; other splits those that some run was evaluated on.
    """

    def of(record: dict[str, Any]) -> dict[str, dict[str, int]]:
        results = record["results"]
        found = {
            split: {group["name"]: group["n"] for group in (final_metrics(record, split) or {}).get("groups", [])}
            for split in ("val", "test")
        }
        kept = results["balance"].get("kept", {}) if isinstance(results.get("balance"), dict) else {}
        if method_of(record) == BalanceMethod.NONE:
            # Records keep this by name; the order of groups is that of the metrics.
            order = [name for name in {**found["test"], **found["val"]} if name in kept]
            found["train"] = {name: int(kept[name]) for name in [*order, *(n for n in kept if n not in order)]}
        return found

    datasets: dict[str, dict[str, dict[str, int]]] = {}
    for record in records:
        splits = datasets.setdefault(str(record["provenance"].get("dataset")), {})
        for split, groups in reading(record, of).items():
            if groups:
                splits.setdefault(split, groups)
    return [
        GroupCount(dataset, split, name.rpartition(" / ")[0], name, n)
        for dataset, splits in datasets.items()
        for split in ("train", "val", "test")
        for name, n in splits.get(split, {}).items()
    ]


def group_spectra(records: Sequence[dict[str, Any]]) -> list[GroupSpectrum]:
    """Eigenvalues of every group of every record of spectra, the last epoch of each run."""

    def of(label: RunLabel, record: dict[str, Any]) -> list[GroupSpectrum]:
        found = []
        for group in record["results"]["groups"]:
            values = tuple(v for v in group["eigenvalues"] if v is not None)
            if values:
                found.append(
                    GroupSpectrum(_panel(label), group["name"], group["n"], bool(group["minority"]), values, label.seed)
                )
        return found

    return [spectrum for r, label in _last(records) for spectrum in reading(r, partial(of, label))]


def rho_points(records: Sequence[dict[str, Any]], *, last: bool) -> list[RhoPoint]:
    """ρ(y) of every class; of the last epoch of each run, or of all."""

    def of(label: RunLabel, record: dict[str, Any]) -> list[RhoPoint]:
        points = []
        for ratio in _ratios(record):
            null = ratio["inference"] or {}
            low, high = (math.nan if null.get(k) is None else null[k] for k in ("null_low", "null_high"))
            points.append(
                RhoPoint(
                    label.dataset, label.method, label.seed, label.epoch, ratio["class_name"], ratio["rho"], low, high
                )
            )
        return points

    labelled = _last(records) if last else _labelled(records)
    return [point for r, label in labelled for point in reading(r, partial(of, label))]


def null_ranges(records: Sequence[dict[str, Any]], *, all_ratios: bool = False) -> list[NullRange]:
    """ρ(y) beside the quantiles of its size-matched null; with `all_ratios` also where a record has no null."""

    def of(label: RunLabel, record: dict[str, Any]) -> list[NullRange]:
        found = []
        for ratio in _ratios(record):
            null = ratio["inference"] or {}
            quantiles = {float(k): float(v) for k, v in (null.get("null_quantiles") or {}).items()}
            p_value = null.get("p_value")
            if quantiles or all_ratios:
                found.append(
                    NullRange(
                        _title(label), ratio["class_name"], ratio["rho"], quantiles,
                        math.nan if p_value is None else p_value, null.get("reading", ""), ratio["minority"],
                        ratio["n_minority"], ratio["n_majority"],
                    )
                )  # fmt: skip
        return found

    return [found for r, label in _last(records) for found in reading(r, partial(of, label))]


def _panel(label: RunLabel) -> str:
    return ", ".join(part for part in (label.dataset, label.method if label.method != "none" else "") if part)


def _title(label: RunLabel) -> str:
    return _panel(label) + (f", seed {label.seed}" if label.seed is not None else "")


def gap_pairs(records: Sequence[dict[str, Any]]) -> list[RatioAndGap]:
    """ρ(y) and accuracy gaps of records of spectra that had heads.

    A run is named by method and seed, by its data set where there are several, and by its store where that is not
    enough.
    """
    labelled = list(_last(records))
    several = len({label.dataset for _, label in labelled}) > 1
    shown = [label if several else replace(label, dataset=label.method, method="none") for _, label in labelled]
    names = [_title(label) for label in shown]
    counts = Counter(names)

    def of(name: str, record: dict[str, Any]) -> list[RatioAndGap]:
        return [
            RatioAndGap(
                name if counts[name] == 1 else pair["run"], pair["class_name"], pair["rho"], pair["gap"],
                pair["n_minority"],
            )
            for pair in record["results"].get("gaps", [])
            if pair["rho"] is not None and pair["gap"] is not None
        ]  # fmt: skip

    return [
        pair for (record, _), name in zip(labelled, names, strict=True) for pair in reading(record, partial(of, name))
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


def _labelled(records: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], RunLabel]]:
    """Records of spectra, of repeated ones the last.

    Features of several networks, poolings or splits on one data set are told apart by what differs.
    """
    spectra = [r for r in records if r.get("command") == "spectrum"]
    runs = {r["results"].get("run"): str(r["provenance"].get("backbone")) for r in records if _is_network(r)}
    networks = networks_of(spectra, runs)
    labels = [reading(r, spectrum_label) for r in spectra]
    made = [(network, str(r["provenance"].get("pooling")), str(r["results"].get("split")))
            for r, network in zip(spectra, networks, strict=True)]  # fmt: skip
    # What follows on a data set, then on a network of it, then on a pooling of that.
    following: dict[tuple[str, ...], set[str]] = {}
    for label, parts in zip(labels, made, strict=True):
        for i, part in enumerate(parts):
            following.setdefault((label.dataset, *parts[:i]), set()).add(part)
    last: dict[tuple[Any, ...], tuple[dict[str, Any], RunLabel]] = {}
    for record, label, parts in zip(spectra, labels, made, strict=True):
        told = [part for i, part in enumerate(parts) if len(following[label.dataset, *parts[:i]]) > 1]
        named = replace(label, dataset=", ".join((label.dataset, *told)))
        last[named, str(record["results"].get("store"))] = record, named
    return list(last.values())


def _is_network(record: dict[str, Any]) -> bool:
    return record.get("command") == "finetune" and isinstance(record.get("results", {}).get("run"), str)


def _last(records: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], RunLabel]]:
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
