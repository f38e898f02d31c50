"""DFR: the mean of l1 heads on group-balanced subsets.

Kirichenko, Izmailov and Wilson 2023, "Last layer re-training is sufficient for robustness to spurious correlations",
and their code. *Tuning*: a random half of the validation rows gives one group-balanced subset, on which a head is
fitted per inverse strength; the other half chooses by worst-group accuracy. *Final*: that strength on fresh
group-balanced subsets of all validation rows; coefficients and intercepts are averaged. With ``data="train"`` subsets
are of training rows and all validation rows choose.

For two classes a head is liblinear's: sum of losses plus Σ |w| / C with the intercept among the weights, on features
standardized by the scaler. For more classes it is the multinomial one with a free intercept (liblinear would be
one-vs-rest).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.balancing import Subsetting
from grobust.errors import ConfigError, GroupError
from grobust.groups import Groups
from grobust.methods.choose import choose, labels_of, unfinished
from grobust.methods.method import About, Features, LabelNeeds, Labels, MethodFit, halves, require_groups
from grobust.probe import Head, Probe, ProbeFit, feature_moments, fit_probes
from grobust.settings import LBFGS, BalanceBy, SelectBy

__all__ = ["CLASS_WEIGHTS", "DFR", "INVERSE_STRENGTHS", "DfrData", "DfrScaler"]

# Of the sum of losses, as published.
INVERSE_STRENGTHS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)
# Published alternatives for either class, for who wants them.
CLASS_WEIGHTS = (1.0, 2.0, 3.0, 10.0, 100.0, 300.0, 1000.0)


class DfrData(StrEnum):
    """The rows that subsets are drawn from."""

    VALIDATION = "validation"
    TRAIN = "train"


class DfrScaler(StrEnum):
    """The features whose mean and deviation standardize those of the final heads."""

    TRAIN = "train"
    REWEIGHTING = "reweighting"


@dataclass(frozen=True)
class DFR:
    """Deep feature reweighting.

    Parameters
    ----------
    data : rows that subsets are drawn from
    scaler : features that the final heads' standardization is taken from: all training rows, or the rows that subsets
        are drawn from
    inverse_strengths : C to choose from
    class_weights : weights to try on either class, two classes only; ``(1,)`` for none
    retrains : subsets whose heads are averaged; None for the published 20, or 10 with ``data="train"``
    select : score that chooses
    rtol : accuracy of a head, relative to its objective
    """

    data: DfrData = DfrData.VALIDATION
    scaler: DfrScaler = DfrScaler.TRAIN
    inverse_strengths: tuple[float, ...] = INVERSE_STRENGTHS
    class_weights: tuple[float, ...] = (1.0,)
    retrains: int | None = None
    select: SelectBy = SelectBy.WGA
    rtol: float = 1e-6

    def __post_init__(self) -> None:
        if self.retrains is not None and self.retrains < 1:
            raise ConfigError(f"retrains must be at least 1, got {self.retrains}.")
        for name in ("inverse_strengths", "class_weights"):
            values = getattr(self, name)
            if not values or not all(np.isfinite(v) and v > 0 for v in values):
                raise ConfigError(f"{name} must be positive numbers, got {values!r}.")

    @property
    def about(self) -> About:
        """Title, source and cost."""
        rows = "training" if self.data is DfrData.TRAIN else "validation"
        heads = len(self.inverse_strengths) + self._retrains
        return About(f"DFR on group-balanced {rows} rows", "Kirichenko et al. 2023", f"{heads} l1 heads")

    @property
    def needs(self) -> LabelNeeds:
        """Groups of the rows that subsets are drawn from, and what the score reads."""
        if self.data is DfrData.TRAIN:
            return LabelNeeds(train=Labels.GROUP, selection=labels_of(self.select))
        return LabelNeeds(train=Labels.NONE, reweighting=Labels.GROUP, selection=labels_of(self.select))

    @property
    def _retrains(self) -> int:
        published = 10 if self.data is DfrData.TRAIN else 20
        return published if self.retrains is None else self.retrains

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """Tune on a half, or on the validation rows; average heads on fresh subsets."""
        on_train = self.data is DfrData.TRAIN
        source, rows = (train, "training") if on_train else (validation, "validation")
        _check(source.groups, rows)
        pairs = self._pairs(source.n_classes)
        if on_train:
            part, chooser, held_out = train, validation, validation.rows
        else:
            mine, held_out = halves(len(validation), seed)
            part, chooser = validation.take(mine), validation.take(held_out)
            _check(part.groups, "validation half's")
        # The published seeds are one stream; each subset here has its own, so that any of them can be had alone.
        subset = _subset(part.groups, _seed(seed, 0))
        moments = feature_moments(part.values if on_train else part.values[subset])
        tuned = self._fit(part, [subset] * len(pairs), pairs, moments)
        settings = [self._named(pair) for pair in pairs]
        pick, tried = choose([fit.probe for fit in tuned], settings, chooser, self.select)
        scaled = train if self.scaler is DfrScaler.TRAIN else source
        subsets = [_subset(source.groups, _seed(seed, 1 + i)) for i in range(self._retrains)]
        final = self._fit(source, subsets, [pairs[pick]] * len(subsets), feature_moments(scaled.values))
        members = tuple(fit.probe for fit in final)
        sample = Subsetting(by=BalanceBy.GROUP).sample(source.groups, seed=seed)
        return MethodFit(
            probe=mean_probe(members), chosen=settings[pick], tried=tried, members=members,
            held_out=held_out, judged=None if on_train else tuned[pick].probe,
            details={"subset_rows": float(len(sample)), "retrains": float(len(members))},
            notes=sample.notes + unfinished([*tuned, *final]),
        )  # fmt: skip

    def _pairs(self, n_classes: int) -> list[tuple[float, tuple[float, ...]]]:
        """Candidates: inverse strength, and weights of the classes."""
        even = (1.0,) * n_classes
        if self.class_weights == (1.0,):
            return [(c, even) for c in self.inverse_strengths]
        if n_classes != 2:
            raise ConfigError(f"class_weights are for two classes, the data have {n_classes}. Leave them out.")
        weights = dict.fromkeys([*((1.0, w) for w in self.class_weights), *((w, 1.0) for w in self.class_weights)])
        return [(c, pair) for c in self.inverse_strengths for pair in weights]

    def _named(self, pair: tuple[float, tuple[float, ...]]) -> dict[str, float]:
        c, weights = pair
        named = {f"class_weight_{i}": w for i, w in enumerate(weights)} if self.class_weights != (1.0,) else {}
        return {"inverse_strength": c, **named}

    def _fit(
        self, rows: Features, subsets: list[NDArray[Any]], pairs: list[tuple[float, tuple[float, ...]]],
        moments: tuple[NDArray[Any], NDArray[Any]],
    ) -> tuple[ProbeFit, ...]:  # fmt: skip
        """A head per subset and candidate, all in one solve."""
        binary = rows.n_classes == 2
        # Heads of one weighting share a path when they share the array.
        known: dict[tuple[int, tuple[float, ...]], NDArray[Any]] = {}
        heads = []
        for subset, (c, class_weights) in zip(subsets, pairs, strict=True):
            key = (id(subset), class_weights)
            if key not in known:
                known[key] = np.zeros(len(rows))
                known[key][subset] = np.asarray(class_weights)[rows.labels[subset]]
            weights = known[key]
            heads.append(Head(weights=weights, l2=0.0, l1=1 / (c * float(weights.sum())), penalize_intercept=binary))
        return fit_probes(
            rows.values, rows.labels, heads, n_classes=rows.n_classes, moments=moments, solver=LBFGS(rtol=self.rtol)
        )


def mean_probe(probes: tuple[Probe, ...]) -> Probe:
    """Mean of weights and of intercepts."""
    return Probe(np.mean([p.weight for p in probes], axis=0), np.mean([p.bias for p in probes], axis=0))


def _subset(groups: Groups, seed: int) -> NDArray[Any]:
    return Subsetting(by=BalanceBy.GROUP).sample(groups, seed=seed).indices


def _seed(seed: int, number: int) -> int:
    return int(np.random.default_rng([seed, number]).integers(2**31))


def _check(groups: Groups, rows: str) -> None:
    require_groups("DFR", groups, rows)
    absent = [name for name, count in zip(groups.class_names, groups.class_counts, strict=True) if count == 0]
    if absent:
        raise GroupError(
            f"DFR: the {rows} rows have no row of class(es) {', '.join(absent)}, so no subset has them.\n"
            'Give rows of every class, or draw from the other split (data="train" or "validation").'
        )
