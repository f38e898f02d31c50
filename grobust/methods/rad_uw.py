"""RAD-UW: rows that a sparse head gets wrong count several times.

Stromberg, Ayyagari, Koyejo, Nock and Sankar 2024, "Robustness to subpopulation shift with domain label noise via
regularized annotation of domains". On the reweighting rows a heavily l1-regularized head, which can follow only what
is easiest, annotates its errors as the minority; an l1 head is then fitted with these rows weighted λ times. Theirs is
trained by AdamW with penalties of mean |w| / c; here both are solved, and the first one's strength is a share of the
smallest strength at which every weight is zero.
"""

from dataclasses import dataclass

import numpy as np

from grobust.errors import ConfigError, GroupError
from grobust.methods.choose import choose, labels_of, unfinished
from grobust.methods.method import About, Features, LabelNeeds, Labels, MethodFit, halves
from grobust.probe import Head, fit_probes, largest_l1
from grobust.settings import SelectBy

__all__ = ["RADUW"]


@dataclass(frozen=True)
class RADUW:
    """Regularized annotation of domains, upweighting.

    Parameters
    ----------
    annotate : strengths of the first head to choose from, shares of the one at which every weight is zero
    upweight : λ to choose from; published 5 … 20
    l1 : strengths of the second head to choose from, likewise shares
    select : score that chooses, on the other half of the validation rows
    """

    annotate: tuple[float, ...] = (0.9, 0.5, 0.2)
    upweight: tuple[float, ...] = (5.0, 10.0, 20.0)
    l1: tuple[float, ...] = (0.3, 0.1, 0.03, 0.01)
    select: SelectBy = SelectBy.WGA

    def __post_init__(self) -> None:
        for name in ("annotate", "l1"):
            if not getattr(self, name) or not all(0 < s <= 1 for s in getattr(self, name)):
                raise ConfigError(f"{name} must be shares above 0 and at most 1, got {getattr(self, name)!r}.")
        if not self.upweight or not all(np.isfinite(w) and w >= 1 for w in self.upweight):
            raise ConfigError(f"upweight must be numbers of at least 1, got {self.upweight!r}.")

    @property
    def about(self) -> About:
        """Title, source and cost."""
        heads = len(self.annotate) * (1 + len(self.upweight) * len(self.l1))
        return About("RAD-UW", "Stromberg et al. 2024", f"{heads} l1 heads on half of validation")

    @property
    def needs(self) -> LabelNeeds:
        """Class labels of held-out rows, and what the score reads."""
        return LabelNeeds(train=Labels.NONE, reweighting=Labels.CLASS, selection=labels_of(self.select))

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """The strengths and weight with the best score on the other half."""
        mine, others = halves(len(validation), seed)
        rows = validation.take(mine)
        _check(rows)
        k = rows.n_classes
        (top,) = largest_l1(rows.values, rows.labels, [None], n_classes=k).tolist()
        first = fit_probes(
            rows.values, rows.labels, [Head(l2=0.0, l1=share * top) for share in self.annotate], n_classes=k
        )
        wrongs = [fit.probe.predict(rows.values) != rows.labels for fit in first]
        weights = [np.where(wrong, factor, 1.0) for wrong in wrongs for factor in self.upweight]
        tops = largest_l1(rows.values, rows.labels, weights, n_classes=k).tolist()
        heads = [
            Head(weights=w, l2=0.0, l1=share * limit)
            for w, limit in zip(weights, tops, strict=True)
            for share in self.l1
        ]
        settings = [
            {"annotate": a, "upweight": u, "l1": share}
            for a in self.annotate
            for u in self.upweight
            for share in self.l1
        ]
        fits = fit_probes(rows.values, rows.labels, heads, n_classes=k)
        pick, tried = choose([fit.probe for fit in fits], settings, validation.take(others), self.select)
        wrong = wrongs[pick // (len(self.upweight) * len(self.l1))]
        found = rows.groups.take(wrong)
        notes = () if wrong.any() else ("the annotating head makes no error: RAD-UW equals an l1 head on these rows",)
        return MethodFit(
            probe=fits[pick].probe, chosen=tried[pick].settings, tried=tried, held_out=others,
            details={f"annotated[{n}]": float(c) for n, c in zip(found.names, found.counts, strict=True)},
            notes=(*notes, *unfinished([*first, *fits])),
        )  # fmt: skip


def _check(rows: Features) -> None:
    absent = [name for name, n in zip(rows.groups.class_names, rows.groups.class_counts, strict=True) if n == 0]
    if absent:
        raise GroupError(
            f"RAD-UW trains on half of the validation rows, and that has no row of class(es) {', '.join(absent)}.\n"
            "Give more validation rows, or use a method that trains on training rows (`grobust methods`)."
        )
