"""`run_methods`: methods of the literature on a feature store, one protocol, one table.

A method sees training and validation rows; test rows are read once, for its head. Each run is recorded as it finishes.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from grobust.errors import DataError, GrobustError, GroupError, StoreMismatchError
from grobust.experiments.config import plain
from grobust.experiments.environment import library_versions
from grobust.experiments.methods_config import MethodsConfig
from grobust.experiments.records import LabelLedger, Record, append_records
from grobust.experiments.splits import open_parts, require_disjoint
from grobust.features._schema import Provenance
from grobust.features.store import FeatureStore
from grobust.groups import Split
from grobust.heads import HeadInfo, Heads, save_heads
from grobust.methods import METHODS, Features, Labels, Method, MethodFit, check_attributes, make_method
from grobust.metrics import GroupMetrics
from grobust.probe import evaluate_probes
from grobust.report.figures import plot_wga_by_method
from grobust.report.views import method_result

__all__ = ["MethodRun", "MethodsReport", "run_methods"]


@dataclass(frozen=True, eq=False)
class MethodRun:
    """One method and seed.

    Parameters
    ----------
    name, method, seed : of the run
    fit : what the method found
    labels : kinds of labels that it read: of training rows, of validation rows to train on, and to choose
    val : metrics of validation rows that the head (or the one judged in its place, see `MethodFit`) was not trained
        on; None where there are none
    test : metrics of test rows
    seconds : of the method; 0 where nothing is random and another seed's head was taken
    """

    name: str
    method: Method
    seed: int
    fit: MethodFit
    labels: Mapping[str, tuple[str, ...]]
    val: GroupMetrics | None
    test: GroupMetrics
    seconds: float

    @property
    def ledger(self) -> LabelLedger:
        """Labels used to train, on whatever rows, and to choose."""
        train = max(self.labels["train"], self.labels["reweighting"], key=len)
        return LabelLedger(train=train, selection=self.labels["selection"])

    def as_dict(self) -> dict[str, Any]:
        """JSON-able results of the run."""
        return {
            "method": self.name,
            "seed": self.seed,
            "source": self.method.about.source,
            "settings": plain(self.method),
            "labels": {key: list(kinds) for key, kinds in self.labels.items()},
            "chosen": dict(self.fit.chosen),
            "tried": [{**tried.settings, "score": tried.score} for tried in self.fit.tried],
            "details": {key: _finite(value) for key, value in self.fit.details.items()},
            "members": len(self.fit.members),
            "held_out": int(self.fit.held_out.size),
            "val": None if self.val is None else self.val.as_dict(),
            "test": self.test.as_dict(),
            "seconds": self.seconds,
            "notes": list(self.fit.notes),
        }


@dataclass(frozen=True, eq=False)
class MethodsReport:
    """All runs of one `MethodsConfig`, in the order of methods and seeds.

    Parameters
    ----------
    skipped : with ``all``, methods that the data do not allow, and why
    notes : what a reader must know of all
    """

    config: MethodsConfig
    provenance: Provenance
    runs: tuple[MethodRun, ...]
    skipped: Mapping[str, str]
    notes: tuple[str, ...]
    figures: tuple[str, ...] = ()

    def by_method(self) -> dict[str, tuple[MethodRun, ...]]:
        """Runs of every method, one per seed."""
        found: dict[str, tuple[MethodRun, ...]] = {}
        for run in self.runs:
            found[run.name] = (*found.get(run.name, ()), run)
        return found

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "store": str(self.config.store),
            "dataset": self.provenance.dataset,
            "backbone": self.provenance.backbone,
            "runs": [{**run.as_dict(), "label_ledger": asdict(run.ledger)} for run in self.runs],
            "skipped": dict(self.skipped),
            "notes": list(self.notes),
            "heads": None if self.config.save is None else str(self.config.save),
            "figures": list(self.figures),
        }


def run_methods(
    config: MethodsConfig, *, on_progress: Callable[[int, int, str], None] | None = None
) -> MethodsReport:  # fmt: skip
    """Run every method with every seed; features of training and validation rows are held in memory.

    With ``all``, methods that the data do not allow are left out and named; asked for by name, they are an error.

    Parameters
    ----------
    on_progress : called before each run with the number of runs done, that of all, and the name of the next

    Raises
    ------
    DataError
        If there are no training or no test rows, or fewer than two classes.
    GroupError
        If a method needs labels, classes or rows that the data do not have; methods that do without are named.
    StoreMismatchError
        If the early store has other rows.
    """
    with FeatureStore(config.store) as store:
        require_disjoint(store.provenance.dataset, store.groups, "Methods")
        parts = open_parts(store, "cpu")
        methods, skipped = _methods(config, parts.train.groups.n_attributes)
        check_attributes(methods, parts.train.groups)
        train, validation = _features(config, store)
        done, runs = 0, []
        for name, method in methods.items():
            known: MethodRun | None = None
            for seed in config.seeds:
                if on_progress is not None:
                    on_progress(done, len(methods) * len(config.seeds), name)
                done += 1
                if known is not None and not method.about.random:
                    runs.append(replace(known, seed=seed, seconds=0.0))
                    _record(config, store.provenance, runs[-1])
                    continue
                started = perf_counter()
                try:
                    fit = method(train, validation, seed=seed)
                except GrobustError as error:
                    if config.every and isinstance(error, GroupError | DataError):
                        skipped[name] = " ".join(str(error).split())
                        break
                    error.add_note(f"method {name}, seed {seed}")
                    raise
                seconds = perf_counter() - started
                known = _run(name, method, seed, fit, train, validation, parts.test, seconds)
                runs.append(known)
                _record(config, store.provenance, known)
        report = MethodsReport(
            config=config, provenance=store.provenance, runs=tuple(runs), skipped=skipped, notes=_notes(runs, train),
        )  # fmt: skip
        return _written(report, train)


def _methods(config: MethodsConfig, n_attributes: int) -> tuple[dict[str, Method], dict[str, str]]:
    """Methods to run, and those that the data do not allow."""
    skipped = {}
    names = list(config.methods)
    if config.every:
        names = list(METHODS)
        if n_attributes < 2:
            lost = [name for name in names if METHODS[name].needs.needs_attributes]
            skipped = dict.fromkeys(lost, "needs group labels, and the data have no attribute")
            names = [name for name in names if name not in lost]
    made = {name: make_method(name, config.settings.get(name, {}), select=config.select) for name in names}
    return made, skipped


def _features(config: MethodsConfig, store: FeatureStore) -> tuple[Features, Features]:
    """Training and validation rows, with the early store's where there is one."""
    splits = (Split.TRAIN, Split.VAL)
    loaded = [store.load(split) for split in splits]
    if config.early is None:
        first, second = (Features(values, groups) for values, groups in loaded)
        return first, second
    with FeatureStore(config.early) as early:
        if early.sample_ids != store.sample_ids or not np.array_equal(early.split, store.split):
            raise StoreMismatchError(
                f"{config.early} has other rows or another split than {config.store}: {early.n} and {store.n} rows.\n"
                "Extract the early checkpoint's features from the same data set."
            )
        first, second = (
            Features(values, groups, early.load(split)[0])
            for split, (values, groups) in zip(splits, loaded, strict=True)
        )
        return first, second


def _run(
    name: str, method: Method, seed: int, fit: MethodFit, train: Features, validation: Features, test: Any,
    seconds: float,
) -> MethodRun:  # fmt: skip
    counts = train.groups.counts
    val = None
    if fit.held_out.size:
        rows = validation.take(fit.held_out)
        head = fit.probe if fit.judged is None else fit.judged
        (val,) = evaluate_probes([head], rows.values, rows.groups, train_counts=counts)
    (on_test,) = evaluate_probes([fit.probe], test.features, test.groups, train_counts=counts)
    return MethodRun(name, method, seed, fit, _labels(method, fit, train), val, on_test, seconds)


def _labels(method: Method, fit: MethodFit, train: Features) -> dict[str, tuple[str, ...]]:
    """Kinds of labels read; without attributes groups are classes, and a single candidate is no choice."""
    most = Labels.GROUP if train.groups.n_attributes > 1 else Labels.CLASS
    needs = method.needs
    selection = needs.selection if len(fit.tried) > 1 else Labels.NONE
    return {
        key: Labels(min(value, most)).kinds
        for key, value in (("train", needs.train), ("reweighting", needs.reweighting), ("selection", selection))
    }


def _notes(runs: list[MethodRun], train: Features) -> tuple[str, ...]:
    notes = []
    if train.groups.n_attributes < 2:
        notes.append("the data have no attribute: worst-group accuracy is that of the worst class")
    trained_on = sorted({run.name for run in runs if run.labels["reweighting"]})
    if trained_on:
        notes.append(f"trained on validation rows: {', '.join(trained_on)}; their validation metrics are of the others")
    judged = sorted({run.name for run in runs if run.fit.judged is not None})
    if judged:
        notes.append(
            f"trained on all validation rows in the end: {', '.join(judged)}; validation metrics are of the head "
            "of the same settings on half of them"
        )
    fixed = list(dict.fromkeys(run.name for run in runs if not run.method.about.random))
    if fixed and len({run.seed for run in runs}) > 1:
        notes.append(f"nothing is random in {', '.join(fixed)}: their seeds give one head")
    return tuple(notes)


def _record(config: MethodsConfig, provenance: Provenance, run: MethodRun) -> None:
    if config.records is None:
        return
    settings = {**plain(config), "methods": [run.name], "settings": plain(run.method)}
    record = Record(
        command="methods", config=settings, provenance=asdict(provenance), versions=library_versions(), device="cpu",
        seed=run.seed, label_ledger=asdict(run.ledger), results=run.as_dict(),
    )  # fmt: skip
    append_records(config.records, [record])


def _written(report: MethodsReport, train: Features) -> MethodsReport:
    """Save heads and draw, where asked for."""
    config = report.config
    if config.save is not None and report.runs:
        save_heads(_heads(report, train), config.save)
    if config.figures is None or not report.runs:
        return report
    results = [
        method_result({"results": run.as_dict(), "provenance": asdict(report.provenance)}) for run in report.runs
    ]
    stem: Path = config.figures / "wga_by_method"
    return replace(report, figures=tuple(str(path) for path in plot_wga_by_method(results, stem)))


def _heads(report: MethodsReport, train: Features) -> Heads:
    infos = [
        HeadInfo(
            name=f"{run.name}/seed{run.seed}", method=run.name, seed=run.seed, l2=run.fit.chosen.get("l2"),
            objective=run.fit.details.get("objective"), status="chosen" if len(run.fit.tried) > 1 else "fitted",
        )
        for run in report.runs
    ]  # fmt: skip
    groups = train.groups
    return Heads.of_probes(
        [run.fit.probe for run in report.runs], infos, class_names=groups.class_names,
        attribute_names=groups.attribute_names, provenance=report.provenance,
    )  # fmt: skip


def _finite(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else value
