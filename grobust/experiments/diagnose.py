"""`run_diagnose`: does a head on these features lean on the attribute, and what would help?

Training rows are cross-validated; validation rows, if there are any, check the conclusion. Test rows are never read.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import on_cuda, resolve_device, to_device, to_numpy
from grobust.balancing import make_balancer
from grobust.comparison import Difference, bootstrap_rows, holm
from grobust.diagnosis import (
    Alignment,
    CrossValidated,
    Effect,
    Problem,
    alignment,
    class_gaps,
    conclude,
    cross_validate,
)
from grobust.experiments.config import SpectrumConfig, plain
from grobust.experiments.diagnosis_report import BlindChoice, Check, Decodability, DiagnoseReport, Ratio
from grobust.experiments.diagnosis_rows import FEW_ROWS, TrainingRows, training_rows, validation_rows
from grobust.experiments.environment import library_versions
from grobust.experiments.evidence_config import DiagnoseConfig
from grobust.experiments.records import LabelLedger, Record, append_records
from grobust.experiments.spectrum import run_spectrum
from grobust.experiments.splits import require_disjoint
from grobust.features.store import FeatureStore
from grobust.groups import Groups, Split
from grobust.metrics import group_metrics
from grobust.probe import Head, Probe, fit_probes, logits_by_block
from grobust.selection import ProxyReading, Selector, ValidationArrays
from grobust.settings import BalanceBy, BalanceMethod, SelectBy
from grobust.spectrum import Against
from grobust.typing import Array

__all__ = ["run_diagnose"]

PLAIN, PROXY, ATTRIBUTE = "none", "bias proxy", "attribute"
BALANCED = 1.01
BLIND = (SelectBy.WORST_CLASS, SelectBy.BIAS_UNSUPERVISED, SelectBy.CLASS_DIFFERENCE, SelectBy.AVERAGE)
UNCORRECTED = (
    "p-values are corrected for their number, intervals are not; a loss to the best does not account for its having "
    "been picked"
)
STEPS = ("strength", "methods", "rows", "directions", "spectra", "validation")


def run_diagnose(
    config: DiagnoseConfig, *, on_progress: Callable[[int, int, str], None] | None = None
) -> DiagnoseReport:
    """Diagnose a feature store from its training and validation rows.

    Parameters
    ----------
    on_progress : called with the number of finished steps, of all steps, and the name of the next

    Raises
    ------
    DataError
        If there are no training rows, fewer than two classes, or a class with a single row.
    GroupError
        If a class has no training rows.
    """
    step = _Steps(on_progress)
    device = resolve_device(config.device)
    with FeatureStore(config.store) as store:
        require_disjoint(store.provenance.dataset, store.groups, "Diagnoses")
        data, val = training_rows(config, store), validation_rows(store)
        features = to_device(data.features, device)
        notes = list(data.notes)
        step("strength")
        l2 = _strength(config, features, data.groups)
        step("methods")
        methods, skipped = _methods(config, data.groups, data.has_attributes)
        found = _cross_validate(config, features, data, methods, l2)
        notes += skipped
        step("rows")
        effects, drawn = _effects(config, data, methods, found)
        plain_metrics = group_metrics(found.of(PLAIN), data.groups, train_counts=data.groups.counts)
        gaps = class_gaps(plain_metrics, data.groups, level=1 - config.alpha) if data.has_attributes else ()
        blind, of_proxy = _blind(config, data, methods, found, effects, drawn) if data.has_attributes else ((), ())
        step("directions")
        heads = {PLAIN: _final_head(config, features, data, methods[0], l2)}
        alignments: tuple[Alignment, ...] = ()
        if data.has_attributes:
            weight = to_numpy(heads[PLAIN].weight)
            alignments = alignment(
                data.features, data.groups, weight, permutations=config.permutations, seed=config.seed
            )
        verdict = conclude(gaps, effects, alpha=config.alpha, has_attributes=data.has_attributes, alignments=alignments)
        step("spectra")
        ratios, of_spectra = _ratios(config) if data.has_attributes else ((), ())
        step("validation")
        for method in methods:
            if method.name == verdict.remedy and val is not None:
                heads[method.name] = _final_head(config, features, data, method, l2)
        check = None if val is None else _check(config, val, heads, data.has_attributes)
        provenance = store.provenance
    notes += [*plain_metrics.notes, *of_proxy, *of_spectra, UNCORRECTED]
    if found.unfinished:
        notes.append(f"{found.unfinished} heads of the cross-validation did not converge")
    if data.has_attributes and not alignments:
        notes.append("no directions: too many features, or no class with two attribute values")
    report = DiagnoseReport(
        config=config, provenance=provenance, groups=data.groups, has_attributes=data.has_attributes, l2=l2,
        plain=plain_metrics, gaps=gaps, decodability=_decodability(data, found), alignments=alignments, ratios=ratios,
        effects=effects, blind=blind, check=check, verdict=verdict, notes=tuple(dict.fromkeys(notes)), device=device,
    )  # fmt: skip
    step(None)
    if config.records is not None:
        append_records(config.records, [_record(report)])
    return report


class _Steps:
    """Tells of finished steps."""

    def __init__(self, tell: Callable[[int, int, str], None] | None) -> None:
        self._tell = tell

    def __call__(self, name: str | None) -> None:
        if self._tell is not None:
            done = len(STEPS) if name is None else STEPS.index(name)
            self._tell(done, len(STEPS), name or "done")


def _strength(config: DiagnoseConfig, features: Array, groups: Groups) -> float:
    """The strength with the largest average accuracy of the plain head; the first on a tie."""
    plain_balance = make_balancer(BalanceMethod.NONE)
    problems = [Problem(str(l2), plain_balance, l2) for l2 in config.l2]
    found = cross_validate(features, groups, problems, folds=config.folds, seed=config.seed)
    return config.l2[int(np.argmax((found.predictions == groups.labels).mean(axis=1)))]


@dataclass(frozen=True)
class _Method:
    name: str
    method: BalanceMethod
    by: BalanceBy = BalanceBy.CLASS
    ratio: float = 2.0

    def problem(self, l2: float) -> Problem:
        return Problem(self.name, make_balancer(self.method, by=self.by, ratio=self.ratio), l2)


def _methods(config: DiagnoseConfig, groups: Groups, has_attributes: bool) -> tuple[tuple[_Method, ...], list[str]]:
    """Balancing methods that differ from each other on these counts, and why others are left out."""
    ratio, notes = config.ratio, []
    methods = [_Method(PLAIN, BalanceMethod.NONE)]
    gamma = groups.class_counts.max() / groups.class_counts.min()
    if gamma > BALANCED:
        methods += [_Method("subsetting", BalanceMethod.SUBSETTING), _Method("upsampling", BalanceMethod.UPSAMPLING)]
        if ratio < gamma:
            methods.append(_Method(f"mixture {ratio:g}:1", BalanceMethod.MIXTURE, ratio=ratio))
    else:
        notes.append("classes are balanced: class balancing would change nothing")
    if has_attributes:
        counts = groups.counts[groups.counts > 0]
        methods.append(_Method("upsampling by group", BalanceMethod.UPSAMPLING, BalanceBy.GROUP))
        if counts.min() >= FEW_ROWS:
            methods.append(_Method("subsetting by group", BalanceMethod.SUBSETTING, BalanceBy.GROUP))
        else:
            notes.append(f"no subsetting by group: it would keep {counts.min()} row(s) of each")
    notes.append("upweighting is the same head as upsampling at the optimum")
    return tuple(methods), notes


def _cross_validate(
    config: DiagnoseConfig, features: Array, data: TrainingRows, methods: tuple[_Method, ...], l2: float
) -> CrossValidated:
    problems = [method.problem(l2) for method in methods]
    problems.append(Problem(PROXY, make_balancer(BalanceMethod.NONE), config.proxy_l2))
    if data.attribute_groups is not None:
        balancer = make_balancer(BalanceMethod.UPSAMPLING, by=BalanceBy.GROUP)
        problems.append(Problem(ATTRIBUTE, balancer, l2, data.attribute_groups))
    return cross_validate(features, data.groups, problems, folds=config.folds, seed=config.seed)


def _metric(has_attributes: bool) -> SelectBy:
    return SelectBy.WGA if has_attributes else SelectBy.WORST_CLASS


def _effects(
    config: DiagnoseConfig, data: TrainingRows, methods: tuple[_Method, ...], found: CrossValidated
) -> tuple[tuple[Effect, ...], Any]:
    """Every method's metrics and gain over none, and the bootstrap behind them."""
    correct = found.predictions[: len(methods)] == data.groups.labels
    metric, level = _metric(data.has_attributes), 1 - config.alpha
    drawn = bootstrap_rows(correct, data.groups, metric=metric, replicates=config.replicates, seed=config.seed)
    gains = [Difference(0.0, math.nan, math.nan, math.nan)]
    gains += [drawn.difference([h], [0], level=level) for h in range(1, len(methods))]
    effects = []
    for method, gain, p, predicted in zip(
        methods, gains, holm([g.p_value for g in gains]), found.predictions, strict=False
    ):
        m = group_metrics(predicted, data.groups)
        worst, name = (m.wga, m.worst_group_name) if data.has_attributes else (m.worst_class, m.worst_class_name)
        effects.append(
            Effect(
                method.name, method.by is BalanceBy.GROUP, worst, name or "–", m.average, m.worst_class, gain, float(p)
            )
        )
    return tuple(effects), drawn


def _decodability(data: TrainingRows, found: CrossValidated) -> Decodability | None:
    if data.attribute_groups is None:
        return None
    metrics = group_metrics(found.of(ATTRIBUTE), data.attribute_groups)
    return Decodability(metrics.average_group, 1 / data.attribute_groups.n_classes)


def _blind(
    config: DiagnoseConfig, data: TrainingRows, methods: tuple[_Method, ...], found: CrossValidated,
    effects: tuple[Effect, ...], drawn: Any,
) -> tuple[tuple[BlindChoice, ...], tuple[str, ...]]:  # fmt: skip
    """Choices among the methods that need no attributes in training, by scores that need none either."""
    usable = [h for h, method in enumerate(methods) if method.by is BalanceBy.CLASS]
    best = int(np.argmax([effect.worst.value for effect in effects]))
    # Out-of-fold rows stand in for a validation split.
    labels_only = Groups(
        data.groups.labels, np.zeros(len(data.groups), dtype=np.int64), data.groups.class_names, ("any",)
    )
    reading = ProxyReading.of_predictions(found.of(PROXY), labels_only, description="cross-validated plain head")
    rows = ValidationArrays(labels_only, np.full(len(labels_only), Split.VAL), reading)
    choices = []
    for criterion in BLIND:
        names = [methods[h].name for h in usable]
        choice = Selector(criterion).choose(found.predictions[usable], rows, names=names)
        chosen = usable[choice.index]
        loss = drawn.difference([best], [chosen], level=1 - config.alpha)
        choices.append(BlindChoice(criterion, choice.name, effects[chosen].worst, loss))
    return tuple(choices), reading.notes


def _final_head(config: DiagnoseConfig, features: Array, data: TrainingRows, method: _Method, l2: float) -> Probe:
    """A method's head of all training rows, on the host."""
    balancer = method.problem(l2).balancer
    weights = balancer.sample(data.groups, seed=config.seed).expected_weights()
    labels = to_device(data.groups.labels, "cuda" if on_cuda(features) else "cpu")
    (fit,) = fit_probes(features, labels, [Head(weights=weights, l2=l2)], n_classes=data.groups.n_classes)
    return Probe(to_numpy(fit.probe.weight), to_numpy(fit.probe.bias))


def _check(
    config: DiagnoseConfig, val: tuple[NDArray[Any], Groups], heads: dict[str, Probe], has_attributes: bool
) -> Check:
    features, groups = val
    blocks = [logits.argmax(axis=2) for _, logits in logits_by_block(list(heads.values()), features)]
    predicted = np.concatenate(blocks).T
    metrics = [group_metrics(p, groups) for p in predicted]
    if len(metrics) == 1:
        return Check(metrics[0], None, None)
    correct = predicted == groups.labels
    drawn = bootstrap_rows(
        correct, groups, metric=_metric(has_attributes), replicates=config.replicates, seed=config.seed
    )
    return Check(metrics[0], metrics[1], drawn.difference([1], [0], level=1 - config.alpha))


def _ratios(config: DiagnoseConfig) -> tuple[tuple[Ratio, ...], tuple[str, ...]]:
    report = run_spectrum(
        SpectrumConfig(store=config.store, top=1, null=config.null, interval=0, permutations=0, diagnostics=None,
                       seed=config.seed)
    )  # fmt: skip
    found = []
    for ratio, inference in zip(report.ratios, report.inferences, strict=True):
        if ratio.against is Against.OTHER:
            continue
        low, high, reading = math.nan, math.nan, ratio.note or "no null"
        if inference is not None:
            low, high, reading = inference.null_low, inference.null_high, str(inference.reading)
        found.append(Ratio(ratio.class_name, ratio.rho, low, high, reading))
    return tuple(found), report.notes


def _record(report: DiagnoseReport) -> Record:
    config = report.config
    groups = report.has_attributes
    ledger = LabelLedger(
        **{**asdict(LabelLedger.of(group_training=groups, group_selection=groups, selects=True)), "evaluation": ()}
    )
    return Record(
        command="diagnose", config=plain(config), provenance=asdict(report.provenance), versions=library_versions(),
        device=report.device, seed=config.seed, label_ledger=asdict(ledger), results=report.as_dict(),
    )  # fmt: skip
