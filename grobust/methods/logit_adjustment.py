"""Logit adjustment and balanced softmax: ERM whose training logits carry the log prior.

Menon, Jayasumana, Rawat, Jain, Veit and Kumar 2021, "Long-tail learning via logit adjustment"; Ren et al. 2020,
"Balanced meta-softmax", is τ = 1. The loss is ℓ(f + τ log π, y) with class shares π, and f alone predicts. The
intercept is free, so for class shares the solution is the ERM head less τ log π in its intercepts. By group the prior
of row i is that of (y, a_i), its own attribute's: no intercept can carry it, and the head is another one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.errors import ConfigError, GroupError
from grobust.groups import Groups
from grobust.methods._batch import Standard
from grobust.methods._risk import minimize_risk, not_converged, weighted_mean
from grobust.methods.balanced import L2
from grobust.methods.choose import choose, heads_of, labels_of, unfinished
from grobust.methods.method import About, Features, LabelNeeds, Labels, MethodFit, require_groups
from grobust.probe import Probe, fit_probes
from grobust.settings import BalanceBy, SelectBy

__all__ = ["LogitAdjustment", "log_priors"]


@dataclass(frozen=True)
class LogitAdjustment:
    """Logit adjustment in training.

    Parameters
    ----------
    by : prior of the classes, or of the groups
    tau : τ to choose from; 1 is balanced softmax
    l2 : strengths to choose from
    select : score on validation rows that chooses
    """

    by: BalanceBy = BalanceBy.CLASS
    tau: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0)
    l2: tuple[float, ...] = L2
    select: SelectBy = SelectBy.WGA

    def __post_init__(self) -> None:
        if not self.tau or not all(np.isfinite(t) and t >= 0 for t in self.tau):
            raise ConfigError(f"tau must be numbers of at least 0, got {self.tau!r}.")

    @property
    def about(self) -> About:
        """Title, source and cost."""
        if self.tau == (1.0,):
            return About(f"balanced softmax by {self.by}", "Ren et al. 2020", self._cost, random=False)
        return About(f"logit adjustment by {self.by}", "Menon et al. 2021", self._cost, random=False)

    @property
    def _cost(self) -> str:
        heads = len(self.l2) * (1 if self.by is BalanceBy.CLASS else len(self.tau))
        return f"{heads} heads" + ("" if self.by is BalanceBy.CLASS else ", full-batch")

    @property
    def needs(self) -> LabelNeeds:
        """Groups of training rows only for their prior."""
        train = Labels.GROUP if self.by is BalanceBy.GROUP else Labels.CLASS
        return LabelNeeds(train=train, selection=labels_of(self.select))

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """τ and the strength with the best score on validation rows."""
        if (train.groups.class_counts == 0).any():
            absent = train.groups.class_names[int(np.argmin(train.groups.class_counts))]
            raise GroupError(f"Logit adjustment: class {absent} has no training row, so it has no prior.")
        settings = [{"tau": tau, "l2": value} for tau in self.tau for value in self.l2]
        probes, notes = self._by_class(train) if self.by is BalanceBy.CLASS else self._by_group(train)
        pick, tried = choose(probes, settings, validation, self.select)
        return MethodFit(
            probe=probes[pick], chosen=tried[pick].settings, tried=tried, held_out=validation.rows, notes=notes
        )

    def _by_class(self, train: Features) -> tuple[list[Probe], tuple[str, ...]]:
        prior = np.log(train.groups.class_counts / len(train))
        fits = fit_probes(train.values, train.labels, heads_of(None, self.l2), n_classes=train.n_classes)
        heads = [Probe(f.probe.weight, f.probe.bias - tau * prior) for tau in self.tau for f in fits]
        return heads, unfinished(fits)

    def _by_group(self, train: Features) -> tuple[list[Probe], tuple[str, ...]]:
        require_groups(self.about.title, train.groups, "training")
        prior = log_priors(train.groups)[train.groups.attributes]
        data, risk = Standard.of(train), weighted_mean(np.ones(len(train)))
        offsets = {tau: tau * prior if tau > 0 else None for tau in self.tau}
        fits = [
            minimize_risk(data, train.labels, train.n_classes, risk, l2=l2, offsets=offsets[tau])
            for tau in self.tau
            for l2 in self.l2
        ]
        return [fit.probe for fit in fits], not_converged(fits)


def log_priors(groups: Groups) -> NDArray[Any]:
    """(A, k) float64 log shares of the classes among the rows of each attribute; −∞ for an empty group, 0 for an
    attribute without rows."""
    counts = groups.counts.reshape(groups.n_classes, groups.n_attributes).T.astype(np.float64)
    total = counts.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return np.where(total > 0, np.log(counts) - np.log(np.maximum(total, 1)), 0.0)
