"""JTT, RAD-UW, EVaLS, CRT, ERM and friends against scikit-learn and plain loops."""

import numpy as np
import pytest
from planted import losses, planted, three_classes, train, validation
from sklearn.linear_model import LogisticRegression

from grobust.balancing import NoBalancing, make_balancer
from grobust.errors import ConfigError, GroupError
from grobust.groups import Groups
from grobust.methods import CRT, JTT, LLR, METHODS, RADUW, Balanced, EVaLS, Features, environments, halves
from grobust.methods.evals import extreme_rows
from grobust.metrics import group_metrics
from grobust.probe import Probe, TrainHead, train_heads
from grobust.settings import SGD, BalanceBy, BalanceMethod, SelectBy

ROWS = planted(1, (300, 30, 40, 250))
VAL = planted(2, (60, 50, 40, 70))


def sklearn_head(rows: Features, weights: np.ndarray, l2: float, moments: Features | None = None) -> Probe:
    """Weighted l2 head on standardized features, on raw ones."""
    of = (rows if moments is None else moments).values.astype(np.float64)
    mean, scale = of.mean(axis=0), of.std(axis=0)
    kept = weights > 0
    factor = 2 if rows.n_classes == 2 else 1
    model = LogisticRegression(C=factor / (l2 * weights.sum()), tol=1e-10, max_iter=10_000)
    model.fit(((rows.values - mean) / scale)[kept], rows.labels[kept], sample_weight=weights[kept])
    w, b = model.coef_ / scale, model.intercept_ - (model.coef_ / scale) @ mean
    return Probe(np.vstack([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])) if factor == 2 else Probe(w, b)


def same(found: Probe, expected: Probe, rows: Features, atol: float = 2e-2) -> None:
    logits = [p.logits(rows.values) for p in (found, expected)]
    np.testing.assert_allclose(*(z - z.mean(axis=1, keepdims=True) for z in logits), atol=atol)


@pytest.mark.parametrize("name", ["erm", "rwy", "rwg"])
@pytest.mark.parametrize("rows", [ROWS, three_classes()], ids=["two", "three"])
def test_balanced_names(name: str, rows: Features) -> None:
    cells = {"erm": np.zeros(len(rows), int), "rwy": rows.labels, "rwg": rows.groups.ids}[name]
    weights = 1 / np.bincount(cells)[cells]
    method = METHODS[name]
    assert isinstance(method, Balanced)
    fit = Balanced(method.method, method.by, l2=(0.01,))(rows, rows, seed=1)
    same(fit.probe, sklearn_head(rows, weights / weights.mean(), 0.01), rows)


@pytest.mark.parametrize("name", ["suby", "subg"])
def test_subsets_keep_as_many_of_each_cell(name: str) -> None:
    method = METHODS[name]
    assert isinstance(method, Balanced)
    sample_cells = {"suby": ROWS.labels, "subg": ROWS.groups.ids}[name]
    seen: dict[int, int] = dict.fromkeys(np.unique(sample_cells).tolist(), 0)
    kept = np.zeros(len(ROWS))
    for row in np.random.default_rng(4).permutation(len(ROWS)).tolist():
        cell = int(sample_cells[row])
        if seen[cell] < np.bincount(sample_cells).min():
            seen[cell], kept[row] = seen[cell] + 1, 1.0
    fit = Balanced(method.method, method.by, l2=(0.01,))(ROWS, VAL, seed=4)
    same(fit.probe, sklearn_head(ROWS, kept, 0.01, ROWS), ROWS)


def test_strength_and_score_are_the_best() -> None:
    l2 = (1e-3, 1e-1, 10.0)
    for select in (SelectBy.WGA, SelectBy.AVERAGE):
        fit = Balanced(l2=l2, select=select)(ROWS, VAL, seed=1)
        expected = []
        for value in l2:
            predicted = sklearn_head(ROWS, np.ones(len(ROWS)), value).predict(VAL.values)
            found = group_metrics(predicted, VAL.groups)
            expected.append((found.wga if select is SelectBy.WGA else found.average).value)
        assert [tried.score for tried in fit.tried] == pytest.approx(expected)
        assert fit.chosen == {"l2": l2[int(np.argmax(expected))]}


def first_head(rows: Features, epochs: int, seed: int) -> Probe:
    sample = NoBalancing().sample(rows.groups, seed=seed)
    return train_heads(
        rows.values,
        rows.labels,
        [TrainHead(sample)],
        n_classes=rows.n_classes,
        evaluate={},
        settings=SGD(epochs=epochs),
    ).probes[0]


def test_jtt_repeats_the_rows_that_the_first_head_gets_wrong() -> None:
    fit = JTT(epochs=2, upweight=(5.0,), l2=(0.01,))(ROWS, VAL, seed=3)
    wrong = first_head(ROWS, 2, 3).predict(ROWS.values) != ROWS.labels
    order = np.concatenate([np.arange(len(ROWS)), *[np.flatnonzero(wrong)] * 4])
    assert sum(fit.details[f"errors[{n}]"] for n in ROWS.groups.names) == wrong.sum() > 0
    same(fit.probe, sklearn_head(ROWS.take(order), np.ones(order.size), 0.01, ROWS), ROWS)


def separable() -> Features:
    x = np.concatenate([np.full((40, 1), -5.0), np.full((40, 1), 5.0)]).astype(np.float32)
    return Features(x, Groups.from_arrays(np.repeat([0, 1], 40), np.arange(80) % 2))


def test_jtt_without_errors_is_erm() -> None:
    rows = separable()
    fit = JTT(l2=(0.01,))(rows, rows, seed=1)
    assert any("no error set" in note for note in fit.notes)
    np.testing.assert_allclose(fit.probe.weight, Balanced(l2=(0.01,))(rows, rows, seed=1).probe.weight, rtol=1e-6)


def test_rad_uw_is_two_l1_heads() -> None:
    method = RADUW(annotate=(0.6,), upweight=(7.0,), l1=(0.1,))
    fit = method(ROWS, VAL, seed=2)
    mine, _ = halves(len(VAL), 2)
    rows = VAL.take(mine)
    x = rows.values.astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)

    def largest(weights: np.ndarray) -> float:
        share = weights / weights.sum()
        return float(np.abs((share * (share @ rows.labels - rows.labels)) @ x).max())

    def head(strength: float, weights: np.ndarray) -> LogisticRegression:
        # Rows repeated, for saga does not converge on weights that differ much.
        order = np.repeat(np.arange(len(rows)), weights.astype(int))
        model = LogisticRegression(
            C=1 / (strength * weights.sum()), l1_ratio=1.0, solver="saga", tol=1e-8, max_iter=20_000, random_state=0
        )
        return model.fit(x[order], rows.labels[order])

    even = np.ones(len(rows))
    wrong = head(0.6 * largest(even), even).predict(x) != rows.labels
    weights = np.where(wrong, 7.0, 1.0)
    assert sum(fit.details[f"annotated[{n}]"] for n in rows.groups.names) == wrong.sum() > 0
    margin = head(0.1 * largest(weights), weights).decision_function(x)
    logits = fit.probe.logits(rows.values)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], margin, atol=1e-2)
    assert np.intersect1d(fit.held_out, mine).size == 0


def test_evals_takes_the_extremes_and_chooses_by_environments() -> None:
    method = EVaLS(per_class=(5, 15), l2=(0.1, 1.0))
    fit = method(ROWS, VAL, seed=2)
    mine, others = halves(len(VAL), 2)
    rows, chooser = VAL.take(mine), VAL.take(others)
    erm = sklearn_head(ROWS, np.ones(len(ROWS)), method.erm_l2)
    own = losses(erm.weight, erm.bias, rows.values, rows.labels)
    heads = {}
    for k in method.per_class:
        kept = np.zeros(len(rows))
        for y in range(2):
            order = sorted(np.flatnonzero(rows.labels == y).tolist(), key=lambda i: own[i])
            kept[order[:k]] = kept[order[-k:]] = 1
        for l2 in method.l2:
            heads[float(k), l2] = sklearn_head(rows, kept, l2, ROWS)
    wrong = erm.predict(chooser.values) != chooser.labels
    scores = []
    for head in heads.values():
        hit = head.predict(chooser.values) == chooser.labels
        cells = [hit[(chooser.labels == y) & (wrong == e)] for y in range(2) for e in (False, True)]
        scores.append(min(c.mean() for c in cells if c.size))
    assert [tried.score for tried in fit.tried] == pytest.approx(scores)
    best = list(heads)[int(np.argmax(scores))]
    assert fit.chosen == {"per_class": best[0], "l2": best[1]}
    same(fit.probe, heads[best], rows)


def test_heads_that_are_always_right_are_said() -> None:
    """Nothing to annotate for RAD-UW, one environment for EVaLS."""
    rows = separable()
    # Where the first head is nearly nothing, it still has the sign.
    fit = RADUW(annotate=(0.5,), upweight=(5.0,), l1=(0.1,))(rows, rows, seed=1)
    assert any("makes no error" in note for note in fit.notes)
    assert (fit.probe.predict(rows.values) == rows.labels).all()
    fit = EVaLS(per_class=(5,), l2=(0.1,))(rows, rows, seed=1)
    assert any("has no row: it takes no part" in note for note in fit.notes)
    assert fit.tried[0].score == 1


def test_extreme_rows_of_a_small_class() -> None:
    values = np.array([0.3, 0.1, 0.2, 9.0, 8.0, 7.0, 6.0])
    labels = np.array([0, 0, 0, 1, 1, 1, 1])
    assert sorted(extreme_rows(values, labels, 2, 50).tolist()) == [0, 1, 3, 4, 5, 6]
    few = VAL.take(np.flatnonzero(VAL.labels == 0))
    with pytest.raises(GroupError, match="fewer than two of y1"):
        EVaLS()(ROWS, few, seed=1)


@pytest.mark.parametrize("by", list(BalanceBy))
def test_crt_draws_and_reweight_crt_weighs(by: BalanceBy) -> None:
    cells = ROWS.labels if by is BalanceBy.CLASS else ROWS.groups.ids
    counts = np.bincount(cells)
    drawn = CRT(by=by)._sample(ROWS, 1)
    totals = np.bincount(cells, weights=drawn.draw_probability)
    np.testing.assert_allclose(totals, 1 / counts.size)
    weighed = CRT(by=by, reweight=True)._sample(ROWS, 1)
    plain = 1 / counts
    np.testing.assert_allclose(weighed.loss_weight, (plain / plain.mean())[cells])
    assert str(weighed.normalize) == "none"


def test_crt_chooses_the_learning_rate() -> None:
    fit = CRT(learning_rate=(1e-5, 1e-1), epochs=3)(train(), validation(), seed=1)
    assert (
        fit.chosen["learning_rate"] == fit.tried[int(np.argmax([t.score for t in fit.tried]))].settings["learning_rate"]
    )


@pytest.mark.parametrize("balanced", [False, True])
def test_llr_is_sgd_on_the_half(balanced: bool) -> None:
    """A plain loop over the minibatches of the half, class-balanced or as they come."""
    method = LLR(class_balanced=balanced, epochs=2)
    fit = method(ROWS, VAL, seed=3)
    mine, others = halves(len(VAL), 3)
    rows = VAL.take(mine)
    x = rows.values.astype(np.float64)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    x = (x - mean) / scale
    w = np.zeros((2, x.shape[1] + 1))
    by = BalanceMethod.UPSAMPLING if balanced else BalanceMethod.NONE
    sample = make_balancer(by).sample(rows.groups, seed=3)
    for epoch in range(2):
        order = sample.draw(epoch)
        for lo in range(0, order.size, 32):
            batch = order[lo : lo + 32]
            ones = np.column_stack([x[batch], np.ones(batch.size)])
            p = np.exp(ones @ w.T)
            p /= p.sum(axis=1, keepdims=True)
            w -= 1e-2 * ((p - np.eye(2)[rows.labels[batch]]).T @ ones / batch.size + 1e-4 * w)
    np.testing.assert_allclose(fit.probe.weight * scale, w[:, :-1], atol=1e-4)
    np.testing.assert_array_equal(fit.held_out, others)
    assert "group shares" in " ".join(fit.notes)
    assert fit.tried[0].score is None


def test_environments_need_no_attribute() -> None:
    erm = sklearn_head(ROWS, np.ones(len(ROWS)), 0.01)
    found = environments(erm, VAL)
    wrong = erm.predict(VAL.values) != VAL.labels
    np.testing.assert_array_equal(found.attributes, wrong.astype(int))


def test_what_cannot_be_done_is_said() -> None:
    one = Features(ROWS.values, Groups.from_arrays(ROWS.labels))
    for method in (CRT(), Balanced(BalanceMethod.UPSAMPLING, BalanceBy.GROUP)):
        with pytest.raises(GroupError, match="needs group labels"):
            method(one, one, seed=1)
    nothing = VAL.take(np.zeros(1, dtype=np.int64))
    with pytest.raises(GroupError, match="fewer than two"):
        LLR()(ROWS, nothing, seed=1)
    with pytest.raises(GroupError, match="no row of class"):
        RADUW()(ROWS, VAL.take(np.flatnonzero(VAL.labels == 0)), seed=1)
    for make in (lambda: JTT(epochs=0), lambda: JTT(upweight=(0.5,)), lambda: RADUW(annotate=(2.0,)),
                 lambda: RADUW(upweight=()), lambda: EVaLS(per_class=(0,))):  # fmt: skip
        with pytest.raises(ConfigError):
            make()
