"""`fit_probes`: checks, the plan of the solves, and what they report."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.errors import ConfigError, GroupError, ShapeError
from grobust.probe._backends import make_passes
from grobust.probe._design import Design, design
from grobust.probe._dual import reduced, restored, shrunk
from grobust.probe._lasso import solve_lasso
from grobust.probe._newton import finish
from grobust.probe._objective import columns_per_head, effective_l2
from grobust.probe._rows import Rows
from grobust.probe._solver import Solution, solve
from grobust.probe._threads import Threads, threads
from grobust.probe._weights import WeightTable, weight_table
from grobust.settings import LBFGS
from grobust.typing import Array

__all__ = ["FitStatus", "Head", "Probe", "ProbeFit", "fit_path", "fit_probe", "fit_probes"]

DEFAULT_MAX_BYTES = 2 << 30
# Rows of a block: with the work arrays of its heads it stays in a core's cache.
HOST_BLOCK, DEVICE_BLOCK = 512, 32_768
# A weighting on at most this share of the rows is solved on those rows alone.
SMALL_SUPPORT = 0.25
# Rows per feature below which the n × n features are cheaper.
DUAL_BELOW = 0.6


class FitStatus(StrEnum):
    """How a fit ended."""

    CONVERGED = "converged"
    MAX_ITER = "max_iter"
    STALLED = "stalled"


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear head on raw features; the standardization of training is folded in.

    Parameters
    ----------
    weight : (k, d) float64
    bias : (k) float64
    """

    weight: Array
    bias: Array

    def logits(self, features: Array) -> Array:
        """(n, k) float64 scores of features (n, d), on their device."""
        xp = array_namespace(features)
        return xp.astype(features, xp.float64) @ self.weight.T + self.bias

    def predict(self, features: Array) -> Array:
        """(n) int64 predicted classes of features (n, d)."""
        xp = array_namespace(features)
        return xp.argmax(self.logits(features), axis=1)


@dataclass(frozen=True, eq=False)
class Head:
    """One problem: weights of the rows and the strengths of its penalties.

    Parameters
    ----------
    weights : (n) non-negative, any scale (`BalancedSample.expected_weights`; zeros for a subset or the other folds);
        None weighs all rows alike. Give heads the same array object where their weights are the same
    l2 : λ ≥ 0 of ½ λ ‖W‖²
    l1 : λ₁ ≥ 0 of λ₁ Σ |W|; with both, the elastic net
    name : for messages
    start : head to begin from, on raw features; None begins at zero
    labels, n_classes : of this head alone, if it differs from the others in its classes
    """

    weights: NDArray[Any] | None = None
    l2: float = 1e-4
    l1: float = 0.0
    name: str = ""
    start: Probe | None = None
    labels: NDArray[Any] | None = None
    n_classes: int | None = None


@dataclass(frozen=True, eq=False)
class ProbeFit:
    """A fitted head and its certificate, in float64.

    Parameters
    ----------
    probe : the head
    name, l2, l1 : of the `Head`
    status, message : how the fit ended, and what to try if it did not converge
    n_iter : iterations
    objective : value of the objective
    gap : bound on how far the objective is above its minimum: the duality gap for l1 > 0, else ‖gradient‖² / (2 λ),
        which is one too (up to the unpenalized intercept); infinite for λ = 0
    decrement : quasi-Newton estimate of the same, ½ gᵀ H⁻¹ g; the gap for l1 > 0
    grad_norm : norm of the gradient by weights of standardized features and intercepts; for l1 > 0 of the smallest
        subgradient
    relative_gradient : the same over its value at zero weights
    """

    probe: Probe
    name: str
    l2: float
    l1: float
    status: FitStatus
    message: str
    n_iter: int
    objective: float
    gap: float
    decrement: float
    grad_norm: float
    relative_gradient: float


def fit_probes(
    features: Any,
    labels: Array,
    heads: Sequence[Head],
    *,
    n_classes: int,
    solver: LBFGS | None = None,
    standardize: bool = True,
    moment_weights: NDArray[Any] | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ProbeFit, ...]:
    """Fit K weighted multinomial logistic heads on the same features.

    Each head minimizes ``Σ_i w_i · cross-entropy_i / Σ_i w_i + ½ λ ‖W‖² + λ₁ Σ |W|`` over W (k, d), on standardized
    features, and an unpenalized intercept. For two classes this is the softmax over two columns, not scikit-learn's
    single column: its C is ``2 / (λ Σ w)`` there and ``1 / (λ Σ w)`` for more classes; with l1 it is ``1 / (λ₁ Σ w)``.

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
                      block_rows=HOST_BLOCK if host else DEVICE_BLOCK)  # fmt: skip
        for chosen, task_labels, classes in _tasks(labels, heads, n_classes):
            task = _Task(data, task_labels, [heads[i] for i in chosen], [_name(heads[i], i) for i in chosen], classes,
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


def _name(head: Head, index: int) -> str:
    return f"Head {index}" + (f" ({head.name})" if head.name else "")


def _check_strengths(head: Head, name: str) -> None:
    for key, value in (("l2", head.l2), ("l1", head.l1)):
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name}: {key} must be a number of at least 0, got {value!r}.")


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


class _Task:
    """Heads on the same labels: which are solved together, on which rows, in which form."""

    def __init__(
        self, data: Design, labels: Array, heads: list[Head], names: list[str], n_classes: int, settings: LBFGS,
        max_bytes: int, pool: Threads,
    ) -> None:  # fmt: skip
        self.data, self.heads, self.n_classes, self.settings = data, heads, n_classes, settings
        self.max_bytes, self.pool = max_bytes, pool
        self.host_labels = np.asarray(to_numpy(labels), dtype=np.int64)
        host = isinstance(data.mean, np.ndarray)
        self.labels = self.host_labels if host else array_namespace(data.mean).asarray(self.host_labels)
        self.columns = columns_per_head(n_classes)
        self.table = weight_table([head.weights for head in heads], names, self.host_labels, n_classes)

    def solve(self) -> Iterator[tuple[list[int], list[ProbeFit]]]:
        """Solve part after part: places of heads, and their fits."""
        of = self.table.weighting
        lasso = np.array([head.l1 > 0 for head in self.heads])
        n, d = self.data.features.shape
        width = 8 if self.data.compute == array_namespace(self.data.mean).float64 else 4
        # Rows solved on alone are copied; beyond the budget they are streamed with the others.
        copied = self.max_bytes // (width * d)
        small = ~lasso & (self.table.support[of] <= min(SMALL_SUPPORT * n, copied))
        sparse = [np.flatnonzero(lasso & (of == weighting)) for weighting in np.unique(of[lasso]).tolist()]
        solved = self.pool.each(self._lasso, sparse) if self._host else map(self._lasso, sparse)
        for places, found in zip(sparse, solved, strict=True):
            yield places.tolist(), found
        for weighting in np.unique(of[small]).tolist():
            places = np.flatnonzero(small & (of == weighting))
            yield places.tolist(), self._on_rows(places, np.flatnonzero(self._weights_of(int(places[0])) > 0))
        together = np.flatnonzero(~lasso & ~small)
        if together.size and n < min(DUAL_BELOW * d, copied) and self._host:
            yield together.tolist(), self._on_rows(together, np.arange(n))
            return
        turn = self._turn(n, d)
        for start in range(0, together.size, turn):
            places = together[start : start + turn]
            begin = self._start(places)
            solution = self._smooth(places, self.data, self.labels, self.table.take(places), begin)
            yield places.tolist(), [self._fit(i, solution, k) for k, i in enumerate(places.tolist())]

    @property
    def _host(self) -> bool:
        return isinstance(self.labels, np.ndarray)

    def _weights_of(self, place: int) -> NDArray[Any]:
        return self.table.take(np.array([place])).of_head(0)

    def _turn(self, n: int, d: int) -> int:
        """Heads whose work arrays fit into the budget: logits, their direction and a copy; history and products."""
        width = 8 if self.data.compute == array_namespace(self.data.mean).float64 else 4
        per_head = self.columns * (3 * width * n + 8 * (3 * self.settings.memory + 12) * (d + 1))
        return max(1, int(self.max_bytes // per_head))

    def _smooth(self, places: NDArray[Any], data: Design, labels: Array, table: WeightTable, start: Array) -> Solution:
        l2 = np.array([effective_l2(self.heads[i].l2, self.n_classes) for i in places.tolist()])
        block = HOST_BLOCK if self._host else DEVICE_BLOCK

        def run(data: Design, table: WeightTable, start: Array, l2: NDArray[Any]) -> Solution:
            passes = make_passes(
                data, labels, table, columns=self.columns, threads=self.pool, block=block,
                scratch_bytes=self.max_bytes // 2,
            )  # fmt: skip
            return solve(data, passes, start, l2, settings=self.settings, threads=self.pool)

        solution = run(data, table, start, l2)
        xp = array_namespace(start)
        stalled = np.flatnonzero(~solution.converged & (solution.n_iter < self.settings.max_iter))
        if stalled.size and data.compute != xp.float64:
            # Separable rows and a small λ leave losses that float32 logits cannot tell apart: go on in float64.
            begin = xp.take(solution.weights, xp.asarray(stalled), axis=0)
            solution.replace(stalled, run(data.in_float64(), table.take(stalled), begin, l2[stalled]))
        size = start.shape[1] * start.shape[2]
        if size <= self.settings.newton and data.compute == xp.float64 and self._host:
            for head in np.flatnonzero((l2 > 0) & (solution.n_iter < self.settings.max_iter)).tolist():
                finish(
                    data, np.asarray(labels), table.of_head(head), float(l2[head]), solution, head, self.settings.rtol
                )
        return solution

    def _on_rows(self, places: NDArray[Any], rows: NDArray[Any]) -> list[ProbeFit]:
        """Solve on some rows alone, in the n × n form where that is smaller."""
        x = self.data.standardized(rows)
        labels = self.labels[array_namespace(self.labels).asarray(rows)]
        table = self.table.take(places).restrict(rows)
        start = self._start(places)
        if rows.size < DUAL_BELOW * x.shape[1] and self._host:
            factor = reduced(x)
            small = design(factor.astype(x.dtype), standardize=False, threads=self.pool, block_rows=HOST_BLOCK)
            given = None if not bool(start.any()) else small.centred(shrunk(start, factor, x))
            start = np.zeros((places.size, self.columns, rows.size + 1)) if given is None else given
            solution = self._smooth(places, small, labels, table, start)
            solution = replace(solution, weights=restored(small.uncentred(solution.weights), factor, x))
        else:
            part = design(x, standardize=False, threads=self.pool, block_rows=HOST_BLOCK)
            solution = self._smooth(places, part, labels, table, part.centred(start))
            solution = replace(solution, weights=part.uncentred(solution.weights))
        return [self._fit(i, solution, k) for k, i in enumerate(places.tolist())]

    def _lasso(self, places: NDArray[Any]) -> list[ProbeFit]:
        weights = self._weights_of(int(places[0]))
        rows = np.flatnonzero(weights > 0)
        d = self.data.features.shape[1]
        # Several weightings are solved side by side, each with its rows and a copy while they are gathered.
        piece = max(1, int(self.max_bytes // (16 * d * self.pool.count)))
        stretches = [rows[i : i + piece] for i in range(0, rows.size, piece)]
        kept = self.data.standardized(rows) if len(stretches) == 1 else None
        if isinstance(kept, np.ndarray):
            # A feature's values side by side.
            kept = np.ascontiguousarray(kept.T).T

        def blocks() -> Iterator[Array]:
            if kept is not None:
                yield kept
            else:
                yield from (self.data.standardized(stretch) for stretch in stretches)

        dtype = np.float64 if self.data.compute == array_namespace(self.data.mean).float64 else np.float32
        heads = [self.heads[i] for i in places.tolist()]
        begin = to_numpy(self._start(places))
        starts = [None if head.start is None else begin[k] for k, head in enumerate(heads)]
        found = solve_lasso(
            Rows(blocks, self.host_labels[rows], weights[rows], d, dtype), np.array([head.l1 for head in heads]),
            np.array([effective_l2(head.l2, self.n_classes) for head in heads]), starts, self.columns, self.settings,
        )  # fmt: skip
        solution = Solution(
            array_namespace(self.data.mean).asarray(np.stack([fit.weights for fit in found])),
            *(np.array([getattr(fit, name) for fit in found])
              for name in ("objective", "gap", "gap", "grad_norm", "grad_norm_at_zero", "n_iter", "converged")),
        )  # fmt: skip
        return [self._fit(i, solution, k) for k, i in enumerate(places.tolist())]

    def _start(self, places: NDArray[Any]) -> Array:
        """(K, c, d + 1) initial weights on standardized features."""
        xp = array_namespace(self.data.mean)
        out = xp.zeros((places.size, self.columns, self.data.features.shape[1] + 1), dtype=xp.float64)
        for k, i in enumerate(places.tolist()):
            start = self.heads[i].start
            if start is None:
                continue
            expected = (self.n_classes, out.shape[2] - 1)
            if tuple(start.weight.shape) != expected:
                raise ShapeError(f"A head's start has weights {tuple(start.weight.shape)}, expected {expected}.")
            weight, bias = xp.asarray(to_numpy(start.weight)), xp.asarray(to_numpy(start.bias))
            if self.columns == 1:
                weight, bias = weight[1:, :] - weight[:1, :], bias[1:] - bias[:1]
            out[k, :, :-1] = weight * self.data.scale
            out[k, :, -1] = bias + weight @ self.data.mean
        return out

    def _fit(self, place: int, solution: Solution, index: int) -> ProbeFit:
        head, data, settings = self.heads[place], self.data, self.settings
        xp = array_namespace(solution.weights)
        columns = solution.weights[index, ...]
        if self.columns == 1:
            columns = xp.concat([-columns / 2, columns / 2], axis=0)
        weight = columns[:, :-1] / data.scale
        bias = columns[:, -1] - weight @ data.mean
        iterations, objective = int(solution.n_iter[index]), float(solution.objective[index])
        estimate = min(float(solution.gap[index]), float(solution.decrement[index])) / max(objective, 1e-300)
        status, message = FitStatus.CONVERGED, f"within {estimate:.1e} of the minimum after {iterations} iterations"
        if not solution.converged[index]:
            at_limit = iterations >= settings.max_iter
            status = FitStatus.MAX_ITER if at_limit else FitStatus.STALLED
            precise = "raise rtol or l2" if data.compute == xp.float64 else "give float64 features, or raise rtol or l2"
            advice = "raise max_iter or l2" if at_limit else f"rounding hides the rest: {precise}"
            message = f"not converged: about {estimate:.1e} above the minimum after {iterations} iterations; {advice}"
        norm, at_zero = float(solution.grad_norm[index]), float(solution.grad_norm_at_zero[index])
        return ProbeFit(
            probe=Probe(weight, bias), name=head.name, l2=head.l2, l1=head.l1, status=status, message=message,
            n_iter=iterations, objective=objective, gap=float(solution.gap[index]),
            decrement=float(solution.decrement[index]), grad_norm=norm, relative_gradient=norm / max(at_zero, 1e-300),
        )  # fmt: skip
