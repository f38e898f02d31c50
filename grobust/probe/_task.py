"""The plan of a solve: which heads are solved together, on which rows, in which form."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace, to_numpy
from grobust.errors import ShapeError
from grobust.probe._backends import make_passes
from grobust.probe._design import DEVICE_BLOCK, HOST_BLOCK, SMALL, Design, design
from grobust.probe._dual import reduced, restored, shrunk
from grobust.probe._head import FitStatus, Head, Probe, ProbeFit
from grobust.probe._lasso import solve_lasso
from grobust.probe._newton import finish
from grobust.probe._objective import columns_per_head, effective_l2
from grobust.probe._rows import Rows
from grobust.probe._solver import Solution, solve
from grobust.probe._weights import WeightTable, weight_table
from grobust.settings import LBFGS
from grobust.threads import Threads
from grobust.typing import Array

__all__ = ["Task"]

# A weighting on at most this share of the rows is solved on those rows alone.
SMALL_SUPPORT = 0.25
# Rows per feature below which the n × n features are cheaper.
DUAL_BELOW = 0.6


class Task:
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
        free = np.array([not head.penalize_intercept for head in self.heads])
        sparse = [
            places
            for weighting in np.unique(of[lasso]).tolist()
            for alike in (free, ~free)
            if (places := np.flatnonzero(lasso & alike & (of == weighting))).size
        ]
        solved = self.pool.each(self._lasso, sparse) if self._host else map(self._lasso, sparse)
        for places, found in zip(sparse, solved, strict=True):
            yield places.tolist(), found
        for weighting in np.unique(of[small]).tolist():
            places = np.flatnonzero(small & (of == weighting))
            yield places.tolist(), self._on_rows(places, np.flatnonzero(self._weights_of(int(places[0])) > 0))
        together = np.flatnonzero(~lasso & ~small)
        if together.size and n < min(DUAL_BELOW * d, copied):
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
        """Heads whose work arrays fit into the budget: logits, their direction and, where heads leave by copying the
        others, a copy; history and products."""
        width = 8 if self.data.compute == array_namespace(self.data.mean).float64 else 4
        copies = 2 if self._host and width == 4 else 3
        per_head = self.columns * (copies * width * n + 8 * (3 * self.settings.memory + 12) * (d + 1))
        return max(1, int(self.max_bytes // per_head))

    def _smooth(self, places: NDArray[Any], data: Design, labels: Array, table: WeightTable, start: Array) -> Solution:
        l2 = np.array([effective_l2(self.heads[i].l2, self.n_classes) for i in places.tolist()])
        host = isinstance(labels, np.ndarray)
        block = HOST_BLOCK if host else DEVICE_BLOCK

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
        if size <= self.settings.newton and data.compute == xp.float64 and host:
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
        if rows.size < DUAL_BELOW * x.shape[1]:
            solution = self._in_dual_form(places, x, rows, table, start)
        else:
            part = design(
                x, standardize=False, threads=self.pool, block_rows=HOST_BLOCK if self._host else DEVICE_BLOCK
            )
            solution = self._smooth(places, part, labels, table, part.centred(start))
            solution = replace(solution, weights=part.uncentred(solution.weights))
        return [self._fit(i, solution, k) for k, i in enumerate(places.tolist())]

    def _in_dual_form(
        self, places: NDArray[Any], x: Array, rows: NDArray[Any], table: WeightTable, start: Array
    ) -> Solution:
        """Solve on n × n features in place of rows x (n, d).

        A device forms their Gram matrix and takes the weights back to d features; it also solves, but for so few rows
        that products are float64: those the host solves in less time than the device takes to start its kernels, and
        Newton's steps finish them.
        """
        factor = reduced(x, self.pool)
        there, own, labels = array_namespace(factor), factor, self.host_labels[rows]
        if self._host or rows.size**2 <= SMALL:
            own = to_numpy(factor)
        else:
            labels = there.asarray(labels)
        xp = array_namespace(own)
        block = HOST_BLOCK if isinstance(own, np.ndarray) else DEVICE_BLOCK
        own = xp.astype(own, getattr(xp, str(x.dtype).rsplit(".", 1)[-1]))
        if isinstance(own, np.ndarray):
            # LAPACK's columns as rows side by side, which compiled passes read.
            own = np.ascontiguousarray(own)
        small = design(own, standardize=False, threads=self.pool, block_rows=block)
        begin = xp.zeros((places.size, self.columns, rows.size + 1), dtype=xp.float64)
        if bool(array_namespace(start).any(start != 0)):
            given = shrunk(start, factor, x)
            begin = small.centred(to_numpy(given) if isinstance(own, np.ndarray) else given)
        solution = self._smooth(places, small, labels, table, begin)
        weights = there.asarray(small.uncentred(solution.weights))
        return replace(solution, weights=restored(weights, factor, x))

    def _lasso(self, places: NDArray[Any]) -> list[ProbeFit]:
        weights = self._weights_of(int(places[0]))
        rows = np.flatnonzero(weights > 0)
        d = self.data.features.shape[1]
        # Several weightings are solved side by side, each with its rows.
        piece = max(1, int(self.max_bytes // (16 * d * self.pool.count)))
        stretches = [rows[i : i + piece] for i in range(0, rows.size, piece)]
        kept: Array | None = None
        if len(stretches) == 1:
            # A feature's values side by side.
            kept = self.data.by_feature(rows).T if self._host else self.data.standardized(rows)

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
            penalize_intercept=heads[0].penalize_intercept,
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
