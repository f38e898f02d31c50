"""`run_compare`: methods compared with intervals: paired over seeds from records, and over rows from saved heads."""

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from grobust.comparison import (
    Difference,
    RowBootstrap,
    bootstrap_rows,
    holm,
    mean_interval,
    paired_over_seeds,
    seeds_needed,
)
from grobust.errors import ConfigError, DataError
from grobust.experiments.evidence_config import CompareConfig
from grobust.experiments.recorded import read_panels
from grobust.experiments.records import jsonable
from grobust.experiments.saved_heads import fitting_heads, method_of_head
from grobust.experiments.splits import require_disjoint
from grobust.features.store import FeatureStore
from grobust.groups import Split
from grobust.probe import logits_by_block

__all__ = ["CompareReport", "Compared", "Comparison", "Pair", "run_compare"]

UNDEFINED = Difference(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Compared:
    """One method: its values by seed with Student's interval for new seeds, and a bootstrap interval for new rows.

    `seeds` is empty where heads do not say theirs; `rows` is undefined for recorded runs, which keep no rows.
    """

    name: str
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    mean: float
    sd: float
    low: float
    high: float
    rows: Difference


@dataclass(frozen=True)
class Pair:
    """First less second method.

    Parameters
    ----------
    difference : of the means
    over_seeds : Student's interval and sign-flip p-value; NaN where a method has one seed
    over_rows : bootstrap interval and p-value; NaN without rows
    seeds_p, rows_p : p-values after Holm's correction over the pairs
    ranked : whether the evidence ranks the two
    verdict : in words
    """

    first: str
    second: str
    n_seeds: int
    difference: float
    over_seeds: Difference
    over_rows: Difference
    seeds_p: float
    rows_p: float
    ranked: bool
    verdict: str


@dataclass(frozen=True)
class Comparison:
    """Methods of one panel, and their pairs."""

    title: str
    n_rows: int | None
    methods: tuple[Compared, ...]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class CompareReport:
    """All comparisons of one `CompareConfig`."""

    config: CompareConfig
    comparisons: tuple[Comparison, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report; NaN becomes None."""
        return {
            "source": str(self.config.source),
            "heads": None if self.config.heads is None else str(self.config.heads),
            "metric": str(self.config.metric),
            "split": self.config.split,
            "alpha": self.config.alpha,
            "comparisons": [jsonable(each) for each in self.comparisons],
        }


def run_compare(config: CompareConfig) -> CompareReport:
    """Compare recorded methods over seeds; with heads and their store, saved heads over seeds and rows.

    Raises
    ------
    DataError
        If records, store or heads cannot be read, or there are no two methods to compare.
    StoreMismatchError
        If the heads were trained on other features or classes than the store holds.
    ConfigError
        If the baseline is no method there.
    """
    if config.heads is not None:
        return CompareReport(config, (_of_heads(config),))
    if config.split != "test":
        raise ConfigError("--split val needs --heads: records keep the metrics of the test split.")
    found = []
    for panel in read_panels(config.source, command=config.command):
        values = {
            c.name: {seed: run.points[-1].test.get(config.metric, math.nan) for seed, run in c.runs.items()}
            for c in panel.candidates
        }
        lacking = [name for name, own in values.items() if any(math.isnan(v) for v in own.values())]
        if lacking:
            raise DataError(f"{panel.title}: no {config.metric} on test rows is recorded for {', '.join(lacking)}.")
        note = "records keep no rows: the uncertainty of these test rows needs the saved heads, `--heads`"
        found.append(_compare(config, panel.title, values, None, {}, (*panel.notes, note)))
    return CompareReport(config, tuple(found))


def _of_heads(config: CompareConfig) -> Comparison:
    assert config.heads is not None
    with FeatureStore(config.source) as store:
        require_disjoint(store.provenance.dataset, store.groups, "Comparisons of heads")
        heads = fitting_heads(config.heads, store)
        split = Split[config.split.upper()]
        groups = store.groups.take(store.rows(split))
        if len(groups) == 0:
            raise DataError(f"{config.source} has no {config.split} rows to compare on.")
        correct = np.zeros((len(heads), len(groups)), dtype=bool)
        for lo, logits in logits_by_block([heads.probe(i) for i in range(len(heads))], store.view(split)):
            predicted = logits.argmax(axis=2).T
            correct[:, lo : lo + predicted.shape[1]] = predicted == groups.labels[lo : lo + predicted.shape[1]]
        title = f"{store.provenance.dataset}, {store.provenance.backbone}, {config.heads.name}"
    drawn = bootstrap_rows(correct, groups, metric=config.metric, replicates=config.replicates, seed=config.seed)
    values: dict[str, dict[int, float]] = {}
    places: dict[str, list[int]] = {}
    for i, info in enumerate(heads.infos):
        name = method_of_head(info)
        if info.seed is not None and info.seed in values.get(name, {}):
            name = info.name
        own = values.setdefault(name, {})
        own[len(own) if info.seed is None else info.seed] = float(drawn.observed[i])
        places.setdefault(name, []).append(i)
    absent = [name for name, n in zip(groups.names, groups.counts, strict=True) if n == 0]
    notes = (f"groups without {config.split} rows, left out: {', '.join(absent)}",) if absent else ()
    return _compare(config, title, values, drawn, places, notes, n_rows=len(groups))


def _compare(
    config: CompareConfig, title: str, values: dict[str, dict[int, float]], drawn: RowBootstrap | None,
    places: dict[str, list[int]], notes: tuple[str, ...], *, n_rows: int | None = None,
) -> Comparison:  # fmt: skip
    names = list(values)
    if len(names) < 2:
        raise DataError(f"{title} has one method ({names[0]}); a comparison needs two.")
    if config.baseline is not None and config.baseline not in names:
        known = ", ".join(names)
        raise ConfigError(f"--baseline: there is no method {config.baseline!r} in {title}. Methods: {known}.")
    level = 1 - config.alpha
    methods = []
    for name in names:
        own = np.array(list(values[name].values()))
        low, high = mean_interval(own, level=level)
        rows = UNDEFINED if drawn is None else drawn.value(places[name], level=level)
        mean, sd = float(own.mean()), float(own.std())
        methods.append(Compared(name, tuple(values[name]), tuple(own.tolist()), mean, sd, low, high, rows))
    of_baseline = [(name, config.baseline) for name in names if name != config.baseline]
    pairs = list(combinations(names, 2)) if config.baseline is None else of_baseline
    return Comparison(title, n_rows, tuple(methods), _pairs(config, values, drawn, places, pairs), notes)


def _pairs(
    config: CompareConfig, values: dict[str, dict[int, float]], drawn: RowBootstrap | None,
    places: dict[str, list[int]], names: list[tuple[str, Any]],
) -> tuple[Pair, ...]:  # fmt: skip
    level = 1 - config.alpha
    over_seeds, over_rows, n_seeds, varies = [], [], [], []
    for first, second in names:
        shared = [seed for seed in values[first] if seed in values[second]]
        a, b = (np.array([values[name][seed] for seed in shared]) for name in (first, second))
        n_seeds.append(len(shared))
        paired = paired_over_seeds(a, b, level=level) if shared else None
        over_seeds.append(UNDEFINED if paired is None else paired.difference)
        varies.append(bool(shared) and (np.ptp(a) > 0 or np.ptp(b) > 0))
        if drawn is None:
            over_rows.append(UNDEFINED)
        else:
            own = [[places[n][list(values[n]).index(s)] for s in shared] or places[n] for n in (first, second)]
            over_rows.append(drawn.difference(*own, level=level))
    # A difference that no seed changes is no sample of seeds: it has no p-value, and counts as no comparison.
    p_seeds = [found.p_value if v else math.nan for found, v in zip(over_seeds, varies, strict=True)]
    corrected = holm(np.array(p_seeds)), holm(np.array([found.p_value for found in over_rows]))
    needed = seeds_needed(max(1, int(np.isfinite(p_seeds).sum())), alpha=config.alpha)
    pairs = []
    for i, (first, second) in enumerate(names):
        value = over_seeds[i].value if n_seeds[i] else over_rows[i].value
        evidence = _Evidence(first, second, value, n_seeds[i], varies[i], needed, corrected[0][i], corrected[1][i])
        ranked, verdict = evidence.verdict(config.alpha)
        pairs.append(
            Pair(first, second, n_seeds[i], float(value), over_seeds[i], over_rows[i], float(corrected[0][i]),
                 float(corrected[1][i]), ranked, verdict)
        )  # fmt: skip
    return tuple(pairs)


@dataclass(frozen=True)
class _Evidence:
    """What is known of one pair; p-values are corrected, NaN where there is no test."""

    first: str
    second: str
    value: float
    n_seeds: int
    varies: bool
    needed: int
    seeds_p: float
    rows_p: float

    def verdict(self, alpha: float) -> tuple[bool, str]:
        """Whether the pair is ranked, and why or why not; both sources of chance must be answered for."""
        rows = not math.isnan(self.rows_p)
        better = f"{self.first if self.value > 0 else self.second} is better"
        if rows and self.rows_p > alpha:
            return False, f"not ranked: these rows cannot tell the two apart (p = {self.rows_p:.2g})"
        if self.n_seeds < 2:
            return False, f"not ranked: {self.n_seeds or 'no common'} seed says nothing about training{_so(rows)}"
        if not self.varies:
            if not rows:
                return False, "not ranked: no seed changes either value, and without rows there is nothing to test"
            return True, f"{better} on new rows (p = {self.rows_p:.2g}); no seed changes either value"
        if self.n_seeds < self.needed:
            return False, f"not ranked: {self.n_seeds} seeds are too few, {self.needed} are needed{_so(rows)}"
        if self.seeds_p > alpha:
            return False, f"not ranked: these seeds cannot tell the two apart (p = {self.seeds_p:.2g})"
        where = "over seeds and rows" if rows else "over seeds, on these test rows"
        return True, f"{better} {where} (p = {max(self.seeds_p, self.rows_p if rows else 0):.2g})"


def _so(rows: bool) -> str:
    return "; these very heads differ on new rows" if rows else ""
