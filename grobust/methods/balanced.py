"""ERM, SUBY, RWY, SUBG, RWG: a head on all training rows, or on balanced ones.

Idrissi, Arjovsky, Pezeshki and Lopez-Paz 2022, "Simple data balancing achieves competitive worst-group-accuracy": S
cuts cells to the size of the smallest, RW draws them alike; Y by class, G by group. To the optimum of the expected loss
of a `BalancedSample`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.balancing import make_balancer
from grobust.methods.choose import choose, heads_of, labels_of, unfinished
from grobust.methods.method import About, Features, LabelNeeds, Labels, MethodFit, require_groups
from grobust.probe import ProbeFit, fit_probes
from grobust.settings import BalanceBy, BalanceMethod, SelectBy

__all__ = ["L2", "Balanced", "fit_strengths"]

# Decades from a head that is all but free to one that is held firmly; standardized features, per-sample loss.
L2 = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
TITLES = {
    (BalanceMethod.NONE, BalanceBy.CLASS): "ERM: all rows alike",
    (BalanceMethod.SUBSETTING, BalanceBy.CLASS): "SUBY: classes cut to the smallest",
    (BalanceMethod.UPSAMPLING, BalanceBy.CLASS): "RWY: classes drawn alike",
    (BalanceMethod.SUBSETTING, BalanceBy.GROUP): "SUBG: groups cut to the smallest",
    (BalanceMethod.UPSAMPLING, BalanceBy.GROUP): "RWG: groups drawn alike",
}


@dataclass(frozen=True)
class Balanced:
    """A balancing method of `grobust.balancing` as a method.

    Parameters
    ----------
    method, by : of the balancing
    l2 : strengths to choose from
    select : score on validation rows that chooses
    """

    method: BalanceMethod = BalanceMethod.NONE
    by: BalanceBy = BalanceBy.CLASS
    l2: tuple[float, ...] = L2
    select: SelectBy = SelectBy.WGA

    @property
    def about(self) -> About:
        """Title, source and cost."""
        title = TITLES.get((self.method, self.by), f"{self.method} by {self.by}")
        return About(
            title, "Idrissi et al. 2022", "a head per strength, in one solve",
            random=self.method in (BalanceMethod.SUBSETTING, BalanceMethod.MIXTURE),
        )  # fmt: skip

    @property
    def needs(self) -> LabelNeeds:
        """Groups of training rows only where they are balanced."""
        return LabelNeeds(train=Labels.GROUP if self._by_group else Labels.CLASS, selection=labels_of(self.select))

    @property
    def _by_group(self) -> bool:
        return self.by is BalanceBy.GROUP and self.method is not BalanceMethod.NONE

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """The strength with the best score on validation rows."""
        if self._by_group:
            require_groups(self.about.title, train.groups, "training")
        sample = make_balancer(self.method, by=self.by).sample(train.groups, seed=seed)
        return fit_strengths(train, validation, sample.expected_weights(), self.l2, self.select, notes=sample.notes)


def fit_strengths(
    train: Features, selection: Features, weights: NDArray[Any] | None, l2: Sequence[float], select: SelectBy,
    *, held_out: NDArray[Any] | None = None, notes: tuple[str, ...] = (),
) -> MethodFit:  # fmt: skip
    """Heads of one weighting at several strengths on standardized features, and the best of them on `selection`.

    Parameters
    ----------
    weights : (n) of the training rows; None weighs them alike
    held_out : numbers of the selection rows in the validation split; None for all
    """
    fits: tuple[ProbeFit, ...] = fit_probes(
        train.values, train.labels, heads_of(weights, l2), n_classes=train.n_classes
    )
    pick, tried = choose([fit.probe for fit in fits], [{"l2": value} for value in l2], selection, select)
    return MethodFit(
        probe=fits[pick].probe, chosen=tried[pick].settings, tried=tried,
        held_out=np.arange(len(selection)) if held_out is None else held_out,
        details={"objective": fits[pick].objective}, notes=notes + unfinished(fits),
    )  # fmt: skip
