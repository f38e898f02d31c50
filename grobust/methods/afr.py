"""AFR: the ERM head moved towards the rows that it predicts badly.

Qiu, Potapczynski, Izmailov and Wilson 2023, "Simple and fast group robustness by automatic feature reweighting". An ERM
head is fitted on 80% of the training rows; each of the others has weight μ_i ∝ exp(−γ p_i) / n_{y_i}, p_i the ERM
probability of its class and n_y the rows of the class among them. From the ERM head, full-batch gradient descent goes
down Σ μ_i ℓ_i + λ (‖W − W_ERM‖² + ‖b − b_ERM‖²), its gradient clipped to norm 1; γ, λ and the step to stop at are
chosen on validation rows. All γ and λ descend together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.errors import ConfigError, GroupError
from grobust.methods._batch import Standard, probabilities
from grobust.methods._descent import descend
from grobust.methods.choose import check_selection, erm_head, labels_of, score_of
from grobust.methods.method import About, Features, LabelNeeds, MethodFit, Tried
from grobust.probe import Probe, evaluate_probes
from grobust.settings import SelectBy

__all__ = ["AFR", "afr_weights"]

# Of the true class: when every row has at least this, weights hardly differ within a class.
SURE = 0.99


@dataclass(frozen=True)
class AFR:
    """Automatic feature reweighting.

    Parameters
    ----------
    gamma : γ to choose from; published: 33 values in 4 … 20 for Waterbirds, 10 in 1 … 3 for CelebA
    strengths : λ to choose from; published: 0, .1, .2, .3 and 1e-3, 1e-2, 1e-1
    learning_rate, steps : of the descent; published: 1e-2 and 500, 2e-2 and 1,000
    every : steps between looks at the validation score
    erm_share : training rows that the ERM head is fitted on
    erm_l2 : its strength
    select : score that chooses γ, λ and the step
    """

    gamma: tuple[float, ...] = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0)
    strengths: tuple[float, ...] = (0.0, 0.01, 0.1, 0.3)
    learning_rate: float = 1e-2
    steps: int = 500
    every: int = 10
    erm_share: float = 0.8
    erm_l2: float = 1e-2
    select: SelectBy = SelectBy.WGA

    def __post_init__(self) -> None:
        for name in ("gamma", "strengths"):
            values = getattr(self, name)
            if not values or not all(np.isfinite(v) and v >= 0 for v in values):
                raise ConfigError(f"{name} must be numbers of at least 0, got {values!r}.")
        if not 0 < self.erm_share < 1:
            raise ConfigError(f"erm_share must be between 0 and 1, got {self.erm_share!r}.")
        if self.steps < 1 or self.every < 1 or not self.learning_rate > 0:
            raise ConfigError("steps, every and learning_rate must be positive.")

    @property
    def about(self) -> About:
        """Title, source and cost."""
        heads = len(self.gamma) * len(self.strengths)
        return About("AFR", "Qiu et al. 2023", f"{heads} heads, {self.steps} full-batch steps each, together")

    @property
    def needs(self) -> LabelNeeds:
        """Class labels, and what the score reads."""
        return LabelNeeds(selection=labels_of(self.select))

    def __call__(self, train: Features, validation: Features, *, seed: int) -> MethodFit:
        """The weights, strength and step with the best score; the ERM head itself takes part as step 0."""
        check_selection(validation.groups)
        erm_rows, others = _split(len(train), self.erm_share, seed)
        erm, rest = erm_head(train.take(erm_rows), self.erm_l2).probe, train.take(others)
        p = probabilities(erm, rest)[rest.rows, rest.labels]
        weights = np.stack([afr_weights(p, rest.labels, rest.n_classes, gamma) for gamma in self.gamma])
        pairs = [(i, strength) for i in range(len(self.gamma)) for strength in self.strengths]
        data = Standard.of(rest)
        start = data.inner(erm)
        scores = [self._scores([erm], validation).repeat(len(pairs))]
        # Where the best score of all was reached first.
        top, kept = scores[0].max(), (0, start[None])
        for _, moved in descend(
            data.x, rest.labels, weights[[i for i, _ in pairs]], np.array([s for _, s in pairs]), start,
            learning_rate=self.learning_rate, steps=self.steps, every=self.every,
        ):  # fmt: skip
            found = self._scores([data.probe(inner) for inner in moved], validation)
            if found.max() > top:
                top, kept = found.max(), (len(scores), moved)
            scores.append(found)
        table = np.stack(scores)
        steps = [0, *(min(i * self.every, self.steps) for i in range(1, len(scores)))]
        at = table.argmax(axis=0)
        pick = int(table[kept[0]].argmax())
        tried = tuple(
            Tried({"gamma": self.gamma[i], "strength": strength, "step": float(steps[at[j]])}, float(table[at[j], j]))
            for j, (i, strength) in enumerate(pairs)
        )
        return MethodFit(
            probe=erm if at[pick] == 0 else data.probe(kept[1][pick]), chosen=tried[pick].settings, tried=tried,
            held_out=validation.rows, details=_spread(weights[pairs[pick][0]], p), notes=_notes(p, at[pick]),
        )  # fmt: skip

    def _scores(self, probes: list[Probe], validation: Features) -> NDArray[Any]:
        metrics = evaluate_probes(probes, validation.values, validation.groups)
        return np.array([score_of(self.select, m) for m in metrics])


def afr_weights(p: NDArray[Any], labels: NDArray[Any], n_classes: int, gamma: float) -> NDArray[Any]:
    """(n) float64 weights μ_i ∝ exp(−γ p_i) / n_{y_i}, summing to 1.

    Raises
    ------
    GroupError
        If a class has no row.
    """
    counts = np.bincount(labels, minlength=n_classes)
    if (counts == 0).any():
        raise GroupError(
            f"AFR: class {int(np.argmin(counts))} has no row among those held out of the training split for it.\n"
            "Give more training rows, or lower erm_share."
        )
    # Less the smallest probability, so that no γ makes all weights vanish.
    weights = np.exp(-gamma * (p - p.min())) / counts[labels]
    return np.asarray(weights / weights.sum())


def _split(n: int, share: float, seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of the ERM head, and the others."""
    shuffled = np.random.default_rng(seed).permutation(n)
    edge = round(share * n)
    if edge in (0, n):
        raise GroupError(f"AFR splits the training rows by {share:g}, and {n} are too few for both parts.")
    return np.sort(shuffled[:edge]), np.sort(shuffled[edge:])


def _spread(weights: NDArray[Any], p: NDArray[Any]) -> dict[str, float]:
    return {"effective_rows": float(1 / (weights**2).sum()), "rows": float(p.size), "least_probability": float(p.min())}


def _notes(p: NDArray[Any], step: int) -> tuple[str, ...]:
    notes = []
    if p.min() >= SURE:
        notes.append(
            f"the ERM head gives every held-out training row at least {SURE:g}: AFR's weights are all but the "
            "class-balanced ones, and there is no hint of a minority"
        )
    if step == 0:
        notes.append("no step improved the validation score: AFR's choice is the ERM head")
    return tuple(notes)
