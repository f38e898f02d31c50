"""`fit_probes`: checks, and heads sorted by the labels that they are about."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace
from grobust.errors import ConfigError, GroupError, ShapeError
from grobust.probe._design import DEVICE_BLOCK, HOST_BLOCK, design
from grobust.probe._head import Head, Probe, ProbeFit
from grobust.probe._task import Task
from grobust.settings import LBFGS
from grobust.threads import threads
from grobust.typing import Array

__all__ = ["feature_moments", "fit_path", "fit_probe", "fit_probes"]

DEFAULT_MAX_BYTES = 2 << 30


def fit_probes(
    features: Any,
    labels: Array,
    heads: Sequence[Head],
    *,
    n_classes: int,
    solver: LBFGS | None = None,
    standardize: bool = True,
    moment_weights: NDArray[Any] | None = None,
    moments: tuple[Array, Array] | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ProbeFit, ...]:
    """Fit K weighted multinomial logistic heads on the same features.

    Each head minimizes ``Σ_i w_i · cross-entropy_i / Σ_i w_i + ½ λ ‖W‖² + λ₁ Σ |W|`` over W (k, d), on standardized
    features, and an intercept, which is not penalized unless the head says so. For two classes this is the softmax
    over two columns, not scikit-learn's single column: its C is ``2 / (λ Σ w)`` there and ``1 / (λ Σ w)`` for more
    classes; with l1 it is ``1 / (λ₁ Σ w)``.

    Products of float16 and float32 features are float32 (float16 is widened a block of rows at a time), those of
    float64 features float64. Weights, inner products, sums over rows and the line search are float64 always.

    Parameters
    ----------
    features : (n, d) float16, float32 or float64, NumPy or CuPy; a memory map or a `FeatureStore.view` is read block by
        block, never whole, and a `DeviceStream` brings it to a GPU that it does not fit into
    labels : (n) integers 0 … k−1
    heads : K problems
    n_classes : k ≥ 2
    solver : accuracy and iterations
    standardize : subtract the mean and divide by the standard deviation of all rows, for every head alike
    moment_weights : (n) weights of the rows in that mean and deviation; None counts every row once
    moments : mean (d) and deviation (d) float64 to use in their place, of other rows say (`feature_moments`)
    max_bytes : budget of the work arrays; heads are solved in as many turns as it takes
    progress : called with the number of heads done and K

    Returns
    -------
    A `ProbeFit` per head, in order. A fit that did not converge says so in its status; nothing is raised.

    Raises
    ------
    ShapeError
        If arrays do not fit together or a feature is not finite.
    GroupError
        If labels are out of range, or a head gives a class no weight.
    """
    settings = solver or LBFGS()
    if features.ndim != 2 or labels.shape != (features.shape[0],) or 0 in features.shape:
        raise ShapeError(f"features {features.shape} and labels {labels.shape} do not fit; expected (n, d) and (n).")
    for i, head in enumerate(heads):
        _check_strengths(head, _name(head, i))
    host = isinstance(features[:1, :], np.ndarray)
    fits: dict[int, ProbeFit] = {}
    with threads() as pool:
        data = design(features, standardize=standardize, threads=pool, moment_weights=moment_weights,
                      moments=moments, block_rows=HOST_BLOCK if host else DEVICE_BLOCK)  # fmt: skip
        for chosen, task_labels, classes in _tasks(labels, heads, n_classes):
            task = Task(data, task_labels, [heads[i] for i in chosen], [_name(heads[i], i) for i in chosen], classes,
                         settings, max_bytes, pool)  # fmt: skip
            for places, found in task.solve():
                fits.update({chosen[place]: fit for place, fit in zip(places, found, strict=True)})
                if progress is not None:
                    progress(len(fits), len(heads))
    return tuple(fits[i] for i in range(len(heads)))


def fit_probe(
    features: Any,
    labels: Array,
    *,
    n_classes: int,
    weights: NDArray[Any] | None = None,
    l2: float = 1e-4,
    l1: float = 0.0,
    start: Probe | None = None,
    solver: LBFGS | None = None,
    standardize: bool = True,
) -> ProbeFit:
    """Fit a single head: `fit_probes` with K = 1."""
    head = Head(weights=weights, l2=l2, l1=l1, start=start)
    return fit_probes(features, labels, [head], n_classes=n_classes, solver=solver, standardize=standardize)[0]


def fit_path(
    features: Any,
    labels: Array,
    head: Head,
    l2: Sequence[float],
    *,
    n_classes: int,
    solver: LBFGS | None = None,
    standardize: bool = True,
) -> tuple[ProbeFit, ...]:
    """Fit one head at several L2 strengths, strongest first, each from the one before; in the order of `l2`.

    For many strengths at once `fit_probes` is faster; a path needs the memory of one head only.
    """
    fits: dict[int, ProbeFit] = {}
    start = head.start
    for i in sorted(range(len(l2)), key=lambda i: -l2[i]):
        at = replace(head, l2=l2[i], start=start)
        fits[i] = fit_probes(features, labels, [at], n_classes=n_classes, solver=solver, standardize=standardize)[0]
        start = fits[i].probe
    return tuple(fits[i] for i in range(len(l2)))


def feature_moments(features: Any) -> tuple[Array, Array]:
    """Mean (d) and standard deviation (d) float64 of features (n, d) as `fit_probes` standardizes with; 1 where a
    feature does not vary.

    Raises
    ------
    ShapeError
        If a feature is not finite.
    """
    host = isinstance(features[:1, :], np.ndarray)
    with threads() as pool:
        data = design(features, standardize=True, threads=pool, block_rows=HOST_BLOCK if host else DEVICE_BLOCK)
    return data.mean, data.scale


def _name(head: Head, index: int) -> str:
    return f"Head {index}" + (f" ({head.name})" if head.name else "")


def _check_strengths(head: Head, name: str) -> None:
    for key, value in (("l2", head.l2), ("l1", head.l1)):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name}: {key} must be a number of at least 0, got {value!r}.")
    if head.penalize_intercept and head.l1 == 0:
        raise ConfigError(f"{name}: penalize_intercept is for l1 heads; l1 is 0.")


def _tasks(labels: Array, heads: Sequence[Head], n_classes: int) -> list[tuple[list[int], Array, int]]:
    """Heads by the labels and classes that they are about."""
    tasks: dict[tuple[int, int], tuple[list[int], Array, int]] = {}
    for i, head in enumerate(heads):
        own = labels if head.labels is None else head.labels
        classes = n_classes if head.n_classes is None else head.n_classes
        tasks.setdefault((id(own), classes), ([], own, classes))[0].append(i)
    for _, own, classes in tasks.values():
        _check_labels(own, labels.shape, classes)
    if not tasks:
        _check_labels(labels, labels.shape, n_classes)
    return list(tasks.values())


def _check_labels(labels: Array, shape: tuple[int, ...], n_classes: int) -> None:
    xp = array_namespace(labels)
    if n_classes < 2:
        raise ConfigError(f"A probe needs at least 2 classes, got n_classes={n_classes}.")
    if labels.shape != shape:
        raise ShapeError(f"A head's labels have shape {labels.shape}, expected {shape}.")
    if int(xp.min(labels)) < 0 or int(xp.max(labels)) >= n_classes:
        raise GroupError(
            f"labels run from {int(xp.min(labels))} to {int(xp.max(labels))}; expected 0 to {n_classes - 1}."
        )
