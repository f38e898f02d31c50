"""Every diagnostic of every group and pair of groups of a data set, with n, d and the size-matched null."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import array_namespace
from grobust.errors import ConfigError, ShapeError
from grobust.groups import Groups
from grobust.spectrum import diagnostics as of
from grobust.spectrum._subsets import draw_subsets
from grobust.spectrum.geometry import (
    GroupGeometry,
    bures_distance,
    generalized_ratio,
    group_geometry,
    neural_collapse,
    subspace_overlap,
)
from grobust.spectrum.ratios import Against, pairs_of_class
from grobust.threads import Threads, threads
from grobust.typing import Array

__all__ = ["READINGS", "ClassScore", "Diagnostic", "class_score", "diagnose"]

# What stands beside each name in tables.
READINGS: Mapping[str, str] = {
    "trace": "tr Σ: total spread",
    "top share": "λ1 / tr Σ",
    "stable rank": "tr Σ / λ1",
    "participation ratio": "(tr Σ)² / Σλ²",
    "effective rank": "exp of the entropy of λ / tr Σ",
    "rankme": "exp of the entropy of σ / Σσ",
    "decay exponent": "−slope of log λ on log rank, ranks 1–30",
    "decay R²": "fit of the power law",
    "gap λ1/λ2": "is the first axis well defined?",
    "alignment with class means": "|v₁ᵀΔ| / ‖Δ‖",
    "alignment with head": "|v₁ᵀw| / ‖w‖",
    "spread along head": "wᵀΣw / ‖w‖²; at most λ1",
    "margin": "κ = (wᵀμ + b) / √(wᵀΣw)",
    "Gaussian error": "Φ(−κ)",
    "observed error": "share of rows with wᵀz + b ≤ 0; compare with Φ(−κ)",
    "trace ratio": "tr Σ_min / tr Σ_maj",
    "margin gap": "κ_min − κ_maj",
    "margin gap, mean part": "of the margin gap, by the means",
    "margin gap, spread part": "of the margin gap, by the spread",
    "subspace overlap": "‖V_minᵀV_maj‖² / k, top 10 axes",
    "generalized ratio": "top eigenvalue of (Σ_maj + εI)⁻¹Σ_min",
    "Bures distance": "squared, means included",
    "NC1 (classes)": "tr(Σ_W Σ_B⁺) / K",
    "NC1 (groups)": "tr(Σ_W Σ_B⁺) / K with every group a class",
}
# Products that the nulls of one pair may take; fewer replicates are drawn for larger groups.
NULL_WORK = 1e12
FEWEST = 10
# The majority is cut into as many parts; subsets of one are compared with the others, so that they share no rows.
PARTS = 5


@dataclass(frozen=True)
class Diagnostic:
    """One number.

    Parameters
    ----------
    name : a key of `READINGS`
    cell : the group, the pair ``minority | majority``, or ``all``
    value : NaN where it is undefined
    n : rows; of the smaller group for a pair
    dim : d
    matched : the value that the range is to be compared with: `value` for a group; for a pair the mean of the quantity
        over the references of its null, which are a fifth smaller than the majority
    null_low, null_high : 2.5–97.5% range of the same quantity for subsets of n rows of the class's majority group, of
        a pair for such a subset and the rest of the majority; NaN without one (majority groups, ties) and with fewer
        than ten subsets: a fifth of the majority or more leaves room for at most five that share no rows
    replicates : subsets behind the range
    """

    name: str
    cell: str
    value: float
    n: int
    dim: int
    matched: float = np.nan
    null_low: float = np.nan
    null_high: float = np.nan
    replicates: int = 0


@dataclass(frozen=True, eq=False)
class ClassScore:
    """The linear score wᵀz + b that is positive where class y is preferred to its rival."""

    weight: Array
    bias: float


def class_score(weight: Array, bias: Array, *, label: int, mean: Array) -> ClassScore:
    """w_y − w_y' and b_y − b_y' of a head with weight (k, d) and bias (k).

    y' is the strongest other class at `mean` (d); with two classes, the other one.
    """
    others = [c for c in range(weight.shape[0]) if c != label]
    rival = max(others, key=lambda c: float(array_namespace(weight).sum(weight[c, :] * mean)) + float(bias[c]))
    return ClassScore(weight[label, :] - weight[rival, :], float(bias[label]) - float(bias[rival]))


def diagnose(
    rows: Callable[[int], Array], groups: Groups, *, weight: Array = None, bias: Array = None, null: int = 50,
    seed: int = 0,
) -> tuple[Diagnostic, ...]:  # fmt: skip
    """All diagnostics.

    Parameters
    ----------
    rows : group id → its features (n_g, d); asked for once per group
    groups : their groups
    weight, bias : (k, d) and (k) of a head on these features; None leaves out what needs one
    null : subsets of the majority for the null ranges; fewer for large groups, 0 for none
    seed : of the subsets

    Returns
    -------
    Groups with fewer than two rows are left out.
    """
    if (weight is None) != (bias is None) or null < 0:
        raise ConfigError("weight and bias go together, and null must be at least 0.")
    # One thread of BLAS each: decompositions this small gain nothing from more, and subsets go side by side.
    with threads() as team:
        job = _Diagnosis(groups, weight, bias, null, np.random.default_rng(seed), team)
        for label in range(groups.n_classes):
            job.describe_class(label, rows)
        return job.finished()


@dataclass(frozen=True, eq=False)
class _Part:
    """Subsets of one part of the majority, and the rows outside it, which they are compared with."""

    rest: GroupGeometry
    subsets: list[GroupGeometry]


@dataclass(eq=False)
class _Diagnosis:
    groups: Groups
    weight: Array
    bias: Array
    null: int
    rng: np.random.Generator
    team: Threads
    cells: dict[int, GroupGeometry] = field(default_factory=dict)
    errors: dict[int, float] = field(default_factory=dict)
    ranges: dict[tuple[str, str], tuple[float, float, int]] = field(default_factory=dict)
    parts: dict[int, list[_Part]] = field(default_factory=dict)

    def describe_class(self, label: int, rows: Callable[[int], Array]) -> None:
        """Geometries of the groups of one class, and of subsets of its majority group."""
        pairs = pairs_of_class(self.groups, label)
        majority = pairs[0][1] if pairs else None
        for g in self.groups.groups_of_class(label):
            if self.groups.counts[g] < 2:
                continue
            features = rows(g)
            if self.weight is not None and features.shape[1] != self.weight.shape[1]:
                raise ShapeError(f"The head has {self.weight.shape[1]} features, the rows {features.shape[1]}.")
            self.cells[g] = group_geometry(features)
            score = self._score(label, self.cells[g])
            if score is not None:
                self.errors[g] = of.observed_error(features, score.weight, score.bias)
            if g == majority:
                self._draw(pairs[0][0], features)

    def _draw(self, minority: int, features: Array) -> None:
        m, (n, d) = int(self.groups.counts[minority]), features.shape
        count = min(self.null, max(FEWEST, int(NULL_WORK / (m * d * min(m, d)))))
        size = max(m, n // PARTS)
        if m < 2 or count < 1 or n - size < 2:
            return
        order = self.rng.permutation(n)
        folds = [order[i * size : (i + 1) * size] for i in range(min(PARTS, n // size))]
        draws = -(-count // len(folds)) if size > m else 1
        subsets = [[fold[s] for s in draw_subsets(self.rng, size, m, draws)] for fold in folds]
        rest = [np.setdiff1d(order, fold) for fold in folds]

        def geometry(rows: NDArray[np.int64]) -> GroupGeometry:
            xp = array_namespace(features)
            return group_geometry(xp.take(features, xp.asarray(np.sort(rows), device=features.device), axis=0))

        made = (
            [geometry(rows) for rows in [*rest, *(s for own in subsets for s in own)]]
            if (not isinstance(features, np.ndarray))
            else self.team.map(geometry, [*rest, *(s for own in subsets for s in own)])
        )
        self.parts[minority] = [
            _Part(made[i], made[len(rest) + i * draws : len(rest) + (i + 1) * draws]) for i in range(len(folds))
        ]

    def finished(self) -> tuple[Diagnostic, ...]:
        """Values and ranges of groups, then of pairs, then of all."""
        found: list[Diagnostic] = []
        for g, cell in self.cells.items():
            score = self._of_group(g, cell)
            drawn = [self._of_group(g, subset) for part in self.parts.get(g, []) for subset in part.subsets]
            found += _with_ranges(self.groups.names[g], score, drawn, cell)
            if g in self.errors:
                error = self.errors[g]
                name = self.groups.names[g]
                found.append(Diagnostic("observed error", name, error, cell.n, cell.dim, matched=error))
        for label in range(self.groups.n_classes):
            for minority, majority, against in pairs_of_class(self.groups, label):
                if minority in self.cells and majority in self.cells:
                    parts = self.parts.get(minority, []) if against is Against.MAJORITY else []
                    found += self._of_pair(label, minority, majority, parts)
        return (*found, *self._of_all())

    def _of_group(self, g: int, cell: GroupGeometry) -> dict[str, float]:
        values = cell.values
        decay = of.decay_exponent(values)
        label = g // self.groups.n_attributes
        made = {
            "trace": cell.trace,
            "top share": of.top_share(values),
            "stable rank": of.stable_rank(values),
            "participation ratio": of.participation_ratio(values),
            "effective rank": of.effective_rank(values),
            "rankme": of.rankme(values),
            "decay exponent": decay.exponent,
            "decay R²": decay.r2,
            "gap λ1/λ2": of.eigengap(values),
        }
        towards = self._to_nearest_class(label)
        if towards is not None:
            made["alignment with class means"] = of.alignment(cell, towards)
        score = self._score(label, self.cells[g])
        if score is not None:
            kappa = of.margin(cell, score.weight, score.bias)
            made |= {
                "alignment with head": of.alignment(cell, score.weight),
                "spread along head": of.spread_along(cell, score.weight),
                "margin": kappa,
                "Gaussian error": of.gaussian_error(kappa),
            }
        return made

    def _score(self, label: int, cell: GroupGeometry) -> ClassScore | None:
        if self.weight is None or self.weight.shape[0] < 2:
            return None
        return class_score(self.weight, self.bias, label=label, mean=cell.mean)

    def _to_nearest_class(self, label: int) -> Array:
        means = {y: mean for y in range(self.groups.n_classes) if (mean := self._class_mean(y)) is not None}
        others = [means[y] - means[label] for y in means if y != label] if label in means else []
        if not others:
            return None
        xp = array_namespace(others[0])
        return min(others, key=lambda offset: float(xp.linalg.vector_norm(offset)))

    def _class_mean(self, label: int) -> Array:
        own = [self.cells[g] for g in self.groups.groups_of_class(label) if g in self.cells]
        n = sum(cell.n for cell in own)
        return sum(cell.mean * (cell.n / n) for cell in own) if own else None

    def _of_pair(self, label: int, minority: int, majority: int, parts: Sequence[_Part]) -> list[Diagnostic]:
        small, large = self.cells[minority], self.cells[majority]
        score = self._score(label, small)

        def values(compared: tuple[GroupGeometry, GroupGeometry]) -> dict[str, float]:
            cell, large = compared
            made = {"trace ratio": cell.trace / large.trace if large.trace > 0 else np.nan}
            if score is not None:
                gap = of.margin_gap(cell, large, score.weight, score.bias)
                made |= {
                    "margin gap": gap.total,
                    "margin gap, mean part": gap.mean_part,
                    "margin gap, spread part": gap.spread_part,
                }
            return made | {
                "subspace overlap": subspace_overlap(cell, large),
                "generalized ratio": generalized_ratio(cell, large),
                "Bures distance": bures_distance(cell, large),
            }

        drawn = [(subset, part.rest) for part in parts for subset in part.subsets]
        on_host = isinstance(small.mean, np.ndarray)
        nulls = self.team.map(values, drawn) if on_host else [values(pair) for pair in drawn]
        names = self.groups.names
        return _with_ranges(
            f"{names[minority]} | {names[majority]}",
            values((small, large)),
            nulls,
            small,
            [values((small, part.rest)) for part in parts],
        )

    def _of_all(self) -> list[Diagnostic]:
        if not self.cells:
            return []
        cells = list(self.cells.values())
        labels = [g // self.groups.n_attributes for g in self.cells]
        n, dim = sum(cell.n for cell in cells), cells[0].dim
        return [
            Diagnostic("NC1 (classes)", "all", neural_collapse(cells, labels), n, dim),
            Diagnostic("NC1 (groups)", "all", neural_collapse(cells), n, dim),
        ]


def _with_ranges(
    cell: str,
    values: Mapping[str, float],
    drawn: Sequence[Mapping[str, float]],
    geometry: GroupGeometry,
    matched: Sequence[Mapping[str, float]] = (),
) -> list[Diagnostic]:
    found = []
    for name, value in values.items():
        null: NDArray[np.float64] = np.array([made[name] for made in drawn])
        null = null[np.isfinite(null)]
        low, high = np.quantile(null, [0.025, 0.975]) if null.size >= FEWEST else (np.nan, np.nan)
        compared = float(np.mean([made[name] for made in matched])) if matched else float(value)
        found.append(
            Diagnostic(
                name=name,
                cell=cell,
                value=float(value),
                n=geometry.n,
                dim=geometry.dim,
                matched=compared,
                null_low=float(low),
                null_high=float(high),
                replicates=int(null.size),
            )
        )
    return found
