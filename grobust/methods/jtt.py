"""JTT of the last layer: rows that a short-trained head gets wrong count several times.

Liu, Haghgoo, Chen, Raghunathan, Koh, Sagawa, Liang and Finn 2021, "Just train twice". An ERM head after T epochs of SGD
gives the error set of training rows; a fresh head is fitted with these rows repeated λ times, here to the optimum.
"""

from dataclasses import dataclass

import numpy as np

from grobust.errors import ConfigError
from grobust.methods._early import trained_head
from grobust.methods.balanced import L2
from grobust.methods.choose import choose, labels_of, unfinished
from grobust.methods.method import About, Features, LabelNeeds, MethodFit
from grobust.probe import Head, fit_probes
from grobust.settings import SelectBy

__all__ = ["JTT"]


@dataclass(frozen=True)
class JTT:
    """Just train twice.

    Parameters
    ----------
    epochs : T, of the head that finds the errors
    upweight : λ to choose from; published 100 for Waterbirds, 50 for CelebA, 6 for CivilComments, 4 for MultiNLI
    l2 : strengths of the second head to choose from
    select : score on validation rows that chooses
    """

    epochs: int = 1
    upweight: tuple[float, ...] = (4.0, 6.0, 20.0, 50.0, 100.0)
    l2: tuple[float, ...] = L2
    select: SelectBy = SelectBy.WGA

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1, got {self.epochs}.")
        if not self.upweight or not all(np.isfinite(w) and w >= 1 for w in self.upweight):
            raise ConfigError(f"upweight must be numbers of at least 1, got {self.upweight!r}.")

    @property
    def about(self) -> About:
        """Title, source and cost."""
        heads = len(self.upweight) * len(self.l2)
        return About("JTT of the last layer", "Liu et al. 2021", f"{self.epochs} epoch(s) of SGD, then {heads} heads")

    @property
    def needs(self) -> LabelNeeds:
        """Class labels, and what the score reads."""
        return LabelNeeds(selection=labels_of(self.select))

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """The weight and strength with the best score on validation rows."""
        wrong = trained_head(train, self.epochs, seed).predict(train.values) != train.labels
        notes = []
        upweight = self.upweight
        if not wrong.any() or wrong.all():
            what = "no" if not wrong.any() else "every"
            notes.append(f"the first head gets {what} training row wrong: there is no error set, and JTT equals ERM")
            upweight = (1.0,)
        pairs = [(factor, l2) for factor in upweight for l2 in self.l2]
        weights = {factor: np.where(wrong, factor, 1.0) for factor in upweight}
        fits = fit_probes(
            train.values, train.labels, [Head(weights=weights[factor], l2=l2) for factor, l2 in pairs],
            n_classes=train.n_classes,
        )  # fmt: skip
        settings = [{"upweight": factor, "l2": l2} for factor, l2 in pairs]
        pick, tried = choose([fit.probe for fit in fits], settings, validation, self.select)
        found = train.groups.take(wrong)
        details = {f"errors[{n}]": float(c) for n, c in zip(found.names, found.counts, strict=True)}
        return MethodFit(
            probe=fits[pick].probe, chosen=tried[pick].settings, tried=tried, held_out=validation.rows,
            details=details, notes=(*notes, *unfinished(fits)),
        )  # fmt: skip
