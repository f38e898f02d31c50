"""Inferred environments against all assignments there are, and clusters against their definition."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import planted, three_classes, train, validation

from grobust.errors import ConfigError
from grobust.groups import Groups
from grobust.methods import Features, InferredGroups, clusters_by_class
from grobust.methods.inferred import Inference, Objective
from grobust.methods.pseudo_groups import scale_slopes
from grobust.metrics import group_metrics


def penalty(q: np.ndarray, slopes: np.ndarray) -> float:
    return float((q * slopes).mean() ** 2 + ((1 - q) * slopes).mean() ** 2)


@pytest.mark.parametrize("k", [2, 3])
def test_slopes_are_finite_differences(k: int) -> None:
    rng = np.random.default_rng(k)
    logits, labels = rng.standard_normal((30, k)) * 2, rng.integers(k, size=30)

    def loss(s: float) -> np.ndarray:
        z = s * logits
        return np.log(np.exp(z).sum(axis=1)) - z[np.arange(30), labels]

    np.testing.assert_allclose(scale_slopes(logits, labels), (loss(1 + 1e-5) - loss(1 - 1e-5)) / 2e-5, atol=1e-7)


def test_no_assignment_has_a_larger_penalty() -> None:
    rng = np.random.default_rng(0)
    for _ in range(5):
        logits, labels = rng.standard_normal((9, 2)), rng.integers(2, size=9)
        slopes = scale_slopes(logits, labels)
        best = max(penalty(np.array(q, dtype=float), slopes) for q in itertools.product((0, 1), repeat=9))
        assert penalty((slopes > 0).astype(float), slopes) == pytest.approx(best, rel=1e-12)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0, 1)), min_size=1, max_size=30))
def test_nor_has_a_soft_one(rows: list[tuple[float, float]]) -> None:
    slopes, q = np.array([s for s, _ in rows]), np.array([q for _, q in rows])
    assert penalty((slopes > 0).astype(float), slopes) >= penalty(q, slopes) - 1e-9


def test_clusters_find_the_attribute_where_it_spreads_most() -> None:
    rows, held_out = planted(1, (300, 300, 300, 300), 3.0, 12.0), planted(2, (50, 50, 50, 50), 3.0, 12.0)
    found = clusters_by_class(rows, held_out, 2, seed=1)
    for groups, of in zip(found, (rows, held_out), strict=True):
        for y in range(2):
            mine = of.labels == y
            agree = (groups.attributes[mine] == of.groups.attributes[mine]).mean()
            assert max(agree, 1 - agree) > 0.99
    centres = {}
    for y, c in itertools.product(range(2), range(2)):
        centres[y, c] = rows.values[(found[0].labels == y) & (found[0].attributes == c)].mean(axis=0)
    for i in range(len(held_out)):
        y = int(held_out.labels[i])
        nearest = min(range(2), key=lambda c: ((held_out.values[i] - centres[y, c]) ** 2).sum())
        assert found[1].attributes[i] == nearest


@pytest.mark.parametrize("inference", list(Inference))
@pytest.mark.parametrize("objective", list(Objective))
def test_methods_on_inferred_groups(inference: Inference, objective: Objective) -> None:
    rows = three_classes()
    fit = InferredGroups(inference, objective, l2=(0.01, 0.1))(rows, rows, seed=1)
    counts = [value for name, value in fit.details.items() if name.startswith("rows[")]
    assert sum(counts) == len(rows)
    assert len(counts) == 6
    assert fit.chosen["l2"] in (0.01, 0.1)
    assert group_metrics(fit.probe.predict(rows.values), rows.groups).average.value > 0.5


def test_clusters_recover_where_they_are_the_groups() -> None:
    """A spurious direction so wide that clusters of a class are its groups: group DRO on them is group DRO."""
    rows, held_out = planted(1, (900, 100, 100, 900), 3.0, 14.0), planted(2, (200, 200, 200, 200), 3.0, 14.0)
    fit = InferredGroups(Inference.CLUSTERS)(rows, held_out, seed=1)
    weight = fit.probe.weight[1] - fit.probe.weight[0]
    assert abs(weight[1]) < 0.05 * abs(weight[0])


def test_one_environment_is_said() -> None:
    """An ERM head that is always right infers nothing."""
    x = np.concatenate([np.full((30, 1), -5.0), np.full((30, 1), 5.0)]).astype(np.float32)
    rows = Features(x, Groups.from_arrays(np.repeat([0, 1], 30), np.arange(60) % 2))
    fit = InferredGroups(Inference.ENVIRONMENTS)(rows, rows, seed=1)
    assert any("no class has more than one pseudo-group" in note for note in fit.notes)
    assert (fit.probe.predict(x) == rows.labels).all()


def test_a_class_of_one_row_and_bad_settings() -> None:
    rows = train().take(
        np.concatenate([np.flatnonzero(train().labels == 0)[:50], np.flatnonzero(train().labels == 1)[:1]])
    )
    found, _ = clusters_by_class(rows, validation(), 3, seed=1)
    assert found.counts.tolist()[3:] == [1, 0, 0]
    for make in (lambda: InferredGroups(clusters=1), lambda: clusters_by_class(rows, rows, 1, seed=1)):
        with pytest.raises(ConfigError, match="at least 2"):
            make()
