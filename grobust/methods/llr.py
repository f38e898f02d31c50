"""LLR and CB-LLR: the last layer trained anew on held-out rows, without attributes.

LaBonte, Muthukumar and Kumar 2023, "Towards last-layer retraining for group robustness with fewer annotations":
minibatch SGD from a fresh head on half of the validation rows, drawn as they come (LLR) or class-balanced (CB-LLR). The
last epoch is the result; nothing is chosen.
"""

from dataclasses import dataclass

import numpy as np

from grobust.balancing import NoBalancing, Upsampling
from grobust.errors import GroupError
from grobust.methods.method import About, Features, LabelNeeds, Labels, MethodFit, Tried, halves
from grobust.probe import TrainHead, train_heads
from grobust.settings import SGD

__all__ = ["LLR", "group_shares"]


@dataclass(frozen=True)
class LLR:
    """Last-layer retraining on the reweighting half of the validation rows.

    Parameters
    ----------
    class_balanced : draw classes alike (CB-LLR)
    epochs, learning_rate, weight_decay, batch_size : of SGD; as the authors have them but for the epochs, which theirs
        take from finetuning (100 on Waterbirds, 20 elsewhere)
    standardize : train on features standardized by these rows; the authors do not
    """

    class_balanced: bool = False
    epochs: int = 20
    learning_rate: float = 1e-2
    weight_decay: float = 1e-4
    batch_size: int = 32
    standardize: bool = True

    @property
    def about(self) -> About:
        """Title, source and cost."""
        title = "CB-LLR: class-balanced held-out rows" if self.class_balanced else "LLR: held-out rows as they come"
        return About(title, "LaBonte et al. 2023", f"{self.epochs} epochs of SGD on half of validation")

    @property
    def needs(self) -> LabelNeeds:
        """Class labels of validation rows, nothing else."""
        return LabelNeeds(train=Labels.NONE, reweighting=Labels.CLASS)

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """The head of the last epoch."""
        mine, others = halves(len(validation), seed)
        rows = validation.take(mine)
        if len(rows) == 0:
            raise GroupError("LLR trains on validation rows, and there are fewer than two. Give a validation split.")
        balancer = Upsampling() if self.class_balanced else NoBalancing()
        sample = balancer.sample(rows.groups, seed=seed)
        found = train_heads(
            rows.values, rows.labels,
            [TrainHead(sample, learning_rate=self.learning_rate, weight_decay=self.weight_decay)],
            n_classes=rows.n_classes, evaluate={}, settings=SGD(epochs=self.epochs, batch_size=self.batch_size),
            standardize=self.standardize,
        )  # fmt: skip
        notes = [*sample.notes, *group_shares(rows)]
        if found.diverged[0]:
            notes.append("training diverged; lower learning_rate")
        return MethodFit(
            probe=found.probes[0], chosen={}, tried=(Tried({}, None),), held_out=others,
            details={"loss": float(found.loss[-1, 0]) if np.isfinite(found.loss[-1, 0]) else None}, notes=tuple(notes),
        )  # fmt: skip


def group_shares(rows: Features) -> tuple[str, ...]:
    """What the rows trained on hold by group, where attributes exist: Hill et al. 2026 attribute the gain to it."""
    if rows.groups.n_attributes < 2:
        return ()
    shares = rows.groups.counts / max(len(rows), 1)
    named = ", ".join(f"{name} {share:.3f}" for name, share in zip(rows.groups.names, shares, strict=True))
    return (f"group shares of the reweighting rows: {named}",)
