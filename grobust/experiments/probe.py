"""`run_probe`: last-layer heads for every balancing method and seed, chosen on validation, metrics per group.

Features are read from the store block by block and never held whole on the CPU.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import resolve_device, to_device, to_numpy
from grobust.balancing import BalanceSummary, balance_summary
from grobust.errors import DataError
from grobust.experiments.config import ProbeConfig
from grobust.experiments.records import LabelLedger
from grobust.experiments.splits import (
    Cell,
    Part,
    Parts,
    balanced,
    ledger_of,
    needs_proxy,
    notes_of,
    open_parts,
    recorded,
    reported,
    scores_of,
    validation_arrays,
)
from grobust.features._schema import Provenance
from grobust.features.store import FeatureStore
from grobust.groups import Groups
from grobust.heads import HeadInfo, Heads, save_heads
from grobust.metrics import GroupMetrics, metrics_of_counts
from grobust.probe import FitStatus, Head, ProbeFit, evaluate_probes, fit_probes, largest_l1
from grobust.report.figures import plot_wga_by_method
from grobust.report.views import method_result
from grobust.selection import BiasProxy, ValidationArrays, best
from grobust.settings import LBFGS, BalanceMethod, Penalty

__all__ = ["Candidate", "ProbeReport", "ProbeRun", "run_probe"]


@dataclass(frozen=True)
class Candidate:
    """Strengths of one head that could have been chosen, its validation score (None without validation rows), and how
    its fit ended."""

    l2: float
    l1: float
    score: float | None
    status: FitStatus


@dataclass(frozen=True, eq=False)
class ProbeRun:
    """One method and seed: the chosen head and its metrics.

    Parameters
    ----------
    method, seed : of the run
    l2, l1 : strengths chosen on validation
    candidates : all that could be chosen, in the order tried
    fit : the chosen head with its optimality
    balance : rows and steps per epoch, repetition, batch shares
    val, test : metrics; `val` was used to choose, `test` only to report
    val_scores : every score of `grobust.selection` that could be computed on validation rows
    notes : of the balance and of the fits
    """

    method: BalanceMethod
    seed: int
    l2: float
    l1: float
    candidates: tuple[Candidate, ...]
    fit: ProbeFit
    balance: BalanceSummary
    val: GroupMetrics
    test: GroupMetrics
    val_scores: dict[str, float]
    notes: tuple[str, ...]

    @property
    def nonzero_weights(self) -> int:
        """Weights of the chosen head that are not zero, intercepts apart."""
        return int((to_numpy(self.fit.probe.weight) != 0).sum())

    @property
    def unfinished(self) -> int:
        """Candidates whose fit did not converge."""
        return sum(c.status is not FitStatus.CONVERGED for c in self.candidates)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able results of the run."""
        return {
            "method": str(self.method),
            "seed": self.seed,
            "l2": self.l2,
            "l1": self.l1,
            "candidates": [{**asdict(c), "status": str(c.status)} for c in self.candidates],
            "fit": {
                "status": str(self.fit.status),
                "message": self.fit.message,
                "n_iter": self.fit.n_iter,
                "objective": self.fit.objective,
                "gap": self.fit.gap if math.isfinite(self.fit.gap) else None,
                "grad_norm": self.fit.grad_norm,
                "nonzero_weights": self.nonzero_weights,
            },
            "balance": asdict(self.balance),
            "val": self.val.as_dict(),
            "val_scores": self.val_scores,
            "test": self.test.as_dict(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class ProbeReport:
    """All runs of one `ProbeConfig`, in the order of methods and seeds; `proxy` is what a bias proxy said, if asked."""

    config: ProbeConfig
    provenance: Provenance
    ledger: LabelLedger
    runs: tuple[ProbeRun, ...]
    notes: tuple[str, ...]
    device: str
    proxy: dict[str, Any] | None = None
    figures: tuple[str, ...] = ()

    def of_method(self, method: BalanceMethod) -> tuple[ProbeRun, ...]:
        """Runs of one method, one per seed."""
        return tuple(run for run in self.runs if run.method is method)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "store": str(self.config.store),
            "dataset": self.provenance.dataset,
            "backbone": self.provenance.backbone,
            "by": str(self.config.by),
            "ratio": self.config.ratio,
            "penalty": str(self.config.penalty),
            "select": str(self.config.select),
            "label_ledger": asdict(self.ledger),
            "proxy": self.proxy,
            "runs": [run.as_dict() for run in self.runs],
            "notes": list(self.notes),
            "heads": None if self.config.save is None else str(self.config.save),
            "figures": list(self.figures),
        }


def run_probe(config: ProbeConfig, *, on_progress: Callable[[int, int], None] | None = None) -> ProbeReport:
    """Fit every method × seed × strength in one solve, choose the strengths on validation, evaluate on test.

    The convex engine minimizes the *expected* loss of a balanced sample, so methods that agree in expectation give
    the same head and are solved once; the notes say which. Test rows are read once, for the chosen heads alone.

    Parameters
    ----------
    on_progress : called with the number of heads solved and of all heads

    Raises
    ------
    DataError
        If a split without which the run has no meaning has no rows.
    """
    device = resolve_device(config.device)
    with FeatureStore(config.store) as store:
        provenance = store.provenance
        parts = open_parts(store, device, work_bytes=config.max_bytes)
        _check_choice(config, parts.val)
        cells = balanced(config, parts.train.groups)
        weights, which = _distinct(cell.sample.expected_weights() for cell in cells)
        strengths = _strengths(config, parts.train, weights)
        heads = [Head(weights=w, l2=l2, l1=l1) for w, own in zip(weights, strengths, strict=True) for l2, l1 in own]
        with_proxy = needs_proxy(config, parts.val)
        fits = fit_probes(
            parts.train.features,
            to_device(parts.train.groups.labels, device),
            [*heads, BiasProxy.head(config.proxy_l2)] if with_proxy else heads,
            n_classes=parts.train.groups.n_classes,
            solver=LBFGS(rtol=config.rtol, max_iter=config.max_iter),
            max_bytes=config.max_bytes,
            progress=on_progress,
        )
        size = len(config.strengths)
        proxy = BiasProxy(fits[-1].probe, config.proxy_l2) if with_proxy else None
        validation = validation_arrays(store, parts.val, proxy)
        chosen = _choose(
            config, [fits[i * size : (i + 1) * size] for i in range(len(weights))], parts, validation, provenance
        )
    runs = tuple(_run(cell, parts.train.groups, chosen[i]) for cell, i in zip(cells, which, strict=True))
    report = ProbeReport(
        config=config,
        provenance=provenance,
        ledger=ledger_of(config, selects=size > 1),
        runs=runs,
        notes=(
            *_notes(config, cells, which, parts.train.groups),
            *notes_of(config.select, validation),
            *_device_notes(config, parts),
        ),
        device=device,
        proxy=None if validation.proxy is None else validation.proxy.as_dict(validation.groups),
    )
    return _written(report, cells, parts.train.groups)


def _check_choice(config: ProbeConfig, val: Part) -> None:
    if len(val.groups) == 0 and len(config.strengths) > 1:
        raise DataError(
            f"{config.store} has no validation rows, so {len(config.strengths)} strengths cannot be chosen from.\n"
            "Give one strength (--l2 1e-3), or extract with a validation split."
        )


def _distinct(weights: Iterable[NDArray[Any]]) -> tuple[list[NDArray[Any]], list[int]]:
    """Weights without repeats (to rounding), and for each input the index of its representative."""
    kept: list[NDArray[Any]] = []
    which = []
    for candidate in weights:
        same = (i for i, seen in enumerate(kept) if np.allclose(seen, candidate, rtol=1e-12, atol=0))
        index = next(same, len(kept))
        if index == len(kept):
            kept.append(candidate)
        which.append(index)
    return kept, which


def _strengths(config: ProbeConfig, train: Part, weights: list[NDArray[Any]]) -> list[list[tuple[float, float]]]:
    """Strengths (l2, l1) of the candidates of every weighting."""
    if config.penalty is Penalty.L2 or not config.l1_relative:
        return [list(config.strengths)] * len(weights)
    largest = largest_l1(train.features, train.groups.labels, weights, n_classes=train.groups.n_classes)
    return [[(l2, share * top) for l2, share in config.strengths] for top in largest.tolist()]


@dataclass(frozen=True, eq=False)
class _Chosen:
    """The head chosen for one weighting, among what, and its metrics."""

    fit: ProbeFit
    candidates: tuple[Candidate, ...]
    val: GroupMetrics
    val_scores: dict[str, float]
    test: GroupMetrics


def _choose(
    config: ProbeConfig,
    fits: list[tuple[ProbeFit, ...]],
    parts: Parts,
    validation: ValidationArrays,
    provenance: Provenance,
) -> list[_Chosen]:
    """For every weighting the fit with the largest validation score, the first in declared order on a tie."""
    counts = parts.train.groups.counts
    flat = [fit.probe for own in fits for fit in own]
    size = len(config.strengths)
    of_cells = [found.correct for found in evaluate_probes(flat, parts.val.features, validation.cells)]
    correct = np.reshape(of_cells, (len(fits), size, -1))
    by_select, everything = scores_of(config.select, validation, correct)
    picks, tables, on_val = [], [], []
    for i, own in enumerate(fits):
        scores = by_select[i]
        pick = best(scores)
        picks.append(own[pick])
        of_groups = metrics_of_counts(validation.by_group(correct[i, pick]), validation.groups, train_counts=counts)
        (of_groups,) = reported([of_groups], provenance, validation.groups)
        on_val.append((of_groups, {name: float(found[i, pick]) for name, found in everything.items()}))
        tables.append(
            tuple(
                Candidate(fit.l2, fit.l1, None if math.isnan(score) else score, fit.status)
                for fit, score in zip(own, scores.tolist(), strict=True)
            )
        )
    on_test = evaluate_probes(
        [fit.probe for fit in picks], parts.test.features, parts.test.groups, train_counts=counts
    )  # fmt: skip
    test = reported(on_test, provenance, parts.test.groups)
    return [_Chosen(fit, table, *val, seen) for fit, table, val, seen in zip(picks, tables, on_val, test, strict=True)]


def _run(cell: Cell, train: Groups, chosen: _Chosen) -> ProbeRun:
    fit = chosen.fit
    run = ProbeRun(
        method=cell.method, seed=cell.seed, l2=fit.l2, l1=fit.l1, candidates=chosen.candidates, fit=fit,
        balance=balance_summary(cell.sample, train), val=chosen.val, test=chosen.test, val_scores=chosen.val_scores,
        notes=(),
    )  # fmt: skip
    notes = [*cell.sample.notes, *chosen.test.notes]
    if fit.status is not FitStatus.CONVERGED:
        strength = f"l2 {fit.l2:g}" + (f", l1 {fit.l1:.3g}" if fit.l1 else "")
        notes.append(f"{cell.method}, seed {cell.seed}, {strength}: {fit.message}")
    others = run.unfinished - (fit.status is not FitStatus.CONVERGED)
    if others:
        notes.append(
            f"{cell.method}, seed {cell.seed}: {others} of the {len(run.candidates)} candidates, not chosen, did not "
            "converge; raise --max-iter or --rtol"
        )
    return replace(run, notes=tuple(notes))


def _notes(config: ProbeConfig, cells: tuple[Cell, ...], which: list[int], train: Groups) -> tuple[str, ...]:
    notes = []
    by_head: dict[int, set[BalanceMethod]] = {}
    for cell, head in zip(cells, which, strict=True):
        by_head.setdefault(head, set()).add(cell.method)
    for methods in by_head.values():
        if len(methods) > 1:
            names = ", ".join(sorted(methods))
            notes.append(f"{names} agree in expectation: at the optimum they are one head, so their rows are equal")
    heads_of = {m: {h for c, h in zip(cells, which, strict=True) if c.method is m} for m in config.balance}
    repeated = [m for m in config.balance if len(heads_of[m]) == 1]
    if repeated and len(config.seeds) > 1:
        notes.append(f"nothing is random in {', '.join(repeated)} at the optimum: its seeds give one head")
    return tuple(notes)


def _device_notes(config: ProbeConfig, parts: Parts) -> tuple[str, ...]:
    if not parts.note:
        return ()
    on_host = "l1: the device multiplies the features; coordinate descent on the weights runs on the host"
    return (parts.note,) if config.penalty is Penalty.L2 else (parts.note, on_host)


def _written(report: ProbeReport, cells: tuple[Cell, ...], train: Groups) -> ProbeReport:
    """Append records, save heads and draw, where asked for."""
    config = report.config
    records = recorded("probe", report)
    if config.save is not None:
        save_heads(_heads(report, cells, train), config.save)
    if config.figures is None:
        return report
    results = [method_result(asdict(record)) for record in records]
    return replace(
        report, figures=tuple(str(path) for path in plot_wga_by_method(results, config.figures / "wga_by_method"))
    )


def _heads(report: ProbeReport, cells: tuple[Cell, ...], train: Groups) -> Heads:
    config = report.config
    return Heads.of_probes(
        [run.fit.probe for run in report.runs],
        [
            HeadInfo(
                name=cell.name, method=str(run.method), by=str(config.by), ratio=cell.sample.ratio, seed=run.seed,
                l2=run.l2, l1=run.l1, status=str(run.fit.status), objective=run.fit.objective,
            )
            for cell, run in zip(cells, report.runs, strict=True)
        ],
        class_names=train.class_names, attribute_names=train.attribute_names, provenance=report.provenance,
    )  # fmt: skip
