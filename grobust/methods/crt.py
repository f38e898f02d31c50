"""CRT and ReWeightCRT: a fresh head trained on the training rows, drawn or weighted by cell.

Kang, Xie, Rohrbach, Yan, Gordo, Feng and Kalantidis 2020, "Decoupling representation and classifier for long-tailed
recognition"; as in SubpopBench (Yang et al. 2023) the cells are groups where attributes are known. CRT draws cells
alike; ReWeightCRT weighs a row's loss by 1 / n_g, scaled to a mean of 1 over cells. Minibatches, the last epoch.
"""

from dataclasses import dataclass, replace

import numpy as np

from grobust.balancing import BalancedSample, Upsampling, Upweighting
from grobust.methods.choose import choose, labels_of
from grobust.methods.method import About, Features, LabelNeeds, Labels, MethodFit, require_groups
from grobust.probe import TrainHead, train_heads
from grobust.settings import SGD, BalanceBy, SelectBy, WeightNormalization

__all__ = ["CRT"]


@dataclass(frozen=True)
class CRT:
    """Classifier retraining.

    Parameters
    ----------
    reweight : weigh losses instead of drawing alike (ReWeightCRT)
    by : cells, groups as in SubpopBench or classes as in Kang et al.
    learning_rate : to choose from
    epochs, weight_decay, batch_size : of SGD
    select : score on validation rows that chooses
    """

    reweight: bool = False
    by: BalanceBy = BalanceBy.GROUP
    learning_rate: tuple[float, ...] = (1e-3, 1e-2)
    epochs: int = 20
    weight_decay: float = 1e-4
    batch_size: int = 32
    select: SelectBy = SelectBy.WGA

    @property
    def about(self) -> About:
        """Title, source and cost."""
        title = f"{'ReWeightCRT' if self.reweight else 'CRT'} by {self.by}"
        cost = f"{len(self.learning_rate)} heads, {self.epochs} epochs of SGD"
        return About(title, "Kang et al. 2020", cost)

    @property
    def needs(self) -> LabelNeeds:
        """Labels of the cells."""
        train = Labels.GROUP if self.by is BalanceBy.GROUP else Labels.CLASS
        return LabelNeeds(train=train, selection=labels_of(self.select))

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """The learning rate with the best score on validation rows."""
        if self.by is BalanceBy.GROUP:
            require_groups(self.about.title, train.groups, "training")
        sample = self._sample(train, seed)
        found = train_heads(
            train.values, train.labels, [TrainHead(sample, rate, self.weight_decay) for rate in self.learning_rate],
            n_classes=train.n_classes, evaluate={}, settings=SGD(epochs=self.epochs, batch_size=self.batch_size),
        )  # fmt: skip
        settings = [{"learning_rate": rate} for rate in self.learning_rate]
        pick, tried = choose(found.probes, settings, validation, self.select)
        notes = ("training diverged; lower learning_rate",) if found.diverged[pick] else ()
        return MethodFit(
            probe=found.probes[pick], chosen=tried[pick].settings, tried=tried, held_out=validation.rows,
            notes=sample.notes + notes,
        )  # fmt: skip

    def _sample(self, train: Features, seed: int) -> BalancedSample:
        if not self.reweight:
            return Upsampling(by=self.by).sample(train.groups, seed=seed)
        sample = Upweighting(by=self.by, normalize=WeightNormalization.NONE).sample(train.groups, seed=seed)
        return replace(sample, cell_weight=sample.cell_weight / np.nanmean(sample.cell_weight))
