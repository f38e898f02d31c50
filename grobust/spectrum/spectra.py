"""`Spectra`: eigenvalues of the feature covariance of each group and class, by the cheapest of three routes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from grobust.errors import ConfigError, ShapeError
from grobust.groups import Groups
from grobust.spectrum._eigen import Eigen, few
from grobust.spectrum._gram import CentredRows, gram, scatter_of_rows, single_pays
from grobust.spectrum._krylov import KrylovCell, krylov_spectra
from grobust.spectrum._moments import Moments, MomentSums, merge_moments
from grobust.spectrum._results import Result, Route, result, side_by_side, symmetric
from grobust.spectrum._small import SmallCells
from grobust.spectrum._staging import Block, Piece, pieces_of
from grobust.threads import Threads, one_thread, threads
from grobust.typing import Array

__all__ = ["Route", "Spectra", "class_spectra", "group_spectra", "stream_spectra"]

BLOCK_ROWS = 8192
DEFAULT_MEMORY = 8 << 30
# A covariance of more features and rows than this takes longer to form than a dozen passes of block Krylov.
LARGE = 16_384
KRYLOV_TOLERANCE = 1e-5

S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Spectra:
    """Covariance spectra of g groups or classes, in the squared unit of the features.

    Parameters
    ----------
    names : g names
    counts : (g) rows
    dim : d
    eigenvalues : (g, rank) float64, descending; NaN beyond min(n − 1, d), as centring takes a dimension, and for
        groups of fewer than two rows
    error_bounds : (g, rank) an eigenvalue of the (accumulated) covariance lies within this distance: residual norms of
        iterative solvers, or their square over the gap to what follows; the backward error of LAPACK's. Rounding of the
        accumulation comes on top: about 1e-7 of λ1 for float16 and float32 features
    trace : (g) total variance, the sum of all eigenvalues
    effective_rank : (g) exp of the entropy of eigenvalues over their sum (Roy & Vetterli 2007); NaN where only the
        largest eigenvalues were computed (`complete`)
    participation_ratio : (g) (Σ λ)² / Σ λ²; NaN on the Krylov route
    ddof : the covariance is divided by n − ddof; 0 is the paper's
    routes : how each was computed
    notes : groups without a spectrum
    """

    names: tuple[str, ...]
    counts: Int[np.ndarray, " g"]
    dim: int
    eigenvalues: Float[np.ndarray, "g rank"]
    error_bounds: Float[np.ndarray, "g rank"]
    trace: Float[np.ndarray, " g"]
    effective_rank: Float[np.ndarray, " g"]
    participation_ratio: Float[np.ndarray, " g"]
    ddof: int
    routes: tuple[Route, ...]
    notes: tuple[str, ...]


def group_spectra(features: Array, groups: Groups, *, rank: int = 10, ddof: int = 0, complete: bool = False) -> Spectra:
    """Spectra of the groups of features in memory or in a memory map.

    Parameters
    ----------
    features : (n, d) float16, float32 or float64, NumPy or CuPy. Products are float32 and sums float64; float64
        features are float64 throughout
    groups : of the n rows
    rank : eigenvalues kept, largest first
    ddof : 0 divides by n (the paper), 1 by n − 1
    complete : compute all eigenvalues, which `Spectra.effective_rank` needs; otherwise a tenth or fewer of them are
        found by Lanczos, several times faster

    Raises
    ------
    ShapeError
        If `features` and `groups` differ in n, or a feature is not finite; the row is named.
    """
    return _in_memory(features, groups, rank=rank, ddof=ddof, complete=complete)[0]


def class_spectra(features: Array, groups: Groups, *, rank: int = 10, ddof: int = 0, complete: bool = False) -> Spectra:
    """Spectra of the classes, each centred by the class mean; arguments as `group_spectra`."""
    return _in_memory(features, groups, rank=rank, ddof=ddof, complete=complete)[1]


def stream_spectra(
    blocks: Iterable[Block], *, groups: Groups, dim: int, rank: int = 10, ddof: int = 0, complete: bool = False,
    route: Route | None = None, memory_bytes: int = DEFAULT_MEMORY, keep: bool = False,
) -> tuple[Spectra, Spectra]:  # fmt: skip
    """Spectra of groups and of classes, from one pass over blocks of rows.

    Groups of at least d rows accumulate d × d moments, and classes are their sums; smaller groups keep their rows for
    an n × n Gram matrix. Where neither fits into `memory_bytes`, or both n and d exceed 16,384, block Krylov goes over
    the blocks about ten times, so they must be iterable again (a list, or an object with ``__iter__``).

    Memory: one d × d float64 matrix per group of at least d rows and about as much again while eigenvalues are
    computed; the rows themselves of smaller groups and their n × n matrices; a few thousand rows per thread.

    Parameters
    ----------
    blocks : (features (b, d), positions (b) of the rows in `groups`), in any order
    groups, dim, rank, ddof, complete : see `group_spectra`
    route : force one for all groups and classes; None chooses by cost and memory
    memory_bytes : for matrices and kept rows
    keep : the blocks stay unchanged in memory until the end, so that no row needs to be copied

    Raises
    ------
    ConfigError
        If rank or ddof is out of range, or the Krylov route is needed and `blocks` can be iterated only once.
    ShapeError
        If a block has another width, rows are missing or repeated, or a feature is not finite; the row is named.
    """
    if rank < 1 or ddof not in (0, 1):
        raise ConfigError(f"rank must be at least 1 and ddof 0 or 1, got {rank} and {ddof}.")
    plan = _Plan(groups, dim, rank=rank, route=route, memory_bytes=memory_bytes)
    if plan.krylov:
        return _krylov(blocks, groups, dim=dim, rank=rank, ddof=ddof)
    seen = np.zeros(groups.n_groups, dtype=np.int64)
    kept: dict[int, list[Piece]] = {g: [] for g in plan.gram_groups}
    iterator = iter(blocks)
    first = next(iterator, None)
    with _team(first) as team:
        sums = MomentSums(dim, groups.counts, team)
        while first is not None:
            pieces = list(pieces_of(*first, groups=groups, dim=dim))
            for group, piece in pieces:
                seen[group] += len(piece)
                if group in kept:
                    kept[group].append(piece if keep else piece.copied())
            sums.add([item for item in pieces if item[0] not in kept], keep=keep)
            first = next(iterator, None)
        _require_all(groups, seen)
        return _solve(plan, sums.finish(), kept, team, ddof=ddof, complete=complete)


class _Plan:
    """Which groups accumulate moments, which keep their rows, and whether neither fits."""

    def __init__(self, groups: Groups, dim: int, *, rank: int, route: Route | None, memory_bytes: int) -> None:
        self.groups, self.dim, self.rank = groups, dim, rank
        counts = groups.counts
        used = [g for g in range(groups.n_groups) if counts[g] > 0]
        self.gram_groups = [g for g in used if (counts[g] < dim if route is None else route is Route.GRAM)]
        classes = [int(n) for n in groups.class_counts if n > 0]
        self.gram_classes = {
            y
            for y in range(groups.n_classes)
            if groups.class_counts[y] > 0
            and all(g in self.gram_groups for g in groups.groups_of_class(y) if counts[g] > 0)
            and (groups.class_counts[y] < dim or route is Route.GRAM)
        }
        matrices = sum(8 * dim**2 for g in used if g not in self.gram_groups)
        # With a float32 copy.
        matrices += sum(12 * int(groups.class_counts[y]) ** 2 for y in self.gram_classes)
        rows = 8 * dim * sum(int(counts[g]) for g in self.gram_groups)
        # Classes take as much again while all eigenvalues are computed together.
        self.side_by_side = 2 * matrices <= memory_bytes
        large = max((min(n, dim) for n in classes), default=0) > LARGE
        self.krylov = route is Route.KRYLOV or (route is None and (large or matrices + rows > memory_bytes))

    def route_of_class(self, label: int) -> Route:
        """Of a class with at least two rows."""
        return Route.GRAM if label in self.gram_classes else Route.MOMENTS


def _in_memory(features: Array, groups: Groups, *, rank: int, ddof: int, complete: bool) -> tuple[Spectra, Spectra]:
    if features.ndim != 2 or features.shape[0] != len(groups):
        raise ShapeError(f"features have shape {tuple(features.shape)} and the groups {len(groups)} rows.")
    blocks = _Blocks(features, groups)
    return stream_spectra(
        blocks, groups=groups, dim=features.shape[1], rank=rank, ddof=ddof, complete=complete, keep=True
    )


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Features in memory as one block; a memory map in stretches, so that few of its pages are in use at once."""

    features: Array
    groups: Groups

    def __iter__(self) -> Iterator[Block]:
        n = len(self.groups)
        step = BLOCK_ROWS if isinstance(self.features, np.memmap) else max(n, 1)
        for start in range(0, n, step):
            stop = min(n, start + step)
            yield self.features[start:stop], np.arange(start, stop)


def _team(first: Block | None) -> AbstractContextManager[Threads]:
    if first is None or not isinstance(first[0], np.ndarray):
        return nullcontext(one_thread())
    return threads()


def _require_all(groups: Groups, seen: NDArray[np.int64]) -> None:
    for g in np.flatnonzero(seen != groups.counts).tolist():
        raise ShapeError(f"Group '{groups.names[g]}' has {groups.counts[g]} rows, the blocks held {seen[g]}.")


def _solve(
    plan: _Plan, moments: dict[int, Moments], kept: dict[int, list[Piece]], team: Threads, *, ddof: int, complete: bool
) -> tuple[Spectra, Spectra]:
    groups = plan.groups
    by_group: dict[int, Result] = {}
    by_class: dict[int, Result] = {}

    def of_moments(own: Moments) -> Result:
        return result(own.scatter, own.n - ddof, Route.MOMENTS, rank=plan.rank, complete=complete, rounded=own.rounded)

    def of_class(y: int) -> None:
        merged = merge_moments([moments[g] for g in groups.groups_of_class(y) if g in moments])
        symmetric(merged.scatter)
        by_class[y] = of_moments(merged)

    def of_group(g: int) -> None:
        symmetric(moments[g].scatter)
        by_group[g] = of_moments(moments[g])

    for y in sorted({g // groups.n_attributes for g in kept}):
        members = [g for g in groups.groups_of_class(y) if g in kept]
        pieces = [kept.pop(g) for g in members]
        n = sum(int(groups.counts[g]) for g in members)
        single = not complete and few(n, plan.rank) and single_pays(pieces[0][0].source, n)
        rows = CentredRows.of(pieces, single=single)
        small = SmallCells(rows, team, plan.rank, ddof, complete)
        matrix = gram(rows.rows, team) if y in plan.gram_classes else None
        blocks = [small.block(i, matrix) for i in range(len(members))]
        if matrix is None:
            for i, g in enumerate(members):
                moments[g] = scatter_of_rows(rows.of_group(i), rows.means[i, :])
        found = _each(team, small.of_group, list(enumerate(blocks)))
        by_group |= dict(zip(members, found, strict=True))
        del blocks
        if matrix is not None:
            by_class[y] = by_group[members[0]] if len(members) == 1 else small.of_class(matrix)
        matrix = None
    parts = {y: [g for g in groups.groups_of_class(y) if g in moments] for y in range(groups.n_classes)}
    several = [y for y, own in parts.items() if len(own) > 1]
    alone = [g for g in moments if g not in by_group]
    if plan.side_by_side and moments and not isinstance(next(iter(moments.values())).mean, np.ndarray):
        made = {y: merge_moments([moments[g] for g in parts[y]]) for y in several}
        cells = [*made.values(), *(moments[g] for g in alone)]
        results = side_by_side(cells, ddof=ddof, rank=plan.rank, complete=complete)
        by_class |= dict(zip(several, results, strict=False))
        by_group |= dict(zip(alone, results[len(several) :], strict=True))
    else:
        # Classes first: groups' scatters are completed in place afterwards.
        _each(team, of_class, several)
        _each(team, of_group, alone)
    by_class |= {y: by_group[own[0]] for y, own in parts.items() if len(own) == 1 and y not in by_class}
    shared = {"dim": plan.dim, "rank": plan.rank, "ddof": ddof}
    return (
        _spectra(groups.names, groups.counts, by_group, **shared),
        _spectra(groups.class_names, groups.class_counts, by_class, **shared),
    )


def _each(team: Threads, work: Callable[[S], T], items: Sequence[S]) -> list[T]:
    """Side by side; a single one with all threads to itself."""
    return [work(items[0])] if len(items) == 1 else team.map(work, items)


def _krylov(blocks: Iterable[Block], groups: Groups, *, dim: int, rank: int, ddof: int) -> tuple[Spectra, Spectra]:
    if isinstance(blocks, Iterator):
        raise ConfigError(
            "Neither d × d matrices nor Gram matrices of these groups fit into memory_bytes, and the blocks can be "
            "gone over only once. Give blocks that can be iterated again (a list, an object with __iter__), or allow "
            "more memory."
        )
    cells = [KrylovCell((g,), int(n)) for g, n in enumerate(groups.counts)]
    classes = [KrylovCell(tuple(groups.groups_of_class(y)), int(n)) for y, n in enumerate(groups.class_counts)]
    krylov_spectra(blocks, [*cells, *classes], groups=groups, dim=dim, rank=rank, tolerance=KRYLOV_TOLERANCE)

    def results(found: list[KrylovCell]) -> dict[int, Result]:
        made = {}
        for i, cell in enumerate(found):
            if cell.result is not None:
                scale = cell.n / (cell.n - ddof)
                eigen = Eigen(cell.result.values * scale, cell.result.bounds * scale, complete=False)
                made[i] = Result(eigen, cell.trace * scale, np.nan, Route.KRYLOV)
        return made

    shared = {"dim": dim, "rank": rank, "ddof": ddof}
    return (
        _spectra(groups.names, groups.counts, results(cells), **shared),
        _spectra(groups.class_names, groups.class_counts, results(classes), **shared),
    )


def _spectra(
    names: Sequence[str], counts: NDArray[np.int64], results: dict[int, Result], *, dim: int, rank: int, ddof: int
) -> Spectra:
    g = len(names)
    eigenvalues, bounds = np.full((g, rank), np.nan), np.full((g, rank), np.nan)
    trace, effective, participation = (np.full(g, np.nan) for _ in range(3))
    routes, notes = [Route.NONE] * g, []
    for i, name in enumerate(names):
        if counts[i] < 2:
            notes.append(f"'{name}' has {counts[i]} row(s): a covariance needs two, its spectrum is undefined")
            continue
        found = results[i]
        routes[i] = found.route
        kept = min(rank, int(counts[i]) - 1, dim, found.eigen.values.size)
        eigenvalues[i, :kept], bounds[i, :kept] = found.eigen.values[:kept], found.eigen.bounds[:kept]
        trace[i] = found.trace
        if trace[i] > 0:
            participation[i] = trace[i] ** 2 / found.square
            if found.eigen.complete:
                share = found.eigen.values[found.eigen.values > 0] / found.eigen.values.sum()
                effective[i] = np.exp(-np.sum(share * np.log(share)))
    return Spectra(
        names=tuple(names),
        counts=np.asarray(counts, dtype=np.int64),
        dim=dim,
        eigenvalues=eigenvalues,
        error_bounds=bounds,
        trace=trace,
        effective_rank=effective,
        participation_ratio=participation,
        ddof=ddof,
        routes=tuple(routes),
        notes=tuple(notes),
    )
