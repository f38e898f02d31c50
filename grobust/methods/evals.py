"""EVaLS: the head retrained on rows of highest and lowest loss, chosen by inferred environments.

Ghaznavi et al. 2024, "Trained models tell us how to make them robust to spurious correlation without group annotation".
There is no public code; details here are ours. The validation rows are halved. On one half the k rows of highest and
the k of lowest loss under the ERM head are taken of each class, and a head is fitted on them; on the other half
environments are inferred from the ERM head (`pseudo_groups.environments`), and k and the strength are chosen by the
accuracy of the worst (class, environment). No attribute is read anywhere.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.errors import ConfigError, GroupError
from grobust.methods._batch import row_losses
from grobust.methods.balanced import L2
from grobust.methods.choose import choose, erm_head, unfinished
from grobust.methods.method import About, Features, LabelNeeds, Labels, MethodFit, halves
from grobust.methods.pseudo_groups import environments
from grobust.probe import Head, feature_moments, fit_probes
from grobust.settings import SelectBy

__all__ = ["EVaLS", "extreme_rows"]


@dataclass(frozen=True)
class EVaLS:
    """Environment-based validation and loss-based sampling.

    Parameters
    ----------
    per_class : k to choose from; a class with fewer than 2 k rows gives half of its rows to each end
    l2 : strengths to choose from
    erm_l2 : strength of the ERM head
    """

    per_class: tuple[int, ...] = (20, 50, 100, 200)
    l2: tuple[float, ...] = L2
    erm_l2: float = 1e-2

    def __post_init__(self) -> None:
        if not self.per_class or min(self.per_class) < 1:
            raise ConfigError(f"per_class must be positive numbers, got {self.per_class!r}.")

    @property
    def about(self) -> About:
        """Title, source and cost."""
        heads = len(self.per_class) * len(self.l2)
        return About("EVaLS (details ours)", "Ghaznavi et al. 2024", f"{heads} heads on a part of half of validation")

    @property
    def needs(self) -> LabelNeeds:
        """Class labels only."""
        return LabelNeeds(reweighting=Labels.CLASS, selection=Labels.CLASS)

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """The number of rows and the strength with the best worst-environment accuracy."""
        mine, others = halves(len(validation), seed)
        rows, chooser = validation.take(mine), validation.take(others)
        absent = [n for n, c in zip(rows.groups.class_names, rows.groups.class_counts, strict=True) if c < 2]
        if absent:
            raise GroupError(
                "EVaLS takes rows of highest and lowest loss of each class, and half of the validation rows have fewer "
                f"than two of {', '.join(absent)}.\nGive more validation rows, or use a method that trains on training "
                "rows (`grobust methods`)."
            )
        erm = erm_head(train, self.erm_l2).probe
        losses = row_losses(erm, rows)
        heads, settings = [], []
        for size in self.per_class:
            weights = np.zeros(len(rows))
            weights[extreme_rows(losses, rows.labels, rows.n_classes, size)] = 1
            heads += [Head(weights=weights, l2=value) for value in self.l2]
            settings += [{"per_class": float(size), "l2": value} for value in self.l2]
        moments = feature_moments(train.values)
        fits = fit_probes(rows.values, rows.labels, heads, n_classes=rows.n_classes, moments=moments)
        pseudo = environments(erm, chooser)
        pick, tried = choose([fit.probe for fit in fits], settings, chooser.with_groups(pseudo), SelectBy.WGA)
        counts = {f"chooser[{n}]": float(c) for n, c in zip(pseudo.names, pseudo.counts, strict=True)}
        notes = []
        if (pseudo.counts == 0).any():
            notes.append("an inferred (class, environment) has no row: it takes no part in the choice")
        return MethodFit(
            probe=fits[pick].probe, chosen=tried[pick].settings, tried=tried, held_out=others, details=counts,
            notes=(*notes, *unfinished(fits)),
        )  # fmt: skip


def extreme_rows(losses: NDArray[Any], labels: NDArray[Any], n_classes: int, size: int) -> NDArray[Any]:
    """Of each class the `size` rows of highest and of lowest loss; at most half of its rows each."""
    chosen = []
    for label in range(n_classes):
        mine = np.flatnonzero(labels == label)
        ordered = mine[np.argsort(losses[mine], kind="stable")]
        k = min(size, mine.size // 2)
        chosen += [ordered[:k], ordered[mine.size - k :]]
    return np.concatenate(chosen)
