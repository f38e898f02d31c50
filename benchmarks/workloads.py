"""Features as backbones give them: a power-law spectrum, classes and groups as shifts, many directions at once."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.groups import Groups

__all__ = ["Workload", "backbone_like", "grid_weights", "group_balanced_rows"]

PIECE = 16_384


@dataclass(frozen=True)
class Workload:
    """Features (n, d) float32, less their mean, and their groups."""

    features: NDArray[Any]
    groups: Groups

    @property
    def labels(self) -> NDArray[Any]:
        return self.groups.labels


def backbone_like(
    n: int, d: int, n_classes: int = 2, *, separation: float = 0.1, rectified: bool = False, seed: int = 1
) -> Workload:
    """Classes and two attribute values in 70% agreement; class shares 3 : 1 for two classes, else equal.

    Parameters
    ----------
    separation : 0.1 leaves a quarter of the rows hard to tell apart, 1 makes the classes separable
    rectified : no negative values, as after a ReLU and average pooling
    """
    rng = np.random.default_rng(seed)
    shares = [0.75, 0.25] if n_classes == 2 else [1 / n_classes] * n_classes
    labels = rng.choice(n_classes, size=n, p=shares)
    attributes = np.where(rng.random(n) < 0.7, labels % 2, 1 - labels % 2)
    sds = ((1.0 + np.arange(d)) ** -0.6).astype(np.float32)
    class_shift = rng.standard_normal((n_classes, d), dtype=np.float32) * (0.6 * separation) * sds
    attribute_shift = rng.standard_normal((2, d), dtype=np.float32) * 0.8 * sds
    rotation = np.linalg.qr(rng.standard_normal((d, d), dtype=np.float32))[0]
    mean = 0.4 * rng.random(d, dtype=np.float32) if rectified else 0.05 * rng.standard_normal(d, dtype=np.float32)
    scale = np.float32(4.0 if rectified else np.sqrt(d) / 4)
    features = np.empty((n, d), dtype=np.float32)
    for lo in range(0, n, PIECE):
        hi = min(lo + PIECE, n)
        inner = rng.standard_normal((hi - lo, d), dtype=np.float32) * sds
        inner += class_shift[labels[lo:hi]] + attribute_shift[attributes[lo:hi]]
        rows = inner @ rotation * scale + mean
        features[lo:hi] = np.maximum(rows, 0) if rectified else rows
    features -= features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return Workload(features, Groups.from_arrays(labels, attributes))


def grid_weights(groups: Groups, count: int, *, seed: int = 0) -> list[NDArray[Any]]:
    """Weightings of a grid, each summing to 1: classes made equal, groups made equal, plain, square root of the
    groups', and then the same on random halves of the rows."""
    rng = np.random.default_rng(seed)
    per_class, per_group = 1 / groups.class_counts[groups.labels], 1 / groups.counts[groups.ids]
    base = [per_class, per_group, np.ones(len(groups)), np.sqrt(per_group)]
    found = [base[i % 4] * (rng.random(len(groups)) < 0.5 if i >= 4 else 1.0) for i in range(count)]
    return [weights / weights.sum() for weights in found]


def group_balanced_rows(groups: Groups, n: int, *, seed: int = 0) -> NDArray[Any]:
    """n rows, the same number of each of four groups."""
    rng = np.random.default_rng(seed)
    rows = [rng.choice(np.flatnonzero(groups.ids == g), n // 4, replace=False) for g in range(4)]
    return np.sort(np.concatenate(rows))
