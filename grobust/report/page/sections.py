"""Records as the sections of a page."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from statistics import fmean, pstdev
from typing import Any

from grobust.report._canvas import METHOD_COLORS, methods_in_order
from grobust.report.comparisons import GroupAccuracy
from grobust.report.curves import TrajectoryPoint, steps_per_epoch
from grobust.report.fields import method_of
from grobust.report.figures import mean_spectra
from grobust.report.labels import short_backbones
from grobust.report.page.content import GroupRow, PageContent, Provenanced, SummaryCard
from grobust.report.page.summary import summarize_methods, summary_card
from grobust.report.tables import mean_cell
from grobust.report.views import (
    curve_points,
    final_metrics,
    group_accuracies,
    group_spectra,
    method_results,
    null_ranges,
    score_points,
)

__all__ = ["content_of_records", "summaries_of"]

RUN_HEADERS = ("command", "data", "backbone", "method", "seed", "test WGA %", "low %", "high %", "worst group",
               "average %", "labels in training", "labels in choosing", "finished")  # fmt: skip
RUN_NUMERIC = ("", "", "", "", "number", "percent", "percent", "percent", "", "percent", "", "", "")
# Settings that name files: shown without their folders, since a page is passed on.
PLACES = {"store", "records", "save", "figures", "data_dir", "out", "heads", "run_dir"}
NULL_LEVELS = (0.025, 0.25, 0.5, 0.75, 0.975)


def content_of_records(
    records: Sequence[dict[str, Any]], *, title: str, made: str, facts: Sequence[tuple[str, str]], notes: Sequence[str]
) -> PageContent:
    """All that a page can say from records alone.

    Raises
    ------
    DataError
        If a record lacks what its kind must have.
    """
    # A page is passed on: what it shows of places is their last part.
    short = short_backbones({str(r["provenance"].get("backbone")) for r in records})
    shown = [_with_backbone(r, short) for r in records]
    results = method_results(records)
    commands = {str(r.get("command")) for r in records}
    settings: dict[str, int] = {}
    numbers = [settings.setdefault(json.dumps(_settings(r), sort_keys=True), len(settings)) for r in shown]
    return PageContent(
        title=title,
        subtitle=(", ".join(sorted({str(r["provenance"].get("dataset")) for r in records})),),
        made=made,
        n_runs=len(records),
        summaries=summaries_of(records),
        notes=tuple(notes),
        wga=tuple(_wga(panel, [r for r in results if r.dataset == panel]) for panel in _panels(results)),
        curves=_curves(curve_points(records)),
        groups=tuple(_groups(group_accuracies(records))),
        rho=_rho(records),
        spectra=_spectra(records),
        provenance=_provenance(shown),
        facts=(*facts, *_facts(records, commands)),
        runs=tuple(_run(r) for r in shown),
        run_headers=RUN_HEADERS,
        run_numeric=RUN_NUMERIC,
        run_settings=tuple(numbers),
        settings=tuple(json.loads(text) for text in settings),
    )


def style_of(method: str, position: int) -> dict[str, int]:
    """Numbers of the colour, dashes and marker of a method, as in the figures; of its position for other methods."""
    base = method.split(" ")[0].rstrip(",")
    order = list(METHOD_COLORS)
    if base not in order:
        return {"color": 5 + position % 3, "dash": position % 4, "marker": position % 5}
    number = order.index(base)
    same = base == method
    return {"color": number, "dash": number % 4 if same else position % 4, "marker": number if same else position % 5}


def _panels(points: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(p.dataset for p in points))


def summaries_of(records: Sequence[dict[str, Any]]) -> tuple[SummaryCard, ...]:
    """The conclusion for every data set, command and backbone among the records."""
    results, scores = method_results(records), score_points(records, "test.wga")
    return tuple(
        summary_card(panel, [r for r in results if r.dataset == panel], [s for s in scores if s.dataset == panel])
        for panel in _panels(results)
    )


def _wga(panel: str, results: Sequence[Any]) -> dict[str, Any]:
    found = {m.method: m for m in summarize_methods(results)}
    rows = [
        {
            "method": name,
            "style": style_of(name, i),
            "mean": found[name].cell.mean,
            "sd": found[name].cell.sd if found[name].cell.n > 1 else None,
            "low": _json(found[name].cell.low),
            "high": _json(found[name].cell.high),
            "seeds": [r.wga for r in found[name].results],
            "average": _json(found[name].average),
            "worst": found[name].worst,
        }
        for i, name in enumerate(methods_in_order(found))
    ]
    return {"title": panel, "rows": rows}


def _curves(points: Sequence[TrajectoryPoint]) -> tuple[dict[str, Any], ...]:
    panels = []
    for panel in _panels(points):
        own = [p for p in points if p.dataset == panel]
        by_method: dict[str, list[TrajectoryPoint]] = {}
        for point in own:
            by_method.setdefault(point.method, []).append(point)
        methods = [_curve(name, i, by_method[name]) for i, name in enumerate(methods_in_order(by_method))]
        panels.append({"title": panel, "methods": methods})
    return tuple(panels)


def _curve(name: str, position: int, points: Sequence[TrajectoryPoint]) -> dict[str, Any]:
    by_epoch: dict[int, list[TrajectoryPoint]] = {}
    for point in points:
        by_epoch.setdefault(point.epoch, []).append(point)
    epochs = sorted(by_epoch)

    def over(field: str) -> dict[str, list[float]] | None:
        values = [[getattr(p, field) for p in by_epoch[epoch]] for epoch in epochs]
        if any(v is None for at in values for v in at):
            return None
        return {"mean": [round(fmean(at), 6) for at in values], "sd": [round(pstdev(at), 6) for at in values]}

    return {
        "name": name,
        "style": style_of(name, position),
        "n": len({p.seed for p in points}),
        "steps": steps_per_epoch(points),
        "epochs": epochs,
        **{field: over(field) for field in ("wga", "average", "val_wga")},
    }


def _groups(points: Sequence[GroupAccuracy]) -> list[GroupRow]:
    own: dict[tuple[str, str, str], list[GroupAccuracy]] = {}
    for point in points:
        own.setdefault((point.dataset, point.method, point.group), []).append(point)
    rows = []
    for (panel, method, group), found in own.items():
        cell = mean_cell([p.accuracy for p in found], [(p.low, p.high) for p in found])
        sd, low, high = cell.sd if cell.n > 1 else None, _json(cell.low), _json(cell.high)
        rows.append(GroupRow(panel, method, group, found[0].n, cell.mean, sd, low, high, cell.n, False))
    worst: dict[tuple[str, str], GroupRow] = {}
    for row in rows:
        key = row.panel, row.method
        if key not in worst or row.mean < worst[key].mean:
            worst[key] = row
    return [replace(row, is_worst=worst[row.panel, row.method] is row) for row in rows]


def _rho(records: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    ranges = null_ranges(records, all_ratios=True)
    panels: dict[str, list[dict[str, Any]]] = {}
    for r in ranges:
        panels.setdefault(r.run, []).append(
            {
                "name": r.class_name, "rho": r.rho, "p": _json(r.p_value), "reading": r.reading,
                "null": [r.quantiles[level] for level in NULL_LEVELS] if set(NULL_LEVELS) <= {*r.quantiles} else None,
                "minority": r.minority, "n_minority": r.n_minority, "n_majority": r.n_majority,
            }
        )  # fmt: skip
    return tuple({"title": title, "classes": classes} for title, classes in panels.items())


def _spectra(records: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    panels: dict[str, list[dict[str, Any]]] = {}
    runs: dict[str, int] = {}
    for s in mean_spectra(group_spectra(records)):
        positive = [v for v in s.mean if v > 0]
        if positive:
            panels.setdefault(s.dataset, []).append(
                {"name": s.group, "n": s.n, "minority": s.is_minority, "values": positive}
            )
            runs[s.dataset] = max(runs.get(s.dataset, 1), s.runs)
    return tuple(
        {"title": title + (f", mean of {runs[title]} runs" if runs[title] > 1 else ""), "groups": groups}
        for title, groups in panels.items()
    )


def _run(record: dict[str, Any]) -> tuple[Any, ...]:
    made, test, ledger = record["provenance"], final_metrics(record) or {}, record.get("label_ledger") or {}
    wga = test.get("wga") or {}
    return (
        str(record.get("command")), made.get("dataset"), made.get("backbone"), method_of(record), record.get("seed"),
        wga.get("value"), wga.get("low"), wga.get("high"), test.get("worst_group"),
        (test.get("average") or {}).get("value"), *(_text(ledger.get(k, [])) for k in ("train", "selection")),
        record.get("time"),
    )  # fmt: skip


def _with_backbone(record: dict[str, Any], short: Mapping[str, str]) -> dict[str, Any]:
    made = record["provenance"]
    if "backbone" not in made:
        return record
    return {**record, "provenance": made | {"backbone": short[str(made["backbone"])]}}


def _settings(record: dict[str, Any]) -> dict[str, Any]:
    names = ("config", "label_ledger", "device", "versions", "provenance")
    shown = {name: record[name] for name in names if name in record}
    config = {k: PurePath(v).name if k in PLACES and isinstance(v, str) else v for k, v in shown["config"].items()}
    return shown | {"config": config}


def _provenance(records: Sequence[dict[str, Any]]) -> tuple[Provenanced, ...]:
    found: dict[str, Provenanced] = {}
    for record in records:
        made = record["provenance"]
        key = json.dumps({k: v for k, v in made.items() if k != "versions"}, sort_keys=True)
        rows = tuple((name, _text(value)) for name, value in made.items() if value not in ("", None, {}))
        found.setdefault(key, Provenanced(f"{made.get('dataset')}, {made.get('backbone')}", rows))
    return tuple(found.values())


def _facts(records: Sequence[dict[str, Any]], commands: set[str]) -> list[tuple[str, str]]:
    ledgers = {_text(r["label_ledger"]) for r in records if "label_ledger" in r}
    versions = {_text(r.get("versions", {})) for r in records}
    devices = {str(r.get("device")) for r in records}
    times = sorted(str(r.get("time")) for r in records)
    return [
        ("commands", ", ".join(sorted(commands))),
        *(("labels used", text) for text in sorted(ledgers)),
        ("devices", ", ".join(sorted(devices))),
        *(("versions", text) for text in sorted(versions)),
        ("recorded", f"{times[0]} to {times[-1]}"),
    ]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_text(v)}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return str(value)


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
