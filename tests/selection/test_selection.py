"""Scores, bias proxies and selectors against plain loops; what selectors refuse."""

import doctest
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats.contingency import association
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, recall_score
from sklearn.preprocessing import StandardScaler

from grobust.data.synthetic import gaussian_groups
from grobust.errors import ConfigError, DataError, GroupError, ShapeError
from grobust.groups import Groups, Split
from grobust.metrics import group_metrics
from grobust.probe import fit_probe
from grobust.selection import BiasProxy, ProxyReading, Selector, ValidationArrays, choose, fit_bias_proxy
from grobust.settings import SelectBy


def by_loop(select: SelectBy, predicted: np.ndarray, groups: Groups, proxy: np.ndarray, hard: np.ndarray) -> float:
    """The definition, row by row."""
    y, a = groups.labels, groups.attributes
    key: dict[SelectBy, Any] = {
        SelectBy.WORST_CLASS: y, SelectBy.CLASS_DIFFERENCE: y, SelectBy.AVERAGE: np.zeros_like(y),
        SelectBy.WGA: y * 1000 + a, SelectBy.AVERAGE_GROUP: y * 1000 + a, SelectBy.BIAS_UNSUPERVISED: proxy * 1000 + y,
        SelectBy.BIAS_UNSUPERVISED_WORST: proxy * 1000 + y, SelectBy.WORST_PSEUDO_GROUP: y * 2 + hard,
    }  # fmt: skip
    cells = key[select]
    accuracy = [float(np.mean(predicted[cells == c] == y[cells == c])) for c in sorted(set(cells.tolist()))]
    if select is SelectBy.CLASS_DIFFERENCE:
        return -sum(abs(p - q) for i, p in enumerate(accuracy) for q in accuracy[:i])
    if select in (SelectBy.BIAS_UNSUPERVISED, SelectBy.AVERAGE_GROUP):
        return sum(accuracy) / len(accuracy)
    return min(accuracy)


@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(1, 3))
def test_every_score_is_its_definition(seed: int, n_classes: int, n_attributes: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 60))
    groups = Groups.from_arrays(
        rng.integers(n_classes, size=n), rng.integers(n_attributes, size=n),
        class_names=[f"y{i}" for i in range(n_classes)], attribute_names=[f"a{i}" for i in range(n_attributes)],
    )  # fmt: skip
    split = rng.choice([Split.TRAIN, Split.VAL, Split.TEST], size=n)
    split[0] = Split.VAL
    val = groups.take(split == Split.VAL)
    proxy, hard = rng.integers(n_classes, size=len(val)), rng.random(len(val)) < 0.4
    reading = ProxyReading(proxy, hard, val.labels, val.class_names, "random")
    validation = ValidationArrays(groups, split, reading)
    predictions = rng.integers(n_classes, size=(3, 2, len(val)))
    for select in SelectBy:
        if select.needs_groups and n_attributes == 1:
            with pytest.raises(GroupError, match=r"no attributes.*worst_class"):
                Selector(select).choose(predictions, validation)
            continue
        expected = [np.mean([by_loop(select, p, val, proxy, hard) for p in own]) for own in predictions]
        choice = Selector(select).choose(predictions, validation)
        assert choice.scores == pytest.approx(expected)
        assert choice.score == pytest.approx(max(expected))
        assert choice.n_seeds == 2
        # A permutation of the candidates changes nothing but their numbers.
        back = Selector(select).choose(predictions[::-1], validation)
        assert back.score == pytest.approx(choice.score)


def test_ties_go_to_the_first_and_are_named() -> None:
    choice = choose(SelectBy.WGA, np.array([[0.5, 0.5], [0.6, 0.8], [0.7, 0.7]]), names=["a", "b", "c"])
    assert (choice.name, choice.tied, choice.score) == ("b", ("c",), pytest.approx(0.7))
    undefined = choose(SelectBy.WGA, np.array([[np.nan, 0.9], [0.1, 0.2]]))
    assert undefined.index == 1
    with pytest.raises(DataError, match="undefined for every candidate: a"):
        choose(SelectBy.WGA, np.array([[np.nan]]), names=["a"])
    for scores, names in ((np.zeros((2, 0)), None), (np.zeros(3), None), (np.zeros((2, 1)), ["a"])):
        with pytest.raises(ShapeError):
            choose(SelectBy.WGA, scores, names=names)


def test_ledger_of_a_choice() -> None:
    scores = np.ones((1, 1))
    assert choose(SelectBy.WORST_CLASS, scores).ledger.selection == ("class",)
    assert choose(SelectBy.WORST_CLASS, scores).ledger.train == ()
    assert choose(SelectBy.BIAS_UNSUPERVISED, scores).ledger.train == ("class",)
    assert choose(SelectBy.WGA, scores).ledger.selection == ("class", "attribute")
    assert choose(SelectBy.WGA, scores).ledger.evaluation == ()


def test_test_arrays_cannot_reach_a_selector() -> None:
    data = gaussian_groups((60, 20, 20, 60), 3, seed=0)
    split = np.random.default_rng(0).choice(3, size=len(data.groups))
    test = data.groups.take(split == Split.TEST)
    predictions = test.labels[None]
    for smuggled in (test, (test.labels, test.attributes), data.groups, group_metrics(test.labels, test)):
        with pytest.raises(ConfigError, match="no test row can choose"):
            Selector(SelectBy.WGA).choose(predictions, smuggled)  # type: ignore[arg-type]
    # Made from all rows, it holds those of the validation split and no others.
    validation = ValidationArrays(data.groups, split)
    np.testing.assert_array_equal(validation.groups.labels, data.groups.labels[split == Split.VAL])
    with pytest.raises(ShapeError, match="one per row"):
        ValidationArrays(test, split)
    with pytest.raises(DataError, match="no validation rows"):
        Selector(SelectBy.WGA).choose(predictions, ValidationArrays(test, np.full(len(test), Split.TEST)))
    # Whatever the test rows are, the choice is the same.
    candidates = np.random.default_rng(1).integers(2, size=(4, 1, len(validation)))
    other = Groups(np.where(split == Split.TEST, 1 - data.groups.labels, data.groups.labels), data.groups.attributes,
                   data.groups.class_names, data.groups.attribute_names)  # fmt: skip
    for select in (SelectBy.WGA, SelectBy.WORST_CLASS):
        first = Selector(select).choose(candidates, validation)
        assert first == Selector(select).choose(candidates, ValidationArrays(other, split))


def test_the_planted_best_is_chosen() -> None:
    """Rows at random, one candidate right on the group that all others get wrong."""
    rng = np.random.default_rng(3)
    groups = Groups.from_arrays(np.repeat([0, 1], 400), np.tile(np.repeat([0, 1], [350, 50]), 2))
    validation = ValidationArrays(groups, np.full(800, Split.VAL))
    minority = groups.attributes == 1
    shortcut = np.where(minority & (rng.random(800) < 0.8), 1 - groups.labels, groups.labels)
    robust = np.where(rng.random(800) < 0.15, 1 - groups.labels, groups.labels)
    names = ("shortcut", "robust")
    predictions = np.stack([shortcut, robust])[:, None]
    assert Selector(SelectBy.WGA).choose(predictions, validation, names=names).name == "robust"
    assert Selector(SelectBy.AVERAGE).choose(predictions, validation, names=names).name == "shortcut"
    proxy = ProxyReading.of_predictions(np.where(minority, 1 - groups.labels, groups.labels), groups)
    with_proxy = ValidationArrays(groups, np.full(800, Split.VAL), proxy)
    for select in (SelectBy.BIAS_UNSUPERVISED, SelectBy.BIAS_UNSUPERVISED_WORST, SelectBy.WORST_PSEUDO_GROUP):
        assert Selector(select).choose(predictions, with_proxy, names=names).name == "robust"
    with pytest.raises(ConfigError, match="needs a bias proxy"):
        Selector(SelectBy.BIAS_UNSUPERVISED).choose(predictions, validation)


def test_a_proxy_is_a_plain_strong_head() -> None:
    data = gaussian_groups((500, 60, 40, 300), 6, seed=1)
    split = np.random.default_rng(2).choice(2, size=len(data.groups))
    train, val = data.groups.take(split == 0), data.groups.take(split == 1)
    proxy = fit_bias_proxy(data.features[split == 0], train.labels, n_classes=2, l2=0.1)
    scaler = StandardScaler().fit(data.features[split == 0].astype(np.float64))
    model = LogisticRegression(C=2 / (0.1 * len(train)), tol=1e-9, max_iter=2000)
    model.fit(scaler.transform(data.features[split == 0]), train.labels)
    expected = model.predict_proba(scaler.transform(data.features[split == 1]))
    reading = proxy.read(data.features[split == 1], val)
    assert np.mean(reading.predictions == expected.argmax(axis=1)) > 0.995
    loss = -np.log(expected[np.arange(len(val)), val.labels])
    for y in (0, 1):
        rows = np.flatnonzero(val.labels == y)
        hardest = rows[np.argsort(-loss[rows])[: int(np.ceil(0.25 * rows.size))]]
        assert np.mean(reading.is_hard[hardest]) > 0.98
        assert reading.is_hard[rows].sum() == hardest.size
    assert reading.strata.sum() == len(val)
    assert reading.strata[0, 1] == np.sum((reading.predictions == 0) & (val.labels == 1))
    table = np.array([[np.sum((reading.predictions == j) & (val.attributes == a)) for a in (0, 1)] for j in (0, 1)])
    assert reading.agreement(val) == pytest.approx(association(table, method="cramer"))
    summary = reading.as_dict(val)
    assert summary["accuracy"] == pytest.approx(np.mean(reading.predictions == val.labels))
    assert "no balancing" in summary["description"]


def test_notes_of_a_proxy() -> None:
    groups = Groups.from_arrays(np.repeat([0, 1, 2], [30, 20, 10]))
    always = ProxyReading.of_predictions(groups.labels, groups)
    validation = ValidationArrays(groups, np.full(60, Split.VAL), always)
    assert any("always right" in note for note in validation.notes)
    predicted = np.random.default_rng(0).integers(3, size=60)
    scores = Selector(SelectBy.BIAS_UNSUPERVISED).choose(predicted[None], validation)
    assert scores.score == pytest.approx(balanced_accuracy_score(groups.labels, predicted))
    few = groups.labels.copy()
    few[:3] = 1
    (note,) = ProxyReading.of_predictions(few, groups).notes
    assert "predicted y1, class y0" in note
    assert "3 validation rows, which decide 1/4" in note
    assert ProxyReading.of_predictions(few, groups).agreement(groups) is None
    with pytest.raises(GroupError, match="classes 0 to 2"):
        ProxyReading.of_predictions(np.full(60, 3), groups)
    with pytest.raises(ShapeError, match="60"):
        ProxyReading.of_predictions(few[:5], groups)
    with pytest.raises(ShapeError, match="5 rows"):
        ValidationArrays(groups, np.full(60, Split.VAL), ProxyReading.of_predictions(few[:5], groups.take(slice(5))))


def test_classes_and_groups_that_are_absent_are_named() -> None:
    names: dict[str, Any] = {"class_names": ("a", "b", "c"), "attribute_names": ("p", "q")}
    groups = Groups.from_arrays([0, 0, 1, 1, 1], [0, 1, 0, 0, 0], **names)
    validation = ValidationArrays(groups, np.full(5, Split.VAL))
    assert validation.notes == (
        "class 'c' has no validation rows: no score sees it",
        "group 'b / q' has no validation rows: wga and average_group leave it out",
    )
    predicted = np.array([[0, 1, 1, 1, 0]])
    choice = Selector(SelectBy.WORST_CLASS).choose(predicted, validation)
    assert choice.score == pytest.approx(min(recall_score(groups.labels, predicted[0], average=None)))
    assert choice.notes == validation.notes
    assert Selector(SelectBy.WGA).choose(predicted, validation).score == 0.0
    for bad in (predicted[:, :3], predicted.astype(float)):
        with pytest.raises(ShapeError, match="5 validation rows"):
            Selector(SelectBy.WGA).choose(bad, validation)


def test_reading_wants_as_many_rows() -> None:
    data = gaussian_groups((20, 20, 20, 20), 3, seed=0)
    fit = fit_probe(data.features, data.groups.labels, n_classes=2)
    with pytest.raises(ShapeError, match="79 rows"):
        BiasProxy(fit.probe, 0.1).read(data.features[:79], data.groups)


def test_many_classes_keep_the_combinations_that_have_rows() -> None:
    rng = np.random.default_rng(0)
    k, n = 300, 2000
    groups = Groups.from_arrays(
        rng.integers(k, size=n), rng.integers(2, size=n), class_names=[str(i) for i in range(k)],
        attribute_names=("a", "b"),
    )  # fmt: skip
    proxy = ProxyReading.of_predictions(rng.integers(k, size=n), groups)
    validation = ValidationArrays(groups, np.full(n, Split.VAL), proxy)
    assert validation.cells.n_groups <= n * k
    assert validation.cells.n_attributes <= groups.class_counts.max()
    predicted = np.where(rng.random(n) < 0.7, groups.labels, rng.integers(k, size=n))
    for select in SelectBy:
        choice = Selector(select).choose(predicted[None], validation)
        assert choice.score == pytest.approx(by_loop(select, predicted, groups, proxy.predictions, proxy.is_hard))
    (note,) = proxy.notes
    assert "strata of the bias proxy have fewer than 10" in note


def test_the_example_of_a_selector_runs() -> None:
    module = import_module("grobust.selection._selector")
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("with_proxy", [False, True])
def test_overlapping_groups_are_what_scores_by_group_look_at(with_proxy: bool) -> None:
    rng = np.random.default_rng(3)
    groups = Groups.from_arrays(rng.integers(2, size=200), rng.integers(4, size=200))
    split = rng.choice([Split.TRAIN, Split.VAL, Split.TEST], size=200)
    val = groups.take(split == Split.VAL)
    unions = np.array([[i in (0, 1, 2), i in (1, 3), i in (4, 5), i in (5, 6, 7)] for i in range(8)])
    reading = ProxyReading(val.labels, val.labels > 2, val.labels, val.class_names, "labels") if with_proxy else None
    validation = ValidationArrays(groups, split, reading, unions=unions)
    predicted = rng.integers(2, size=len(val))
    right = predicted == val.labels
    accuracy = [right[unions[val.ids, o]].mean() for o in range(4)]
    correct = np.bincount(validation.cells.ids[right], minlength=validation.cells.n_groups)
    assert validation.scores(SelectBy.WGA, correct) == pytest.approx(min(accuracy))
    assert validation.scores(SelectBy.AVERAGE_GROUP, correct) == pytest.approx(np.mean(accuracy))
    assert validation.scores(SelectBy.AVERAGE, correct) == pytest.approx(right.mean())
    with pytest.raises(ShapeError, match=r"unions have shape \(3, 4\)"):
        ValidationArrays(groups, split, unions=unions[:3])
