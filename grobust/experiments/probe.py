"""`run_probe`: last-layer heads for every balancing method and seed, L2 chosen on validation, metrics per group."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import resolve_device, to_device, to_numpy
from grobust.balancing import BalancedSample, BalanceSummary, balance_summary, make_balancer
from grobust.errors import DataError
from grobust.experiments.config import ProbeConfig, plain
from grobust.experiments.environment import library_versions
from grobust.experiments.records import LabelLedger, Record, append_records
from grobust.features._schema import Provenance
from grobust.features.store import FeatureStore
from grobust.groups import Groups, Split
from grobust.metrics import Estimate, GroupMetrics, group_metrics
from grobust.probe import Head, ProbeFit, fit_probes
from grobust.settings import LBFGS, BalanceBy, BalanceMethod, SelectBy

__all__ = ["ProbeReport", "ProbeRun", "run_probe"]


@dataclass(frozen=True, eq=False)
class ProbeRun:
    """One method and seed: the chosen head and its metrics.

    Parameters
    ----------
    method, seed : of the run
    l2 : strength chosen on validation
    scores : L2 strength → validation score of every candidate
    fit : the chosen head with its optimality
    balance : rows and steps per epoch, repetition, batch shares
    val, test : metrics; `val` was used to choose, `test` only to report
    notes : of the balance and of the fit
    """

    method: BalanceMethod
    seed: int
    l2: float
    scores: dict[float, float]
    fit: ProbeFit
    balance: BalanceSummary
    val: GroupMetrics
    test: GroupMetrics
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able results of the run."""
        return {
            "method": str(self.method),
            "seed": self.seed,
            "l2": self.l2,
            "validation_scores": [{"l2": l2, "score": score} for l2, score in self.scores.items()],
            "fit": {
                "status": str(self.fit.status),
                "message": self.fit.message,
                "n_iter": self.fit.n_iter,
                "objective": self.fit.objective,
                "grad_norm": self.fit.grad_norm,
            },
            "balance": asdict(self.balance),
            "val": self.val.as_dict(),
            "test": self.test.as_dict(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class ProbeReport:
    """All runs of one `ProbeConfig`, in the order of methods and seeds."""

    config: ProbeConfig
    provenance: Provenance
    ledger: LabelLedger
    runs: tuple[ProbeRun, ...]
    notes: tuple[str, ...]
    device: str

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
            "select": str(self.config.select),
            "label_ledger": asdict(self.ledger),
            "runs": [run.as_dict() for run in self.runs],
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class _Part:
    """One split: features on the device, groups on the host."""

    features: Any
    groups: Groups


def run_probe(config: ProbeConfig) -> ProbeReport:
    """Fit every method × seed × L2 strength in one solve, choose L2 on validation, evaluate on test.

    The convex engine minimizes the *expected* loss of a balanced sample, so methods that agree in expectation give
    the same head and are solved once; the notes say which.

    Raises
    ------
    DataError
        If a split without which the run has no meaning has no rows.
    """
    device = resolve_device(config.device)
    with FeatureStore(config.store) as store:
        provenance = store.provenance
        train, val, test = (_load(store, split, device) for split in (Split.TRAIN, Split.VAL, Split.TEST))
    _check_splits(config, train, val, test)
    cells = [(method, seed) for method in config.balance for seed in config.seeds]
    balancers = {
        m: make_balancer(m, by=config.by, ratio=config.ratio, normalize=config.normalize) for m in config.balance
    }
    samples = [balancers[method].sample(train.groups, seed=seed) for method, seed in cells]
    weights, which = _distinct([sample.expected_weights() for sample in samples])
    heads = [Head(weights=w, l2=l2) for w in weights for l2 in config.l2]
    fits = fit_probes(
        train.features,
        to_device(train.groups.labels, device),
        heads,
        n_classes=train.groups.n_classes,
        solver=LBFGS(rtol=config.rtol, max_iter=config.max_iter),
    )
    per_weights = [fits[i * len(config.l2) : (i + 1) * len(config.l2)] for i in range(len(weights))]
    chosen = [_choose(config, candidates, val) for candidates in per_weights]
    counts = train.groups.counts
    evaluated = [(_evaluate(fit, val, counts), _evaluate(fit, test, counts)) for fit, _ in chosen]
    runs = tuple(
        _run(config, cell, sample, train.groups, chosen[i], evaluated[i])
        for cell, sample, i in zip(cells, samples, which, strict=True)
    )
    report = ProbeReport(
        config=config,
        provenance=provenance,
        ledger=LabelLedger.of(
            group_training=config.by is BalanceBy.GROUP and set(config.balance) != {BalanceMethod.NONE},
            group_selection=config.select.needs_groups,
            selects=len(config.l2) > 1,
        ),
        runs=runs,
        notes=_notes(config, cells, which, train.groups),
        device=device,
    )
    if config.records is not None:
        append_records(config.records, _records(report))
    return report


def _load(store: FeatureStore, split: Split, device: Any) -> _Part:
    features, groups = store.load(split)
    return _Part(to_device(features, device), groups)


def _check_splits(config: ProbeConfig, train: _Part, val: _Part, test: _Part) -> None:
    if len(train.groups) == 0:
        raise DataError(f"{config.store} has no training rows; a probe needs some.")
    if len(test.groups) == 0:
        raise DataError(f"{config.store} has no test rows; there is nothing to report on.")
    if len(val.groups) == 0 and len(config.l2) > 1:
        raise DataError(
            f"{config.store} has no validation rows, so {len(config.l2)} L2 strengths cannot be chosen from.\n"
            "Give one strength (--l2 1e-3), or extract with a validation split."
        )


def _distinct(weights: list[NDArray[Any]]) -> tuple[list[NDArray[Any]], list[int]]:
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


def _choose(config: ProbeConfig, fits: tuple[ProbeFit, ...], val: _Part) -> tuple[ProbeFit, dict[float, float]]:
    """The fit with the largest validation score, the first in declared order on a tie; and all scores."""
    if len(fits) == 1:
        return fits[0], {}
    scores = [_score(config.select, _evaluate(fit, val, None)) for fit in fits]
    best = int(np.argmax(scores))
    return fits[best], dict(zip(config.l2, scores, strict=True))


def _score(select: SelectBy, metrics: GroupMetrics) -> float:
    estimates: dict[SelectBy, Estimate] = {
        SelectBy.WORST_CLASS: metrics.worst_class,
        SelectBy.WGA: metrics.wga,
        SelectBy.AVERAGE: metrics.average,
        SelectBy.AVERAGE_GROUP: metrics.average_group,
    }
    return estimates[select].value


def _evaluate(fit: ProbeFit, part: _Part, train_counts: NDArray[Any] | None) -> GroupMetrics:
    predictions = to_numpy(fit.probe.predict(part.features)).astype(np.int64)
    return group_metrics(predictions, part.groups, train_counts=train_counts)


def _run(
    config: ProbeConfig,
    cell: tuple[BalanceMethod, int],
    sample: BalancedSample,
    train: Groups,
    chosen: tuple[ProbeFit, dict[float, float]],
    evaluated: tuple[GroupMetrics, GroupMetrics],
) -> ProbeRun:
    method, seed = cell
    fit, scores = chosen
    val, test = evaluated
    notes = [*sample.notes, *test.notes]
    if fit.status != "converged":
        notes.append(f"{method}, seed {seed}, l2 {fit.l2:g}: {fit.message}")
    return ProbeRun(
        method=method, seed=seed, l2=fit.l2, scores=scores, fit=fit, balance=balance_summary(sample, train),
        val=val, test=test, notes=tuple(notes),
    )  # fmt: skip


def _notes(
    config: ProbeConfig, cells: list[tuple[BalanceMethod, int]], which: list[int], train: Groups
) -> tuple[str, ...]:
    notes = []
    by_head: dict[int, set[BalanceMethod]] = {}
    for (method, _), head in zip(cells, which, strict=True):
        by_head.setdefault(head, set()).add(method)
    for methods in by_head.values():
        if len(methods) > 1:
            names = ", ".join(sorted(methods))
            notes.append(f"{names} agree in expectation: at the optimum they are one head, so their rows are equal")
    repeated = [m for m in config.balance if len({h for (c, _), h in zip(cells, which, strict=True) if c is m}) == 1]
    if repeated and len(config.seeds) > 1:
        notes.append(f"nothing is random in {', '.join(repeated)} at the optimum: its seeds give one head")
    return tuple(notes)


def _records(report: ProbeReport) -> list[Record]:
    config = plain(report.config)
    return [
        Record(
            command="probe",
            config=config,
            provenance=asdict(report.provenance),
            versions=library_versions(),
            device=report.device,
            seed=run.seed,
            label_ledger=asdict(report.ledger),
            results=run.as_dict(),
        )
        for run in report.runs
    ]
