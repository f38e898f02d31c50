"""Gaps, directions, cross-validation and conclusions against closed forms, loops and simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from grobust.balancing import make_balancer
from grobust.classifier import StratifiedCellKFold
from grobust.comparison import Difference, holm
from grobust.data.synthetic import gaussian_groups
from grobust.diagnosis import (
    ClassGap,
    Effect,
    Finding,
    Problem,
    alignment,
    class_gaps,
    conclude,
    cross_validate,
    newcombe_interval,
)
from grobust.errors import DataError
from grobust.groups import Groups
from grobust.metrics import Estimate, group_metrics
from grobust.probe import fit_probe
from grobust.settings import BalanceBy, BalanceMethod


def test_newcombe_gives_the_published_interval() -> None:
    """Newcombe 1998, table II, example (a): 56/70 against 48/80."""
    assert newcombe_interval((56, 48), (70, 80)) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    low, high = newcombe_interval((10, 0), (10, 20))
    assert high == 1.0
    assert 0.5 < low < 1


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 1), st.floats(0, 1))
def test_newcombe_is_antisymmetric_and_holds_the_estimate(n: int, m: int, p: float, q: float) -> None:
    c, d = round(n * p), round(m * q)
    low, high = newcombe_interval((c, d), (n, m))
    assert low - 1e-12 <= c / n - d / m <= high + 1e-12
    assert newcombe_interval((d, c), (m, n)) == pytest.approx((-high, -low))


def test_gaps_are_fishers_and_pearsons_tests() -> None:
    rng = np.random.default_rng(0)
    for n_attributes in (2, 3):
        groups = Groups.from_arrays(rng.integers(2, size=400), rng.integers(n_attributes, size=400))
        right = rng.random(400) < 0.8 - 0.2 * (groups.attributes == 0)
        metrics = group_metrics(np.where(right, groups.labels, 1 - groups.labels), groups)
        found = class_gaps(metrics, groups)
        p_values = []
        for label, gap in enumerate(found):
            table = np.array(
                [[np.sum(right & own), np.sum(~right & own)]
                 for own in ((groups.labels == label) & (groups.attributes == a) for a in range(n_attributes))]
            )  # fmt: skip
            p = stats.fisher_exact(table).pvalue if n_attributes == 2 else stats.chi2_contingency(table, False).pvalue
            accuracy = table[:, 0] / table.sum(axis=1)
            assert gap.gap.value == pytest.approx(accuracy.max() - accuracy.min())
            assert gap.gap.p_value == pytest.approx(p)
            assert gap.worst == groups.names[label * n_attributes + int(accuracy.argmin())]
            p_values.append(p)
        assert [gap.p_corrected for gap in found] == pytest.approx(holm(p_values).tolist())


def test_classes_without_two_groups_have_no_gap() -> None:
    groups = Groups.from_arrays([0, 0, 1, 1, 1], [0, 0, 0, 1, 1])
    first, second = class_gaps(group_metrics(groups.labels, groups), groups)
    assert first.best is None
    assert math.isnan(first.p_corrected)
    # All correct: no gap, one-member groups included.
    assert (second.gap.value, second.gap.p_value, second.n_best + second.n_worst) == (0.0, 1.0, 3)


def test_cross_validation_equals_a_loop_over_folds() -> None:
    data = gaussian_groups((150, 30, 20, 80), 5, seed=4)
    x, groups = data.features.astype(np.float64), data.groups
    swapped = Groups(groups.attributes, groups.labels, groups.attribute_names, groups.class_names)
    methods = {
        "none": (BalanceMethod.NONE, BalanceBy.CLASS, None), "sub": (BalanceMethod.SUBSETTING, BalanceBy.GROUP, None),
        "a": (BalanceMethod.UPSAMPLING, BalanceBy.GROUP, swapped),
    }  # fmt: skip
    problems = [Problem(name, make_balancer(m, by=by), 1e-2, own) for name, (m, by, own) in methods.items()]
    found = cross_validate(x, groups, problems, folds=4, seed=3)
    scale = (x - x.mean(axis=0)) / x.std(axis=0)
    for name, (m, by, own) in methods.items():
        of = groups if own is None else own
        for train, test in StratifiedCellKFold(4, random_state=3).split(x, groups.labels, groups.attributes):
            weights = make_balancer(m, by=by).sample(of.take(train), seed=3).expected_weights()
            fit = fit_probe(scale[train], of.labels[train], n_classes=2, weights=weights, l2=1e-2, standardize=False)
            logits = fit.probe.logits(scale[test])
            sure = np.abs(logits[:, 1] - logits[:, 0]) > 1e-2
            np.testing.assert_array_equal(found.of(name)[test][sure], logits.argmax(axis=1)[sure])
            loss = -np.log(
                np.exp(logits - logits.max(1, keepdims=True))
                / np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)
            )
            np.testing.assert_allclose(
                found.loss[found.names.index(name)][test], loss[np.arange(test.size), of.labels[test]], atol=2e-2
            )
    assert found.unfinished == 0


def test_a_class_of_one_row_is_said() -> None:
    groups = Groups.from_arrays([0] * 20 + [1])
    with pytest.raises(DataError, match="'y1' has one training row"):
        cross_validate(np.random.default_rng(0).normal(size=(21, 3)), groups,
                       [Problem("none", make_balancer(BalanceMethod.NONE), 1e-2)], folds=5, seed=0)  # fmt: skip


def test_alignment_is_its_closed_form() -> None:
    data = gaussian_groups((600, 200, 150, 500), 6, seed=2, spurious=1.0)
    x, groups = data.features.astype(np.float64), data.groups
    weight = fit_probe(x, groups.labels, n_classes=2, l2=1e-2).probe.weight
    within, standardized = alignment(x, groups, weight, permutations=20)
    sd = x.std(axis=0)
    z, w = x / sd, (weight[1] - weight[0]) * sd
    cells = [z[groups.ids == g] for g in range(4)]
    sigma = sum((c - c.mean(axis=0)).T @ (c - c.mean(axis=0)) for c in cells) / len(z)
    sigma += 1e-3 * np.trace(sigma) / 6 * np.eye(6)
    delta = ((cells[0].mean(axis=0) - cells[1].mean(axis=0)) + (cells[2].mean(axis=0) - cells[3].mean(axis=0))) / 2
    u = np.linalg.solve(sigma, delta)
    shift = abs(w @ delta) / math.sqrt(w @ sigma @ w)
    assert within.shift == pytest.approx(shift, rel=1e-4)
    assert within.cosine == pytest.approx(shift / math.sqrt(delta @ u), rel=1e-4)
    assert standardized.cosine == pytest.approx(abs(w @ u) / np.linalg.norm(w) / np.linalg.norm(u), rel=1e-4)
    assert within.p_value == pytest.approx(1 / 21)


def test_alignment_of_planted_heads_and_features_that_do_not_vary() -> None:
    data = gaussian_groups((300, 300, 300, 300), 8, seed=1, spurious=3.0, decay=0.0)
    x = np.concatenate([data.features, np.full((1200, 1), 7.0, dtype=np.float32)], axis=1)
    on_attribute, on_core = np.zeros((2, 9)), np.zeros((2, 9))
    on_attribute[1, 1], on_core[1, 0] = 1.0, 1.0
    on_core[:, 8] = 1e9, -1e9
    for a in alignment(x, data.groups, on_attribute, permutations=50):
        assert a.cosine > 0.95
        assert a.p_value == pytest.approx(1 / 51)
    for a in alignment(x, data.groups, on_core, permutations=50):
        assert a.cosine < 0.15


def test_shift_without_an_attribute_is_found_in_one_case_of_twenty() -> None:
    rng = np.random.default_rng(0)
    rejected = 0
    for seed in range(200):
        labels, attributes = np.repeat([0, 1], 60), rng.integers(3, size=120)
        groups = Groups.from_arrays(labels, attributes, attribute_names=("a", "b", "c"))
        x = rng.normal(size=(120, 4)) + labels[:, None] * 0.5
        weight = np.stack([np.zeros(4), x[labels == 1].mean(axis=0) - x[labels == 0].mean(axis=0)])
        rejected += alignment(x, groups, weight, permutations=59, seed=seed)[0].p_value <= 0.05
    # Binomial(200, 0.05): 10 expected, 20 is more than three standard deviations off.
    assert rejected <= 20


def test_alignment_needs_two_attribute_values_in_a_class() -> None:
    groups = Groups.from_arrays(np.repeat([0, 1], 20), np.repeat([0, 1], 20))
    assert alignment(np.random.default_rng(0).normal(size=(40, 3)), groups, np.eye(2, 3)) == ()


def effect(name: str, gain: float, p: float, *, needs_groups: bool = False) -> Effect:
    e = Estimate(0.5, 100, 0.4, 0.6)
    return Effect(name, needs_groups, e, "y / a", e, e, Difference(gain, gain - 0.05, gain + 0.05, p), p)


def test_conclusions_follow_their_tests() -> None:
    def gap(p: float) -> ClassGap:
        return ClassGap("y", "y / a", "y / b", 90, 10, Difference(0.2, -0.1, 0.5, p), p)

    none = effect("none", 0.0, math.nan)
    cases = {
        (0.01, 0.01): Finding.GAP_AND_REMEDY, (0.01, 0.5): Finding.GAP, (0.5, 0.01): Finding.REMEDY,
        (0.5, 0.5): Finding.NOTHING,
    }  # fmt: skip
    for (p_gap, p_gain), finding in cases.items():
        found = conclude([gap(p_gap)], [none, effect("m", 0.2, p_gain)], alpha=0.05, has_attributes=True)
        assert found.finding is finding
        assert found.remedy == ("m" if p_gain < 0.05 else None)
    nothing = conclude([gap(0.5)], [none, effect("m", 0.2, 0.5)], alpha=0.05, has_attributes=True)
    assert "up to 50.0 points" in nothing.recommendation
    assert all("which chance explains" in sentence for sentence in nothing.evidence)
    # What lowers accuracy is no remedy, however certain; of two the larger gain is taken.
    worse = conclude([gap(0.01)], [none, effect("m", -0.2, 0.001)], alpha=0.05, has_attributes=True)
    assert worse.finding is Finding.GAP
    two = [none, effect("m", 0.1, 0.01), effect("g", 0.2, 0.01, needs_groups=True)]
    found = conclude([gap(0.01)], two, alpha=0.05, has_attributes=True)
    assert found.remedy == "g"
    assert "reads attributes" in found.recommendation
    assert "Without them, m raises it" in found.recommendation
    bare = conclude([], [none], alpha=0.05, has_attributes=False)
    assert "no attributes" in bare.evidence[-1]


def test_a_gap_is_not_put_down_to_an_attribute_that_the_score_ignores() -> None:
    data = gaussian_groups((300, 300, 300, 300), 4, seed=0, spurious=0.0)
    fit = fit_probe(data.features, data.groups.labels, n_classes=2, l2=1e-2)
    ignored = alignment(data.features, data.groups, fit.probe.weight, permutations=39)
    gap = ClassGap("y", "y / a", "y / b", 90, 80, Difference(0.2, 0.1, 0.3, 0.001), 0.002)
    found = conclude([gap], [effect("none", 0.0, math.nan)], alpha=0.05, has_attributes=True, alignments=ignored)
    assert found.finding is Finding.GAP
    assert ignored[0].p_value > 0.05
    assert "difficulty rather than of this attribute" in found.evidence[-1]
