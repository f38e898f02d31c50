"""CVaR DRO of the last layer: the head whose worst rows have the smallest mean loss.

Levy, Carmon, Duchi and Sidford 2020, "Large-scale methods for distributionally robust optimization"; a baseline of the
group-robustness literature since Liu et al. 2021. The conditional value at risk at level α is the mean of the largest α
share of losses, min over η of η + Σ max(ℓ_i − η, 0) / (α n) (Rockafellar and Uryasev 2000). It is convex in the head;
the kink is softened by log(1 + exp(β ·)) / β, turn by turn less, which moves it by at most log 2 / (α β).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from grobust.errors import ConfigError
from grobust.methods._batch import Standard
from grobust.methods._risk import Risk, RiskFit, minimize_risk, not_converged
from grobust.methods.balanced import L2
from grobust.methods.choose import choose, labels_of
from grobust.methods.method import About, Features, LabelNeeds, MethodFit
from grobust.settings import SelectBy

__all__ = ["CVaRDRO", "cvar"]

SHARPNESS = (10.0, 100.0, 1000.0)
# η is found to rounding by so many halvings of an interval that holds it.
BISECTIONS = 60


@dataclass(frozen=True)
class CVaRDRO:
    """CVaR DRO on all training rows; reads no attribute in training.

    Parameters
    ----------
    alpha : shares of the rows that count, to choose from
    l2 : strengths to choose from
    select : score on validation rows that chooses
    """

    alpha: tuple[float, ...] = (0.1, 0.3)
    l2: tuple[float, ...] = L2
    select: SelectBy = SelectBy.WGA

    def __post_init__(self) -> None:
        if not self.alpha or not all(0 < a <= 1 for a in self.alpha):
            raise ConfigError(f"alpha must be shares above 0 and at most 1, got {self.alpha!r}.")

    @property
    def about(self) -> About:
        """Title, source and cost."""
        cost = "a convex problem per level and strength, full-batch"
        return About("CVaR DRO of the last layer", "Levy et al. 2020", cost, random=False)

    @property
    def needs(self) -> LabelNeeds:
        """Class labels, and what the score reads."""
        return LabelNeeds(selection=labels_of(self.select))

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """The level and strength with the best score on validation rows."""
        data = Standard.of(train)
        settings = [{"alpha": a, "l2": value} for a in self.alpha for value in self.l2]
        fits: dict[tuple[float, float], RiskFit] = {}
        for alpha in self.alpha:
            start = None
            for strength in sorted(self.l2, reverse=True):
                # From the strength before it is not far.
                for sharpness in SHARPNESS if start is None else SHARPNESS[-2:]:
                    risk = _soft_cvar(alpha, sharpness)
                    fit = minimize_risk(data, train.labels, train.n_classes, risk, l2=strength, start=start)
                    start = fit.inner
                fits[alpha, strength] = fit
        found = [fits[s["alpha"], s["l2"]] for s in settings]
        pick, tried = choose([fit.probe for fit in found], settings, validation, self.select)
        return MethodFit(
            probe=found[pick].probe, chosen=tried[pick].settings, tried=tried, held_out=validation.rows,
            details={"objective": found[pick].objective}, notes=not_converged(found),
        )  # fmt: skip


def cvar(losses: NDArray[Any], alpha: float) -> float:
    """Mean of the largest α n losses, the last of them in part."""
    ordered = np.sort(losses)[::-1]
    room = alpha * losses.size
    whole = int(np.floor(room))
    rest = room - whole
    partial = rest * ordered[whole] if rest > 0 and whole < ordered.size else 0.0
    return float((ordered[:whole].sum() + partial) / room)


def _soft_cvar(alpha: float, sharpness: float) -> Risk:
    def risk(losses: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        n = losses.size
        # The derivative by η, 1 − Σ expit(β (ℓ − η)) / (α n), grows with η.
        low, high = losses.min() - 40 / sharpness, losses.max() + 40 / sharpness
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if expit(sharpness * (losses - middle)).sum() > alpha * n:
                low = middle
            else:
                high = middle
        eta = (low + high) / 2
        scaled = sharpness * (losses - eta)
        value = eta + np.logaddexp(0, scaled).sum() / (sharpness * alpha * n)
        return float(value), expit(scaled) / (alpha * n)

    return risk
