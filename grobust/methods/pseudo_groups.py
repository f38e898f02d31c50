"""Pseudo-groups for data without attributes: environments inferred from a head, or clusters of each class.

*Environments* (Creager, Jacobsen and Zemel 2021, "Environment inference for invariant learning"): the two environments
whose invariance penalties, the squared derivatives of their risks by a scale s of the logits, sum to the most. With
soft assignments q the penalty is (mean q_i g_i)² + (mean (1 − q_i) g_i)², g_i = dℓ_i/ds at s = 1; it is convex in q
and the two means add up to a constant, so the maximum is at q_i = 1 where g_i > 0 and 0 elsewhere: no ascent is needed.
For two classes these are the rows that the head gets wrong.

*Clusters*: k-means on the features of each class, as they are (Sohoni et al. 2020, GEORGE, without its dimension
reduction). Validation rows go to the nearest centre of their class.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from grobust.errors import ConfigError
from grobust.groups import Groups
from grobust.methods._batch import log_softmax
from grobust.methods.method import Features
from grobust.probe import Probe

__all__ = ["clusters_by_class", "environments", "scale_slopes"]

# Starts of k-means, of which the tightest is kept.
STARTS = 5


def scale_slopes(logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """(n) float64 derivatives at s = 1 of the cross-entropy of s · logits (n, k)."""
    expected = (np.exp(log_softmax(logits)) * logits).sum(axis=1)
    return np.asarray(expected - logits[np.arange(labels.size), labels])


def environments(probe: Probe, rows: Features) -> Groups:
    """Classes and two inferred environments, of rows that the head should be less sure of, and of the others."""
    slopes = scale_slopes(probe.logits(rows.values), rows.labels)
    return Groups.from_arrays(
        rows.labels, (slopes > 0).astype(np.int64), class_names=rows.groups.class_names,
        attribute_names=("environment 0", "environment 1"),
    )  # fmt: skip


def clusters_by_class(train: Features, validation: Features, clusters: int, *, seed: int) -> tuple[Groups, Groups]:
    """Classes and clusters of training and of validation rows.

    A class with fewer rows than clusters has a cluster per row; one without rows has none, and its validation rows are
    of cluster 0.
    """
    if clusters < 2:
        raise ConfigError(f"clusters must be at least 2, got {clusters}.")
    found = [np.zeros(len(rows), dtype=np.int64) for rows in (train, validation)]
    for label in range(train.n_classes):
        mine = np.flatnonzero(train.labels == label)
        if mine.size == 0:
            continue
        model = KMeans(min(clusters, mine.size), n_init=STARTS, random_state=seed).fit(train.values[mine])
        found[0][mine] = model.labels_
        others = np.flatnonzero(validation.labels == label)
        if others.size:
            found[1][others] = model.predict(validation.values[others].astype(train.values.dtype, copy=False))
    names = tuple(f"cluster {i}" for i in range(clusters))
    return (
        Groups.from_arrays(train.labels, found[0], class_names=train.groups.class_names, attribute_names=names),
        Groups.from_arrays(validation.labels, found[1], class_names=train.groups.class_names, attribute_names=names),
    )
