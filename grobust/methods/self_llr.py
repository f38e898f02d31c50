"""SELF: the ERM head finetuned on the few held-out rows where models disagree.

LaBonte, Muthukumar and Kumar 2023, "Towards last-layer retraining for group robustness with fewer annotations". Rows of
the reweighting half with the highest score are taken, and the head, not reset, is trained on them with class-balanced
minibatches. Scores: the loss under the ERM head (misclassification) or an early one; the disagreement
KL(p_reg ‖ p_ERM), with p_reg an early model's probabilities, or the ERM head's with dropout on its features. Only the
rows taken need class labels for the disagreements.

The early model is a head on an early checkpoint's features where these are given (`Features.early`); without them it is
the ERM head's own beginning, `early_epochs` of SGD.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.balancing import BalancedSample, Upsampling
from grobust.errors import ConfigError, GroupError
from grobust.groups import Groups
from grobust.methods._batch import Standard, log_softmax, row_losses
from grobust.methods._early import early_head
from grobust.methods.choose import choose, erm_head, labels_of
from grobust.methods.method import About, Features, LabelNeeds, Labels, MethodFit, halves
from grobust.probe import Probe, TrainHead, feature_moments, train_heads
from grobust.settings import SGD, SelectBy

__all__ = ["SELF", "SelfCriterion"]


class SelfCriterion(StrEnum):
    """Score of a row."""

    MISCLASSIFICATION = "misclassification"
    EARLY_MISCLASSIFICATION = "early-misclassification"
    DROPOUT = "dropout-disagreement"
    EARLY = "early-disagreement"

    @property
    def is_disagreement(self) -> bool:
        """Whether scores need no label."""
        return self in (SelfCriterion.DROPOUT, SelfCriterion.EARLY)


@dataclass(frozen=True)
class SELF:
    """Selective last-layer finetuning.

    Parameters
    ----------
    criterion : score of a row
    rows : numbers of rows taken, to choose from
    learning_rate : to choose from; published for vision, for text 1e-6 … 1e-4
    dropout : rates to choose from, for the dropout disagreement
    early_epochs : of SGD to the early head, without an early checkpoint's features
    steps, weight_decay, batch_size : of SGD; published 250 steps for vision, 500 for text
    erm_l2 : strength of the ERM head
    select : score that chooses, on the other half
    """

    criterion: SelfCriterion = SelfCriterion.EARLY
    rows: tuple[int, ...] = (20, 100, 500)
    learning_rate: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    dropout: tuple[float, ...] = (0.5, 0.7, 0.9)
    early_epochs: int = 1
    steps: int = 250
    weight_decay: float = 1e-4
    batch_size: int = 32
    erm_l2: float = 1e-4
    select: SelectBy = SelectBy.WGA

    def __post_init__(self) -> None:
        if not self.rows or min(self.rows) < 1 or not self.learning_rate:
            raise ConfigError(f"rows must be positive numbers and learning_rate not empty, got {self.rows!r}.")
        if not self.dropout or not all(0 < p < 1 for p in self.dropout):
            raise ConfigError(f"dropout must be rates between 0 and 1, got {self.dropout!r}.")
        if self.steps < 1 or self.early_epochs < 1:
            raise ConfigError("steps and early_epochs must be at least 1.")

    @property
    def about(self) -> About:
        """Title, source and cost."""
        rates = len(self.dropout) if self.criterion is SelfCriterion.DROPOUT else 1
        heads = len(self.rows) * len(self.learning_rate) * rates
        return About(f"SELF by {self.criterion}", "LaBonte et al. 2023", f"{heads} heads, {self.steps} steps of SGD")

    @property
    def needs(self) -> LabelNeeds:
        """Class labels for ERM and of held-out rows (for disagreements, of the rows taken alone)."""
        return LabelNeeds(reweighting=Labels.CLASS, selection=labels_of(self.select))

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """The number of rows and the learning rate with the best score on the other half."""
        mine, others = halves(len(validation), seed)
        rows, chooser = validation.take(mine), validation.take(others)
        if len(rows) == 0:
            raise GroupError("SELF trains on validation rows, and there are fewer than two. Give a validation split.")
        erm = erm_head(train, self.erm_l2).probe
        data = Standard.of(rows, feature_moments(train.values))
        probes, settings = [erm], [{"rows": 0.0, "learning_rate": 0.0}]
        taken: list[NDArray[Any]] = [np.zeros(0, dtype=np.int64)]
        for named, scores in self._scores(train, rows, erm, seed):
            order = np.argsort(-scores, kind="stable")
            for size in dict.fromkeys(min(size, len(rows)) for size in self.rows):
                found = self._finetuned(data, rows, order[:size], erm, seed)
                probes += found
                taken += [order[:size]] * len(found)
                settings += [{"rows": float(size), "learning_rate": rate, **named} for rate in self.learning_rate]
        pick, tried = choose(probes, settings, chooser, self.select)
        counts = rows.groups.take(taken[pick])
        details = {f"taken[{n}]": float(c) for n, c in zip(counts.names, counts.counts, strict=True)}
        notes = () if pick else ("no finetuned head scored better: SELF's choice is the ERM head",)
        return MethodFit(
            probe=probes[pick], chosen=tried[pick].settings, tried=tried, held_out=others, details=details, notes=notes
        )

    def _scores(
        self, train: Features, rows: Features, erm: Probe, seed: int
    ) -> Iterator[tuple[dict[str, float], NDArray[Any]]]:
        """(n) scores of the rows, and the setting that they belong to."""
        final = log_softmax(erm.logits(rows.values))
        if self.criterion is SelfCriterion.MISCLASSIFICATION:
            yield {}, row_losses(erm, rows)
        elif self.criterion is SelfCriterion.DROPOUT:
            rng = np.random.default_rng([seed, 1])
            for rate in self.dropout:
                kept = (rng.random(rows.values.shape) >= rate) / (1 - rate)
                yield {"dropout": rate}, _divergence(log_softmax(erm.logits(rows.values * kept)), final)
        else:
            early = early_head(train, self.erm_l2, self.early_epochs, seed)
            seen = rows if rows.early is None else replace(rows, values=rows.early)
            if self.criterion is SelfCriterion.EARLY:
                yield {}, _divergence(log_softmax(early.logits(seen.values)), final)
            else:
                yield {}, row_losses(early, seen)

    def _finetuned(
        self, data: Standard, rows: Features, chosen: NDArray[Any], erm: Probe, seed: int
    ) -> tuple[Probe, ...]:
        """A head per learning rate, trained on the rows chosen, on features standardized by the training rows'."""
        inner = data.inner(erm)
        sample = _class_balanced(rows.groups.take(chosen), seed)
        epochs = math.ceil(self.steps / math.ceil(len(sample) / self.batch_size))
        found = train_heads(
            np.ascontiguousarray(data.x[chosen, :-1], dtype=np.float32), rows.labels[chosen],
            [TrainHead(sample, rate, self.weight_decay, start=Probe(inner[:, :-1], inner[:, -1]))
             for rate in self.learning_rate],
            n_classes=rows.n_classes, evaluate={}, settings=SGD(epochs=epochs, batch_size=self.batch_size),
            standardize=False,
        )  # fmt: skip
        return tuple(data.probe(np.concatenate([p.weight, p.bias[:, None]], axis=1)) for p in found.probes)


def _divergence(regularized: NDArray[Any], final: NDArray[Any]) -> NDArray[Any]:
    """(n) KL(p_reg ‖ p_final) of log-probabilities (n, k)."""
    return np.asarray((np.exp(regularized) * (regularized - final)).sum(axis=1))


def _class_balanced(groups: Groups, seed: int) -> BalancedSample:
    """Draws that are balanced over the classes that occur: few rows may lack one."""
    present = np.unique(groups.labels)
    return Upsampling().sample(Groups.from_arrays(np.searchsorted(present, groups.labels)), seed=seed)
