"""Class and group balancing: five methods, one result that probes and finetuning share.

A balancer never touches features. It reads labels and groups of the rows that are trained on and returns a
`BalancedSample`: which rows are kept, how likely each is to be drawn, how its loss is weighted. Finetuning and SGD
heads draw minibatches from it (`BalancedSample.draw`); the convex engine uses `BalancedSample.expected_weights`.

The definitions are those of LaBonte et al. (NeurIPS 2024), section 3: with n_c rows of class c, m_c of them kept,
n_min = min n_c, M = Σ m_c and K classes,

=============  =============================  ===========  ======================  ============
method         kept rows per class            replacement  draw probability        loss weight
=============  =============================  ===========  ======================  ============
none           n_c                            no           1 / n                   1
subsetting     n_min                          no           1 / M                   1
upsampling     n_c                            yes          1 / (K n_c)             1
upweighting    n_c                            no           1 / n                   n_max / n_c
mixture r:1    min(n_c, ⌈r n_min⌉)            yes          1 / (K m_c)             1
=============  =============================  ===========  ======================  ============

Group balancing replaces "class" by "non-empty group" throughout.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from grobust.errors import ConfigError, GroupError, ShapeError
from grobust.groups import Groups
from grobust.settings import BalanceBy, BalanceMethod, WeightNormalization

__all__ = [
    "BalanceSummary",
    "BalancedSample",
    "Balancer",
    "Mixture",
    "NoBalancing",
    "Subsetting",
    "Upsampling",
    "Upweighting",
    "balance_summary",
    "make_balancer",
]

# Largest over smallest cell up to which a data set counts as balanced already.
BALANCED_RATIO = 1.01
# Up to so many cells cut to size, a scan each beats a sort.
FEW_CELLS = 8
DEFAULT_RATIO = 2.0


@dataclass(frozen=True, eq=False)
class BalancedSample:
    """Which rows of a training split are kept, how they are drawn and how their losses are weighted.

    Cells are the classes or the groups that were made equal. Probability and weight are constant within a cell, so
    they are stored per cell; the arrays of length m are made on demand.

    Parameters
    ----------
    indices : (m) int64 kept rows, ascending
    cells : (m) int64 cell of each kept row
    cell_probability : (c) float64 probability of drawing *one given row* of the cell; NaN where the cell is empty
    cell_weight : (c) float64 loss weight of a row of the cell; NaN where the cell is empty
    replacement : whether an epoch draws with replacement (m draws either way)
    n : rows of the training split, kept or not
    seed : the run's seed; it decides the subset and, with the epoch, the draws
    method, by, ratio, normalize : what made the sample; `ratio` only for the mixture
    notes : what a reader must know: nothing removed, few rows left, cells without rows
    """

    indices: Int[np.ndarray, " m"]
    cells: Int[np.ndarray, " m"]
    cell_probability: Float[np.ndarray, " c"]
    cell_weight: Float[np.ndarray, " c"]
    replacement: bool
    n: int
    seed: int
    method: BalanceMethod
    by: BalanceBy
    ratio: float | None = None
    normalize: WeightNormalization = WeightNormalization.BATCH
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.indices.size)

    @property
    def draw_probability(self) -> Float[np.ndarray, " m"]:
        """(m) float64 probability of each kept row in a single draw; sums to 1."""
        probability: NDArray[Any] = self.cell_probability[self.cells]
        return probability

    @property
    def loss_weight(self) -> Float[np.ndarray, " m"]:
        """(m) float64 weight of each kept row's loss, before the normalization of `normalize`."""
        weight: NDArray[Any] = self.cell_weight[self.cells]
        return weight

    def loss_weight_of(self, rows: Int[np.ndarray, " r"]) -> Float[np.ndarray, " r"]:
        """(r) float64 loss weights of rows of the training split, as `draw` gives them."""
        kept = self.cell_weight[np.isfinite(self.cell_weight)]
        if (kept == kept[0]).all():
            return np.full(rows.size, kept[0])
        place = rows if len(self) == self.n else np.searchsorted(self.indices, rows)
        weight: NDArray[Any] = self.cell_weight[self.cells[place]]
        return weight

    def expected_weights(self) -> Float[np.ndarray, " n"]:
        """(n) float64 ``draw_probability * loss_weight``, normalized to sum 1; 0 for rows not kept.

        What the convex engine minimizes with. Upsampling and upweighting coincide here.
        """
        cell = self.cell_probability * self.cell_weight
        cell = cell / np.nansum(cell * np.bincount(self.cells, minlength=cell.size))
        weights = np.zeros(self.n)
        weights[self.indices] = cell[self.cells]
        return weights

    def draw(self, epoch: int) -> Int[np.ndarray, " m"]:
        """Rows of one epoch in the order in which they are used: m rows of the training split.

        A function of (seed, epoch) alone, so that a resumed run draws the same minibatches. Without replacement it is
        a permutation of the kept rows. With replacement a cell is drawn first and then a row inside it: exact, no
        float32 cumulative sum, no limit on the number of rows.
        """
        rng = np.random.default_rng([self.seed, epoch])
        if not self.replacement:
            return rng.permutation(self.indices)
        order, starts, sizes = self._by_cell
        share = np.nan_to_num(self.cell_probability) * sizes
        drawn = rng.choice(share.size, size=len(self), p=share / share.sum())
        within = (rng.random(len(self)) * sizes[drawn]).astype(np.int64)
        # random() < 1, but its product with a size can round up to the size.
        within = np.minimum(within, sizes[drawn] - 1)
        rows: NDArray[Any] = self.indices[order[starts[drawn] + within]]
        return rows

    @cached_property
    def _by_cell(self) -> tuple[Int[np.ndarray, " m"], Int[np.ndarray, " c"], Int[np.ndarray, " c"]]:
        order = _stable_order(_small(self.cells))
        sizes = np.bincount(self.cells, minlength=self.cell_probability.size)
        return order, np.cumsum(sizes) - sizes, sizes


@runtime_checkable
class Balancer(Protocol):
    """A balancing method with its settings."""

    @property
    def method(self) -> BalanceMethod:
        """Which of the five methods this is."""
        ...

    def sample(self, groups: Groups, *, seed: int) -> BalancedSample:
        """Balance the rows of `groups`; see the module for the definitions."""
        ...


@dataclass(frozen=True)
class NoBalancing:
    """All rows, reshuffled each epoch, weight 1."""

    method = BalanceMethod.NONE

    def sample(self, groups: Groups, *, seed: int) -> BalancedSample:
        """All n rows with probability 1/n."""
        cells = _cells(groups, BalanceBy.CLASS)
        return _all_rows(cells, _per_cell(cells, 1 / len(groups)), _per_cell(cells, 1.0), self.method, seed)


@dataclass(frozen=True)
class Subsetting:
    """Every cell is cut to the size of the smallest, once per run."""

    by: BalanceBy = BalanceBy.CLASS
    method = BalanceMethod.SUBSETTING

    def sample(self, groups: Groups, *, seed: int) -> BalancedSample:
        """n_min rows of each cell, drawn without replacement."""
        cells = _cells(groups, self.by)
        notes = list(cells.notes)
        if cells.imbalance <= BALANCED_RATIO:
            dropped = len(groups) - cells.n_cells * cells.smallest
            notes.append(f"the {cells.what} are balanced already: subsetting drops {dropped} rows for nothing")
        kept = _subset(cells.ids, cells.counts, cells.smallest, seed)
        probability = _per_cell(cells, 1 / kept.size)
        return BalancedSample(
            indices=kept, cells=cells.ids[kept], cell_probability=probability, cell_weight=_per_cell(cells, 1.0),
            replacement=False, n=len(groups), seed=seed, method=self.method, by=self.by, notes=tuple(notes),
        )  # fmt: skip


@dataclass(frozen=True)
class Upsampling:
    """All rows; a row is drawn with replacement, with every cell equally likely."""

    by: BalanceBy = BalanceBy.CLASS
    method = BalanceMethod.UPSAMPLING

    def sample(self, groups: Groups, *, seed: int) -> BalancedSample:
        """Probability 1 / (K n_c) for each row, n draws per epoch."""
        cells = _cells(groups, self.by)
        probability = 1 / (cells.n_cells * cells.counts_or_nan)
        return _all_rows(cells, probability, _per_cell(cells, 1.0), self.method, seed, replacement=True)


@dataclass(frozen=True)
class Upweighting:
    """All rows; the loss of a row is multiplied by n_max / n_c.

    ``normalize="batch"`` divides a minibatch's loss by the sum of its weights (the official code, PyTorch's weighted
    cross-entropy); ``"none"`` by its size (the formula in the paper's words).
    """

    by: BalanceBy = BalanceBy.CLASS
    normalize: WeightNormalization = WeightNormalization.BATCH
    method = BalanceMethod.UPWEIGHTING

    def sample(self, groups: Groups, *, seed: int) -> BalancedSample:
        """Probability 1/n and weight n_max / n_c for each row."""
        cells = _cells(groups, self.by)
        weight = cells.counts.max() / cells.counts_or_nan
        return _all_rows(cells, _per_cell(cells, 1 / len(groups)), weight, self.method, seed, normalize=self.normalize)


@dataclass(frozen=True)
class Mixture:
    """Subset every cell to at most ⌈ratio · n_min⌉ rows, then upsample what is left (the paper's mixture balancing).

    Without `sampler` the second half is left out: every kept row once an epoch (the paper's ablation).
    """

    ratio: float = DEFAULT_RATIO
    by: BalanceBy = BalanceBy.CLASS
    sampler: bool = True
    method = BalanceMethod.MIXTURE

    def __post_init__(self) -> None:
        if not (math.isfinite(self.ratio) and self.ratio >= 1):
            raise ConfigError(f"The mixture ratio must be a number of at least 1, got {self.ratio!r}.")

    def sample(self, groups: Groups, *, seed: int) -> BalancedSample:
        """min(n_c, ⌈r n_min⌉) rows of each cell, drawn with replacement with probability 1 / (K m_c).

        Without `sampler` all M kept rows are drawn without replacement, each with probability 1 / M.
        """
        cells = _cells(groups, self.by)
        notes = list(cells.notes)
        if self.ratio >= cells.imbalance:
            notes.append(
                f"mixture {self.ratio:g}:1 removes nothing (largest over smallest of the {cells.what} is "
                f"{cells.imbalance:.4g}): it equals {'upsampling' if self.sampler else 'no balancing'}"
            )
        limit = math.ceil(self.ratio * cells.smallest)
        kept = _subset(cells.ids, cells.counts, limit, seed)
        left = np.where(cells.counts > 0, np.minimum(cells.counts, limit), np.nan)
        probability = 1 / (cells.n_cells * left) if self.sampler else _per_cell(cells, 1 / kept.size)
        return BalancedSample(
            indices=kept, cells=cells.ids[kept], cell_probability=probability,
            cell_weight=_per_cell(cells, 1.0), replacement=self.sampler, n=len(groups), seed=seed, method=self.method,
            by=self.by, ratio=self.ratio, notes=tuple(notes),
        )  # fmt: skip


def make_balancer(
    method: BalanceMethod,
    *,
    by: BalanceBy = BalanceBy.CLASS,
    ratio: float = DEFAULT_RATIO,
    normalize: WeightNormalization = WeightNormalization.BATCH,
    sampler: bool = True,
) -> Balancer:
    """The balancer of a method's name; settings that a method does not have are ignored."""
    match method:
        case BalanceMethod.NONE:
            return NoBalancing()
        case BalanceMethod.SUBSETTING:
            return Subsetting(by=by)
        case BalanceMethod.UPSAMPLING:
            return Upsampling(by=by)
        case BalanceMethod.UPWEIGHTING:
            return Upweighting(by=by, normalize=normalize)
        case BalanceMethod.MIXTURE:
            return Mixture(ratio=ratio, by=by, sampler=sampler)


@dataclass(frozen=True)
class BalanceSummary:
    """What a balanced run amounts to per epoch; epochs of different methods are not equal work.

    Parameters
    ----------
    rows_per_epoch : m
    steps_per_epoch : ⌈m / batch⌉
    repetition : expected draws per epoch of a row of the cell whose rows are drawn most often
    batch_share : expected share of each group in a minibatch, by group name
    kept : kept rows per group, by group name
    """

    rows_per_epoch: int
    steps_per_epoch: int
    repetition: float
    batch_share: dict[str, float]
    kept: dict[str, int]


def balance_summary(sample: BalancedSample, groups: Groups, *, batch_size: int = 32) -> BalanceSummary:
    """Rows and steps per epoch, repetition and expected batch shares of a sample.

    Raises
    ------
    ShapeError
        If `groups` are not the rows that the sample was made from.
    """
    if len(groups) != sample.n:
        raise ShapeError(f"the sample was made from {sample.n} rows, the groups have {len(groups)}.")
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
    group_ids = groups.ids[sample.indices]
    kept = np.bincount(group_ids, minlength=groups.n_groups)
    share = np.bincount(group_ids, weights=sample.draw_probability, minlength=groups.n_groups)
    return BalanceSummary(
        rows_per_epoch=len(sample),
        steps_per_epoch=math.ceil(len(sample) / batch_size),
        repetition=len(sample) * float(np.nanmax(sample.cell_probability)),
        batch_share=dict(zip(groups.names, share.tolist(), strict=True)),
        kept=dict(zip(groups.names, kept.tolist(), strict=True)),
    )


@dataclass(frozen=True, eq=False)
class _Cells:
    """Classes or groups of a training split: ids (n), counts (c) with zeros for empty groups."""

    ids: Int[np.ndarray, " n"]
    counts: Int[np.ndarray, " c"]
    by: BalanceBy
    notes: tuple[str, ...]

    @property
    def what(self) -> str:
        return "classes" if self.by is BalanceBy.CLASS else "groups"

    @property
    def n_cells(self) -> int:
        return int((self.counts > 0).sum())

    @property
    def smallest(self) -> int:
        return int(self.counts[self.counts > 0].min())

    @property
    def imbalance(self) -> float:
        return float(self.counts.max()) / self.smallest

    @property
    def counts_or_nan(self) -> Float[np.ndarray, " c"]:
        return np.where(self.counts > 0, self.counts, np.nan)


def _cells(groups: Groups, by: BalanceBy) -> _Cells:
    if len(groups) == 0:
        raise GroupError("There are no training rows to balance.")
    empty_classes = [n for n, c in zip(groups.class_names, groups.class_counts, strict=True) if c == 0]
    if empty_classes:
        raise GroupError(
            f"Class(es) without training rows: {', '.join(empty_classes)}. "
            "Balancing needs at least one row of each class; remove the class from the scheme or add rows."
        )
    if by is BalanceBy.CLASS:
        ids, counts, names = groups.labels, groups.class_counts, groups.class_names
    else:
        ids, counts, names = groups.ids, groups.counts, groups.names
    notes = []
    empty = [n for n, c in zip(names, counts, strict=True) if c == 0]
    if empty:
        notes.append(f"group(s) without training rows, left out of the balance: {', '.join(empty)}")
    single = [n for n, c in zip(names, counts, strict=True) if c == 1]
    if single:
        notes.append(f"only 1 training row in {', '.join(single)}: the smallest cell decides how many rows are kept")
    return _Cells(ids, counts, by, tuple(notes))


def _per_cell(cells: _Cells, value: float) -> Float[np.ndarray, " c"]:
    return np.where(cells.counts > 0, value, np.nan)


def _all_rows(
    cells: _Cells,
    probability: Float[np.ndarray, " c"],
    weight: Float[np.ndarray, " c"],
    method: BalanceMethod,
    seed: int,
    *,
    replacement: bool = False,
    normalize: WeightNormalization = WeightNormalization.BATCH,
) -> BalancedSample:
    return BalancedSample(
        indices=np.arange(cells.ids.size), cells=cells.ids, cell_probability=probability, cell_weight=weight,
        replacement=replacement, n=cells.ids.size, seed=seed, method=method, by=cells.by, normalize=normalize,
        notes=cells.notes,
    )  # fmt: skip


def _subset(
    cells: Int[np.ndarray, " n"], counts: Int[np.ndarray, " c"], limit: int, seed: int
) -> Int[np.ndarray, " m"]:
    """The official seeded subset: walk a permutation of the rows and keep a row while its cell has fewer than `limit`.

    The first `limit` rows of a cell along the permutation are the first `limit` entries of the cell's stretch in a
    stable sort of the permuted cells, so no walk is needed.
    """
    permutation = np.random.default_rng(seed).permutation(cells.size)
    small = _small(cells)
    permuted = small[permutation]
    mask = (counts <= limit)[small]
    cut = np.flatnonzero(counts > limit)
    if cut.size <= FEW_CELLS:
        # A scan per cell that is cut: a sort of all rows takes as long as some of them.
        for cell in cut.tolist():
            mask[permutation[np.flatnonzero(permuted == cell)[:limit]]] = True
        return np.flatnonzero(mask)
    order = _stable_order(permuted)
    starts = (np.cumsum(counts) - counts)[cut]
    kept = [order[start : start + limit] for start in starts.tolist()]
    mask[permutation[np.concatenate(kept)]] = True
    return np.flatnonzero(mask)


def _small(cells: Int[np.ndarray, " n"]) -> NDArray[Any]:
    """Cells in the smallest unsigned type that holds them: NumPy sorts those by radix in linear time, and gathers of
    ten million rows move an eighth of the bytes."""
    largest = int(cells.max(initial=0))
    small: NDArray[Any] = cells.astype(np.min_scalar_type(largest))
    return small


def _stable_order(cells: NDArray[Any]) -> Int[np.ndarray, " n"]:
    return np.argsort(cells, kind="stable")
