"""Group DRO of the last layer: the head whose worst group has the smallest loss.

Sagawa, Koh, Hashimoto and Liang 2020, "Distributionally robust neural networks for group shifts": minimize over heads
the largest of L_g + C / √n_g, L_g the mean loss of group g, with a penalty ½ λ ‖W‖². Their algorithm moves weights q of
the groups, q_g ∝ q_g exp(η (L_g + C / √n_g)), along with stochastic steps of the head. For a last layer the problem is
convex, so it is solved as it stands: the maximum is first softened, log Σ exp(β ·) / β, which is q_g ∝ exp(β ·), and
then less and less. What is left is bounded: at the final q, the best head for those fixed weights, which the probe
engine finds, cannot be worse than the best for the worst group; the difference is reported as `gap`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.errors import ConfigError
from grobust.groups import Groups
from grobust.methods._batch import Standard, row_losses
from grobust.methods._risk import Risk, RiskFit, minimize_risk
from grobust.methods.balanced import L2
from grobust.methods.choose import choose, labels_of
from grobust.methods.method import About, Features, LabelNeeds, Labels, MethodFit, require_groups
from grobust.probe import Head, fit_probes
from grobust.settings import SelectBy

__all__ = ["GroupDRO", "fit_group_dro"]

# How much the maximum is softened, turn by turn: by at most log(groups) / β.
SHARPNESS = (10.0, 100.0, 1000.0, 5000.0)
# Above it a note says so.
LARGEST_GAP = 1e-2


@dataclass(frozen=True)
class GroupDRO:
    """Group DRO on all training rows.

    Parameters
    ----------
    adjustment : C of C / √n_g, which makes small groups count for more; 0 for none
    l2 : strengths to choose from
    select : score on validation rows that chooses
    """

    adjustment: float = 0.0
    l2: tuple[float, ...] = L2
    select: SelectBy = SelectBy.WGA

    def __post_init__(self) -> None:
        if not (np.isfinite(self.adjustment) and self.adjustment >= 0):
            raise ConfigError(f"adjustment must be a number of at least 0, got {self.adjustment!r}.")

    @property
    def about(self) -> About:
        """Title, source and cost."""
        cost = "a convex minimax problem per strength, full-batch"
        return About("Group DRO of the last layer", "Sagawa et al. 2020", cost, random=False)

    @property
    def needs(self) -> LabelNeeds:
        """Groups of training rows."""
        return LabelNeeds(train=Labels.GROUP, selection=labels_of(self.select))

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """The strength with the best score on validation rows."""
        require_groups("Group DRO", train.groups, "training")
        return fit_group_dro(train, validation, self.l2, self.select, adjustment=self.adjustment)


def fit_group_dro(
    train: Features, selection: Features, l2: Sequence[float], select: SelectBy, *, adjustment: float = 0.0
) -> MethodFit:
    """Group DRO over the training rows' groups, which may be inferred ones; empty groups are left out."""
    groups, data = train.groups, Standard.of(train)
    fits: list[RiskFit] = []
    start = None
    for strength in sorted(l2, reverse=True):
        # From the strength before it is not far.
        for sharpness in SHARPNESS if start is None else SHARPNESS[-2:]:
            risk = _largest(groups, adjustment, sharpness)
            fit = minimize_risk(data, train.labels, train.n_classes, risk, l2=strength, start=start)
            start = fit.inner
        fits.append(fit)
    fits = [fits[sorted(l2, reverse=True).index(strength)] for strength in l2]
    pick, tried = choose([fit.probe for fit in fits], [{"l2": value} for value in l2], selection, select)
    value, gap, share = _certificate(train, fits[pick], l2[pick], adjustment)
    notes = [
        f"group '{name}' has no training row and is left out"
        for name, n in zip(groups.names, groups.counts, strict=True)
        if n == 0
    ]
    if gap > LARGEST_GAP * value:
        notes.append(f"group DRO at l2 {l2[pick]:g} is up to {gap:.2g} above its minimum of about {value:.3g}")
    return MethodFit(
        probe=fits[pick].probe, chosen=tried[pick].settings, tried=tried, held_out=np.arange(len(selection)),
        details={"objective": value, "gap": gap, **{f"q[{n}]": q for n, q in zip(groups.names, share, strict=True)}},
        notes=tuple(notes),
    )  # fmt: skip


def _group_losses(losses: NDArray[Any], groups: Groups, adjustment: float) -> NDArray[Any]:
    """(g) float64 L_g + C / √n_g; −∞ for an empty group."""
    counts = groups.counts
    total = np.bincount(groups.ids, weights=losses, minlength=groups.n_groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(counts > 0, (total + adjustment * np.sqrt(counts)) / counts, -np.inf)


def _largest(groups: Groups, adjustment: float, sharpness: float) -> Risk:
    """The softened maximum over groups."""

    def risk(losses: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        values = _group_losses(losses, groups, adjustment)
        top = values.max()
        weight = np.exp(sharpness * (values - top))
        share = weight / weight.sum() / np.maximum(groups.counts, 1)
        return float(top + np.log(weight.sum()) / sharpness), share[groups.ids]

    return risk


def _certificate(
    train: Features, fit: RiskFit, l2: float, adjustment: float
) -> tuple[float, float, list[float]]:  # fmt: skip
    """Objective with the true maximum, its distance from a lower bound, and the weights (g) that give the bound."""
    groups = train.groups
    values = _group_losses(row_losses(fit.probe, train), groups, adjustment)
    weight = np.exp(SHARPNESS[-1] * (values - values.max()))
    share = weight / weight.sum()
    penalty = 0.5 * l2 * float((fit.inner[:, :-1] ** 2).sum())
    objective = float(values.max()) + penalty
    # A class whose groups weigh nothing at all cannot be fitted; it then gets the least that counts.
    per_row = np.maximum(share / np.maximum(groups.counts, 1), 1e-12)[groups.ids]
    (bound,) = fit_probes(train.values, train.labels, [Head(weights=per_row, l2=l2)], n_classes=train.n_classes)
    constant = float(share @ np.where(groups.counts > 0, adjustment / np.sqrt(np.maximum(groups.counts, 1)), 0))
    lower = bound.objective * float(per_row.sum()) - min(bound.gap, bound.decrement) + constant
    return objective, max(objective - lower, 0.0), share.tolist()
