"""Balancing against the paper's tables, the official code's naive loop, and properties."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grobust.balancing import (
    BalancedSample,
    Balancer,
    Mixture,
    NoBalancing,
    Subsetting,
    Upsampling,
    Upweighting,
    balance_summary,
    make_balancer,
)
from grobust.errors import ConfigError, GroupError, ShapeError
from grobust.groups import Groups
from grobust.settings import BalanceBy, BalanceMethod

WATERBIRDS = [3498, 184, 56, 1057]
CELEBA = [71629, 66874, 22880, 1387]
CIVILCOMMENTS = [148186, 90337, 12731, 17784]


def groups_of(counts: list[int], n_attributes: int = 2) -> Groups:
    ids = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return Groups.from_arrays(
        ids // n_attributes,
        ids % n_attributes,
        class_names=[f"y{i}" for i in range(len(counts) // n_attributes)],
        attribute_names=[f"a{i}" for i in range(n_attributes)],
    )


def naive_subset(cells: np.ndarray, limit: float, seed: int) -> list[int]:
    """The official procedure, row by row."""
    kept: list[int] = []
    seen: dict[int, int] = {}
    for row in np.random.default_rng(seed).permutation(len(cells)):
        cell = int(cells[row])
        if seen.get(cell, 0) < limit:
            seen[cell] = seen.get(cell, 0) + 1
            kept.append(int(row))
    return sorted(kept)


cell_counts = st.lists(st.integers(1, 40), min_size=2, max_size=5)


@given(cell_counts, st.integers(0, 10**6), st.sampled_from([1, 1.5, 2, 2.3, 5]))
def test_subsets_equal_the_naive_loop_row_for_row(counts: list[int], seed: int, ratio: float) -> None:
    groups = groups_of(counts, n_attributes=1)
    smallest = min(counts)
    assert Subsetting().sample(groups, seed=seed).indices.tolist() == naive_subset(groups.labels, smallest, seed)
    mixture = Mixture(ratio=ratio).sample(groups, seed=seed)
    assert mixture.indices.tolist() == naive_subset(groups.labels, ratio * smallest, seed)


@given(st.integers(0, 10**6))
def test_group_subset_equals_the_naive_loop(seed: int) -> None:
    groups = groups_of([30, 4, 7, 19])
    sample = Subsetting(by=BalanceBy.GROUP).sample(groups, seed=seed)
    assert sample.indices.tolist() == naive_subset(groups.ids, 4, seed)


@given(cell_counts, st.sampled_from(list(BalanceMethod)), st.integers(0, 100))
def test_table_of_the_paper(counts: list[int], method: BalanceMethod, seed: int) -> None:
    """Kept rows, probabilities and weights as in the table, computed here row by row."""
    groups = groups_of(counts, n_attributes=1)
    sample = make_balancer(method, ratio=2).sample(groups, seed=seed)
    n, k, smallest = sum(counts), len(counts), min(counts)
    kept_per_class = {
        BalanceMethod.SUBSETTING: [smallest] * k,
        BalanceMethod.MIXTURE: [min(c, 2 * smallest) for c in counts],
    }.get(method, counts)
    assert np.bincount(groups.labels[sample.indices], minlength=k).tolist() == kept_per_class
    assert len(set(sample.indices.tolist())) == len(sample) == sum(kept_per_class)
    assert sample.draw_probability.sum() == pytest.approx(1)
    assert sample.replacement == (method in {BalanceMethod.UPSAMPLING, BalanceMethod.MIXTURE})
    for row, probability, weight in zip(sample.indices, sample.draw_probability, sample.loss_weight, strict=True):
        label = groups.labels[row]
        if sample.replacement:
            assert probability == pytest.approx(1 / (k * kept_per_class[label]))
        else:
            assert probability == pytest.approx(1 / len(sample))
        expected = max(counts) / counts[label] if method is BalanceMethod.UPWEIGHTING else 1
        assert weight == pytest.approx(expected)
    assert n == sample.n


@given(cell_counts)
def test_upweighting_and_upsampling_agree_in_expectation(counts: list[int]) -> None:
    groups = groups_of(counts, n_attributes=1)
    up, weight = Upsampling().sample(groups, seed=1), Upweighting().sample(groups, seed=1)
    np.testing.assert_allclose(up.expected_weights(), weight.expected_weights(), rtol=1e-12)
    per_class = np.bincount(groups.labels, weights=up.expected_weights())
    np.testing.assert_allclose(per_class, 1 / len(counts), rtol=1e-12)


def test_expected_weights_are_zero_off_the_subset() -> None:
    sample = Subsetting().sample(groups_of(WATERBIRDS), seed=1)
    weights = sample.expected_weights()
    assert weights.sum() == pytest.approx(1)
    assert np.flatnonzero(weights).tolist() == sample.indices.tolist()


@pytest.mark.parametrize(
    ("counts", "ratio", "rows", "steps", "repetition", "shares"),
    [
        (WATERBIRDS, 2, (4795, 2226, 3339), (150, 70, 105), (2.15, 1.5), (0.475, 0.025, 0.025, 0.475)),
        (CELEBA, 4, (162770, 48534, 121335), (5087, 1517, 3792), (3.35, 2.5), (0.259, 0.241, 0.471, 0.029)),
        (CIVILCOMMENTS, 3, (269038, 61030, 122060), (8408, 1908, 3815), (4.41, 2.0), (0.311, 0.189, 0.209, 0.291)),
    ],
)
def test_quantities_of_the_paper(
    counts: list[int],
    ratio: float,
    rows: tuple[int, ...],
    steps: tuple[int, ...],
    repetition: tuple[float, float],
    shares: tuple[float, ...],
) -> None:
    groups = groups_of(counts)
    methods: list[Balancer] = [Upsampling(), Subsetting(), Mixture(ratio=ratio)]
    summaries = [balance_summary(b.sample(groups, seed=1), groups) for b in methods]
    assert tuple(s.rows_per_epoch for s in summaries) == rows
    assert tuple(s.steps_per_epoch for s in summaries) == steps
    assert summaries[0].repetition == pytest.approx(repetition[0], abs=0.005)
    assert summaries[2].repetition == pytest.approx(repetition[1], abs=0.005)
    assert list(summaries[0].batch_share.values()) == pytest.approx(list(shares), abs=6e-4)
    upweighted = balance_summary(Upweighting().sample(groups, seed=1), groups)
    assert upweighted.rows_per_epoch == rows[0]
    assert upweighted.repetition == pytest.approx(1)


def test_draws_depend_on_seed_and_epoch_alone() -> None:
    groups = groups_of(WATERBIRDS)
    for balancer in (NoBalancing(), Subsetting(), Upsampling(), Upweighting(), Mixture()):
        first, again = balancer.sample(groups, seed=3), balancer.sample(groups, seed=3)
        assert first.draw(7).tolist() == again.draw(7).tolist()
        assert first.draw(7).tolist() != first.draw(8).tolist()
        assert first.draw(7).size == len(first)
        assert np.isin(first.draw(7), first.indices).all()
        if not first.replacement:
            assert sorted(first.draw(7).tolist()) == first.indices.tolist()


def test_draws_follow_the_probabilities() -> None:
    """χ² of 400 epochs of draws against `draw_probability`, per row: within five sds of its mean."""
    groups = groups_of([50, 6, 9, 20])
    for by in BalanceBy:
        sample = Mixture(ratio=2, by=by).sample(groups, seed=2)
        drawn = np.concatenate([sample.draw(epoch) for epoch in range(400)])
        observed = np.bincount(drawn, minlength=sample.n)[sample.indices]
        expected = sample.draw_probability * drawn.size
        chi2 = float(((observed - expected) ** 2 / expected).sum())
        freedom = len(sample) - 1
        assert abs(chi2 - freedom) < 5 * math.sqrt(2 * freedom)


def test_more_rows_than_torch_can_draw_from() -> None:
    """torch.multinomial refuses 2**24 + 1 categories; the two-stage draw has no limit."""
    n = 2**24 + 1
    sample = BalancedSample(
        indices=np.arange(n), cells=(np.arange(n) == n - 1).astype(np.int64), n=n, seed=0, replacement=True,
        cell_probability=np.array([0.5 / (n - 1), 0.5]), cell_weight=np.ones(2),
        method=BalanceMethod.UPSAMPLING, by=BalanceBy.CLASS,
    )  # fmt: skip
    share = np.count_nonzero(sample.draw(0) == n - 1) / n
    assert share == pytest.approx(0.5, abs=0.001)


def test_corner_cases() -> None:
    groups = groups_of([40, 0, 1, 9])
    mixture = Mixture(ratio=50).sample(groups, seed=1)
    assert len(mixture) == 50
    assert "removes nothing" in " ".join(mixture.notes)
    np.testing.assert_allclose(
        mixture.draw_probability, Upsampling().sample(groups, seed=1).draw_probability, rtol=1e-12
    )
    single = Subsetting(by=BalanceBy.GROUP).sample(groups, seed=1)
    assert len(single) == 3
    assert "y0 / a1" in single.notes[0]
    assert "only 1 training row" in single.notes[1]
    assert single.draw_probability == pytest.approx(1 / 3)
    assert np.isfinite(single.expected_weights()).all()
    balanced = Subsetting().sample(groups_of([50, 50, 60, 40]), seed=1)
    assert "for nothing" in balanced.notes[0]


@given(cell_counts, st.integers(0, 10**6), st.sampled_from([1, 1.5, 2, 5]))
def test_a_mixture_without_sampler_is_its_rows_once_each(counts: list[int], seed: int, ratio: float) -> None:
    groups = groups_of(counts, n_attributes=1)
    whole, alone = (Mixture(ratio=ratio, sampler=s).sample(groups, seed=seed) for s in (True, False))
    assert alone.indices.tolist() == whole.indices.tolist()
    assert not alone.replacement
    assert sorted(alone.draw(epoch=3).tolist()) == alone.indices.tolist()
    np.testing.assert_allclose(alone.draw_probability, 1 / len(alone), rtol=1e-12)
    np.testing.assert_allclose(alone.expected_weights()[alone.indices], 1 / len(alone), rtol=1e-12)
    # Classes are as unequal as the rows left are; the sampler makes them equal.
    kept = np.minimum(counts, math.ceil(ratio * min(counts)))
    shares = [np.bincount(groups.labels, weights=s.expected_weights()) for s in (alone, whole)]
    np.testing.assert_allclose(shares[0], kept / kept.sum(), rtol=1e-12)
    np.testing.assert_allclose(shares[1], 1 / len(counts), rtol=1e-12)


def test_mixture_of_one_keeps_the_rows_of_subsetting() -> None:
    groups = groups_of(WATERBIRDS)
    mixture, subset = Mixture(ratio=1).sample(groups, seed=4), Subsetting().sample(groups, seed=4)
    assert mixture.indices.tolist() == subset.indices.tolist()
    assert mixture.replacement
    assert not subset.replacement


def test_fractional_ratio_rounds_up() -> None:
    groups = groups_of([100, 10], n_attributes=1)
    assert len(Mixture(ratio=2.31).sample(groups, seed=1)) == 24 + 10


@pytest.mark.parametrize("ratio", [0.9, 0, -1, math.nan, math.inf])
def test_bad_ratio(ratio: float) -> None:
    with pytest.raises(ConfigError, match="mixture ratio"):
        Mixture(ratio=ratio)


def test_class_without_rows_is_named() -> None:
    groups = Groups.from_arrays([0, 0, 2], class_names=("cat", "dog", "owl"))
    with pytest.raises(GroupError, match="dog"):
        Upsampling().sample(groups, seed=1)


def test_no_rows() -> None:
    with pytest.raises(GroupError, match="no training rows"):
        NoBalancing().sample(Groups.from_arrays([], class_names=("a", "b")), seed=1)


def test_summary_wants_the_same_rows() -> None:
    sample = NoBalancing().sample(groups_of(WATERBIRDS), seed=1)
    with pytest.raises(ShapeError, match="4795"):
        balance_summary(sample, groups_of([1, 1]))


def test_many_cut_cells_are_sorted_to_the_same_rows() -> None:
    """More cells than are scanned one by one."""
    labels = np.repeat(np.arange(12), [5, *range(20, 31)])
    labels = np.random.default_rng(0).permutation(labels)
    groups = Groups.from_arrays(labels, np.zeros_like(labels))
    assert Subsetting().sample(groups, seed=3).indices.tolist() == naive_subset(labels, 5, 3)
