"""`BiasProxy`: a head that predicts the class from shortcuts, and what it says about rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy.special import logsumexp

from grobust.arrays import to_numpy
from grobust.errors import GroupError, ShapeError
from grobust.groups import Groups
from grobust.metrics import GroupMetrics, group_metrics
from grobust.probe import Head, Probe, fit_probes
from grobust.settings import LBFGS, PROXY_L2
from grobust.typing import Array

__all__ = ["BiasProxy", "ProxyReading", "fit_bias_proxy"]

# Of each class, the rows with the largest loss of the proxy: few enough to hold what a shortcut gets wrong, and more
# than the handful whose accuracy would be noise.
HARD_SHARE = 0.25
FEW_ROWS = 10
MOST_NOTES = 6
# Of a block of features in float64.
READ_BYTES = 16 << 20
ALWAYS_RIGHT = (
    "the bias proxy is always right on validation rows: strata off the diagonal are empty, and bias_unsupervised "
    "equals the balanced accuracy"
)


@dataclass(frozen=True, eq=False)
class ProxyReading:
    """What a proxy says about n rows.

    Parameters
    ----------
    predictions : (n) int64 classes
    is_hard : (n) bool, the rows of each class on which its loss is largest, or that it gets wrong if it has no loss
    labels : (n) int64, of the rows
    class_names : k names
    description : what the proxy is, for records
    """

    predictions: Int[np.ndarray, " n"]
    is_hard: Bool[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    description: str

    @classmethod
    def of_predictions(cls, predictions: Any, groups: Groups, *, description: str = "given") -> "ProxyReading":
        """A proxy that is known by its predictions alone: pseudo-groups are then what it gets right and wrong.

        Raises
        ------
        ShapeError, GroupError
            If there is not one prediction per row, or one is no class.
        """
        array = np.asarray(predictions)
        if array.shape != (len(groups),):
            raise ShapeError(f"the proxy's predictions have shape {array.shape}; expected ({len(groups)},).")
        if array.dtype.kind not in "iu" or (array.size and not 0 <= array.min() <= array.max() < groups.n_classes):
            raise GroupError(f"the proxy's predictions must be classes 0 to {groups.n_classes - 1}, as integers.")
        array = array.astype(np.int64)
        return cls(array, array != groups.labels, groups.labels, groups.class_names, description)

    def __len__(self) -> int:
        return int(self.predictions.size)

    @property
    def strata(self) -> Int[np.ndarray, "k k"]:
        """(k, k) rows by the proxy's prediction (first axis) and class (second)."""
        k = len(self.class_names)
        table: NDArray[Any] = np.bincount(self.predictions * k + self.labels, minlength=k * k).reshape(k, k)
        return table

    @property
    def accuracy(self) -> float:
        """Share of rows whose class the proxy predicts; NaN without rows."""
        return float(np.mean(self.predictions == self.labels)) if len(self) else float("nan")

    @property
    def notes(self) -> tuple[str, ...]:
        """Strata that few rows decide, and a proxy that is always right."""
        if len(self) == 0:
            return ()
        if self.accuracy == 1:
            return (ALWAYS_RIGHT,)
        table = self.strata
        few = [(int(table[j, y]), j, y) for j, y in zip(*np.nonzero((table > 0) & (table < FEW_ROWS)), strict=True)]
        share = f"1/{int((table > 0).sum())} of bias_unsupervised"
        if len(few) > MOST_NOTES:
            return (f"{len(few)} strata of the bias proxy have fewer than {FEW_ROWS} validation rows, each {share}",)
        return tuple(
            f"stratum 'predicted {self.class_names[j]}, class {self.class_names[y]}' of the bias proxy has "
            f"{n} validation row{'s' if n > 1 else ''}, which decide {share}"
            for n, j, y in few
        )

    def agreement(self, groups: Groups) -> float | None:
        """Cramér's V of the proxy's predictions and the attribute, 0 … 1: diagnosis only. None without attributes."""
        if groups.n_attributes < 2 or len(self) == 0:
            return None
        k, a = len(self.class_names), groups.n_attributes
        table = np.bincount(self.predictions * a + groups.attributes, minlength=k * a).reshape(k, a).astype(np.float64)
        table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
        if min(table.shape) < 2:
            return None
        expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
        chi2 = float(((table - expected) ** 2 / expected).sum())
        return float(np.sqrt(chi2 / table.sum() / (min(table.shape) - 1)))

    def by_group(self, groups: Groups) -> GroupMetrics:
        """Accuracy of the proxy in every group: diagnosis only."""
        return group_metrics(self.predictions, groups)

    def as_dict(self, groups: Groups) -> dict[str, Any]:
        """JSON-able summary: strata that have rows; what concerns attributes is None without them."""
        with_attributes = groups.n_attributes > 1 and len(self) > 0
        return {
            "description": self.description,
            "n": len(self),
            "accuracy": self.accuracy if len(self) else None,
            "strata": [
                {"predicted": self.class_names[j], "class": self.class_names[y], "n": int(n)}
                for (j, y), n in np.ndenumerate(self.strata)
                if n > 0
            ],
            "agreement_with_attribute": self.agreement(groups),
            "accuracy_by_group": self.by_group(groups).as_dict()["groups"] if with_attributes else None,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class BiasProxy:
    """A linear head on frozen features, fitted to the training labels without balancing.

    Parameters
    ----------
    probe : the head
    l2 : strength of its penalty
    """

    probe: Probe
    l2: float

    @staticmethod
    def head(l2: float = PROXY_L2) -> Head:
        """The problem to solve, for who fits it together with others."""
        return Head(l2=l2, name="bias proxy")

    def read(self, features: Any, groups: Groups) -> ProxyReading:
        """What it says about rows (n, d), block by block.

        Raises
        ------
        ShapeError
            If features and groups differ in n.
        """
        n = int(features.shape[0])
        if n != len(groups):
            raise ShapeError(f"there are features of {n} rows and groups of {len(groups)}.")
        predictions, loss = np.zeros(n, dtype=np.int64), np.zeros(n)
        rows = max(64, READ_BYTES // (8 * int(features.shape[1])))
        for lo in range(0, n, rows):
            hi = min(lo + rows, n)
            logits = to_numpy(self.probe.logits(features[lo:hi, :]))
            predictions[lo:hi] = logits.argmax(axis=1)
            loss[lo:hi] = logsumexp(logits, axis=1) - logits[np.arange(hi - lo), groups.labels[lo:hi]]
        description = f"linear head on the same frozen features, training split, no balancing, l2 {self.l2:g}"
        return ProxyReading(predictions, _hardest(loss, groups), groups.labels, groups.class_names, description)


def fit_bias_proxy(
    features: Any, labels: Array, *, n_classes: int, l2: float = PROXY_L2, solver: LBFGS | None = None
) -> BiasProxy:
    """Fit a proxy to rows (n, d) of the training split; raises as `grobust.probe.fit_probes`."""
    (fit,) = fit_probes(features, labels, [BiasProxy.head(l2)], n_classes=n_classes, solver=solver)
    return BiasProxy(fit.probe, l2)


def _hardest(loss: Float[np.ndarray, " n"], groups: Groups) -> Bool[np.ndarray, " n"]:
    """The ⌈share · n_y⌉ rows of each class with the largest loss; of equal ones the first."""
    hard = np.zeros(loss.size, dtype=bool)
    for label in range(groups.n_classes):
        rows = np.flatnonzero(groups.labels == label)
        order = np.argsort(-loss[rows], kind="stable")
        hard[rows[order[: int(np.ceil(HARD_SHARE * rows.size))]]] = True
    return hard
