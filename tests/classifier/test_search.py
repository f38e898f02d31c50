"""`GroupRobustClassifierCV`: against a plain loop over candidates and folds that refits every one."""

from typing import Any

import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import balanced_accuracy_score, recall_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.preprocessing import StandardScaler

from grobust import (
    GroupRobustClassifier,
    GroupRobustClassifierCV,
    Groups,
    StratifiedCellKFold,
    group_metrics,
    make_wga_scorer,
    wga_score,
)  # fmt: skip
from grobust.classifier import _grid
from grobust.errors import ConfigError, GroupError
from grobust.probe import fit_probes
from grobust.selection import cell_scores
from grobust.settings import SelectBy

BALANCES = ("none", "subsetting", "upsampling", "mixture")
# Scores that `GroupMetrics` has under the same name.
OF_METRICS = (SelectBy.WORST_CLASS, SelectBy.WGA, SelectBy.AVERAGE, SelectBy.AVERAGE_GROUP)


def data(n: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardized features, labels and groups; a strong spurious feature and a weak core one."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.3).astype(int)
    place = np.where(rng.random(n) < 0.85, y, 1 - y)
    x = rng.standard_normal((n, 5))
    x[:, 0] += 1.2 * y
    x[:, 1] = place + 0.4 * rng.standard_normal(n)
    return StandardScaler().fit_transform(x), np.array(["no", "yes"])[y], np.array(["land", "sea"])[place]


def metrics_of(y: np.ndarray, predicted: np.ndarray, place: np.ndarray) -> Any:
    codes = [np.unique(v, return_inverse=True)[1] for v in (y, place)]
    return group_metrics(np.searchsorted(np.unique(y), predicted), Groups.from_arrays(*codes))


@pytest.mark.parametrize("strengths", [{"l2": (1e-3, 1.0)}, {"Cs": (0.01, 1.0)}])
def test_equals_a_loop_over_candidates_and_folds(strengths: dict[str, Any]) -> None:
    x, y, place = data()
    shared = {"by": "group", "standardize": False, "tol": 1e-9}
    name, values = next(iter(strengths.items()))
    loop = []
    for balance in BALANCES:
        for seed in (0, 1) if balance in ("subsetting", "mixture") else (0,):
            for value in values:
                own = {"balance": balance, "random_state": seed, "C" if name == "Cs" else "l2": value}
                alone, predicted = GroupRobustClassifier(**shared, **own), np.empty_like(y)
                for train, test in StratifiedCellKFold(3).split(x, y, place):
                    predicted[test] = alone.fit(x[train], y[train], groups=place[train]).predict(x[test])
                loop.append((own, metrics_of(y, predicted, place)))
    for select in OF_METRICS:
        model = GroupRobustClassifierCV(balance=BALANCES, seeds=(0, 1), select=select, cv=3, **strengths, **shared)
        model.fit(x, y, groups=place)
        scores = [getattr(metrics, select).value for _, metrics in loop]
        np.testing.assert_allclose(model.cv_results_["score"], scores, rtol=1e-12)
        assert model.cv_results_["balance"].tolist() == [own["balance"] for own, _ in loop]
        best = int(np.argmax(scores))
        assert model.best_params_ == loop[best][0]
        assert model.best_score_ == pytest.approx(scores[best])
        assert getattr(model.validation_metrics_, select) == getattr(loop[best][1], select)
        alone = GroupRobustClassifier(**shared, **model.best_params_).fit(x, y, groups=place)
        np.testing.assert_allclose(model.coef_, alone.coef_, atol=1e-9)
        np.testing.assert_array_equal(model.best_estimator_.decision_function(x), model.decision_function(x))


def test_the_grid_is_one_solve_on_the_features_given(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, place = data()
    calls = []

    def spy(features: Any, labels: Any, heads: Any, **kwargs: Any) -> Any:
        calls.append((features, len(heads)))
        return fit_probes(features, labels, heads, **kwargs)

    monkeypatch.setattr(_grid, "fit_probes", spy)
    given = x.astype(np.float32)
    balance = (*BALANCES, "upweighting")
    GroupRobustClassifierCV(balance=balance, l2=(1e-3, 1e-2), cv=3, by="group").fit(given, y, groups=place)
    # Upweighting is upsampling in expectation, so four methods are solved; then the choice alone.
    assert [heads for _, heads in calls] == [3 * 4 * 2, 1]
    assert all(np.shares_memory(features, given) for features, _ in calls)


def test_moments_are_of_all_rows_given() -> None:
    x, y, place = data()
    x = 5 * x + 3
    (train, held_out), *_ = StratifiedCellKFold(3).split(x, y, place)
    model = GroupRobustClassifierCV(balance=("none",), l2=(0.1,), cv=[(train, held_out)]).fit(x, y)
    outside = GroupRobustClassifier(balance="none", l2=0.1, standardize=False)
    scaled = StandardScaler().fit_transform(x)
    score = recall_score(
        y[held_out], outside.fit(scaled[train], y[train]).predict(scaled[held_out]), average=None
    ).min()
    assert model.best_score_ == pytest.approx(score)


@pytest.mark.parametrize("select", ["wga", "worst_class"])
def test_explicit_validation(select: str) -> None:
    x, y, place = data()
    x_val, y_val, place_val = data(150, seed=1)
    model = GroupRobustClassifierCV(by="group", select=select, standardize=True)
    model.fit(x, y, groups=place, validation=(x_val, y_val, place_val))
    best = GroupRobustClassifier(by="group", **model.best_params_).fit(x, y, groups=place)
    np.testing.assert_allclose(model.coef_, best.coef_, atol=2e-2)
    assert getattr(metrics_of(y_val, model.predict(x_val), place_val), select).value == model.best_score_
    scores = [
        getattr(metrics_of(y_val, clone(best).set_params(balance=balance, random_state=0, l2=l2).fit(
            x, y, groups=place).predict(x_val), place_val), select).value
        for balance in BALANCES for l2 in model.l2
    ]  # fmt: skip
    assert model.best_score_ == pytest.approx(max(scores), abs=0.02)


def test_held_out_share_keeps_the_share_of_every_cell() -> None:
    x, y, place = data()
    model = GroupRobustClassifierCV(by="group", select="wga", cv=0.25).fit(x, y, groups=place)
    held_out = model.validation_metrics_.counts
    every = metrics_of(y, y, place).counts
    assert (np.abs(held_out - every / 4) <= 1).all()
    assert model.cv_results_["n"][0] == held_out.sum() == 60


def test_splitters_and_penalties() -> None:
    x, y, _ = data()
    for cv in (StratifiedKFold(3), list(StratifiedKFold(3).split(x, y))):
        model = GroupRobustClassifierCV(l2=(1e-2,), balance=("none",), standardize=False, cv=cv).fit(x, y)
        out = cross_val_predict(GroupRobustClassifier(l2=1e-2, balance="none", standardize=False), x, y, cv=3)
        assert model.best_score_ == pytest.approx(recall_score(y, out, average=None).min())
    l1 = GroupRobustClassifierCV(penalty="l1", l1=(1e-3, 0.5), select="average", cv=3).fit(x, y)
    assert l1.best_params_.keys() == {"balance", "random_state", "l1"}
    assert l1.best_params_["l1"] == 1e-3
    net = GroupRobustClassifierCV(penalty="elasticnet", l1=(1e-3,), l2=(1e-3, 1e-2), balance=("none",), cv=3)
    assert len(net.fit(x, y).cv_results_["score"]) == 2
    assert len(GroupRobustClassifierCV(penalty=None, balance=("none",), cv=3).fit(x, y).cv_results_["score"]) == 1


def test_sample_weights_weight_the_score() -> None:
    x, y, place = data(150)
    times = np.random.default_rng(0).integers(0, 3, size=150)
    folds = np.arange(150) % 3
    kwargs = {"balance": ("none", "upsampling"), "by": "group", "select": "wga"}
    weighted = GroupRobustClassifierCV(cv=[(np.flatnonzero(folds != i), np.flatnonzero(folds == i)) for i in range(3)],
                                       **kwargs).fit(x, y, times, place)  # fmt: skip
    many = folds.repeat(times)
    repeated = GroupRobustClassifierCV(cv=[(np.flatnonzero(many != i), np.flatnonzero(many == i)) for i in range(3)],
                                       **kwargs)  # fmt: skip
    repeated.fit(x.repeat(times, axis=0), y.repeat(times), groups=place.repeat(times))
    np.testing.assert_allclose(weighted.cv_results_["score"], repeated.cv_results_["score"], atol=0.03)
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, atol=1e-8)


def test_errors() -> None:
    x, y, place = data()
    cv = GroupRobustClassifierCV
    with pytest.raises(GroupError, match="looks at groups, and none were given"):
        cv(select="wga").fit(x, y)
    with pytest.raises(GroupError, match=r"give validation=\(X, y, groups\)"):
        cv(select="wga").fit(x, y, groups=place, validation=(x, y))
    with pytest.raises(ConfigError, match=r"validation must be \(X, y\)"):
        cv().fit(x, y, validation=x)
    with pytest.raises(GroupError, match="class maybe, which no training row has"):
        cv().fit(x, y, validation=(x[:1], ["maybe"]))
    with pytest.raises(ValueError, match="5 features"):
        cv().fit(x, y, validation=(x[:, :2], y))
    with pytest.raises(GroupError, match="by='group'"):
        cv(by="group").fit(x, y)
    with pytest.raises(GroupError, match="Fold 0 has no training row of class rare"):
        cv(cv=[(np.arange(1, 240), np.array([0]))]).fit(x, np.where(np.arange(240) == 0, "rare", y))
    for wrong in (1, 0.0, 1.5):
        with pytest.raises(ConfigError, match="cv="):
            cv(cv=wrong).fit(x, y)
    for empty in ({"balance": ()}, {"l2": ()}, {"seeds": ()}):
        with pytest.raises(ConfigError, match="nothing to choose from"):
            cv(**empty).fit(x, y)
    with pytest.raises(ConfigError, match="Unknown select 'best'"):
        cv(select="best").fit(x, y)
    with pytest.warns(ConvergenceWarning) as caught:
        cv(max_iter=1, cv=2, tol=1e-12).fit(x, y)
    assert "heads of the grid have not converged" in str(caught[0].message)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(1, 4))
def test_scores_equal_group_metrics(seed: int, n_attributes: int, n_classes: int) -> None:
    rng = np.random.default_rng(seed)
    n_classes += 1
    y, a, predicted = (rng.integers(k, size=40) for k in (n_classes, n_attributes, n_classes))
    groups = Groups.from_arrays(y, a)
    metrics = group_metrics(predicted, groups)
    correct = np.bincount(groups.ids, weights=predicted == y, minlength=groups.n_groups)
    for select in OF_METRICS:
        found = cell_scores(correct[None], groups.counts.astype(float), groups.n_classes, select)
        assert found[0] == pytest.approx(getattr(metrics, select).value)
    assert wga_score(y, predicted, groups=a) == pytest.approx(metrics.wga.value)
    if n_attributes == 1:
        assert cell_scores(correct[None], groups.counts.astype(float), groups.n_classes, SelectBy.AVERAGE_GROUP)[
            0
        ] == pytest.approx(balanced_accuracy_score(y, predicted))
    weights = rng.integers(0, 3, size=40)
    weights[0] = 1
    repeated = wga_score(y.repeat(weights), predicted.repeat(weights), groups=a.repeat(weights))
    assert wga_score(y, predicted, groups=a, sample_weight=weights) == pytest.approx(repeated)


def test_grid_search_chooses_by_worst_group() -> None:
    x, y, place = data()
    with pytest.raises(RuntimeError, match="enable_metadata_routing"):
        make_wga_scorer()
    with sklearn.config_context(enable_metadata_routing=True):
        model = GroupRobustClassifier(by="group").set_fit_request(groups=True)
        search = GridSearchCV(
            model, {"balance": ["none", "upsampling"]}, scoring=make_wga_scorer(), cv=StratifiedCellKFold(4)
        ).fit(x, y, groups=place)
        scores = cross_val_score(
            clone(model).set_params(balance="upsampling"), x, y, scoring=make_wga_scorer(),
            cv=StratifiedCellKFold(4), params={"groups": place},
        )  # fmt: skip
        inner = GroupRobustClassifierCV(by="group", select="wga", l2=(1e-2,), cv=3).set_fit_request(groups=True)
        nested = cross_val_score(
            inner, x, y, scoring=make_wga_scorer(), cv=StratifiedCellKFold(2), params={"groups": place}
        )
    assert search.best_params_ == {"balance": "upsampling"}
    assert search.cv_results_["mean_test_score"][1] == pytest.approx(scores.mean())
    by_hand = []
    for train, test in StratifiedCellKFold(4).split(x, y, place):
        fitted = GroupRobustClassifier(by="group").fit(x[train], y[train], groups=place[train])
        by_hand.append(metrics_of(y[test], fitted.predict(x[test]), place[test]).wga.value)
    np.testing.assert_allclose(scores, by_hand)
    assert nested.shape == (2,)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 6))
def test_folds_share_every_cell(seed: int, n_splits: int) -> None:
    rng = np.random.default_rng(seed)
    y, a = rng.integers(2, size=50), rng.choice(["p", "q", "r"], size=50, p=[0.8, 0.15, 0.05])
    splits = list(StratifiedCellKFold(n_splits, random_state=seed).split(y, y, a))
    assert np.array_equal(np.sort(np.concatenate([test for _, test in splits])), np.arange(50))
    sizes = []
    for train, test in splits:
        assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(50))
        sizes.append([np.sum((y[test] == c) & (a[test] == v)) for c in (0, 1) for v in "pqr"])
    assert (np.ptp(np.array(sizes), axis=0) <= 1).all()
    assert np.ptp(np.sum(sizes, axis=1)) <= 1
    again = list(StratifiedCellKFold(n_splits, random_state=seed).split(y, y, a))
    assert all(np.array_equal(one[1], other[1]) for one, other in zip(splits, again, strict=True))
    with pytest.raises(ConfigError, match="n_splits"):
        next(StratifiedCellKFold(51).split(y, y, a))


def test_class_difference_chooses_the_most_even_recalls() -> None:
    x, y, place = data()
    model = GroupRobustClassifierCV(select="class_difference", cv=3).fit(x, y, groups=place)
    gaps = []
    for balance, seed, l2 in zip(*(model.cv_results_[k] for k in ("balance", "seed", "l2")), strict=True):
        alone, predicted = GroupRobustClassifier(balance=balance, random_state=int(seed), l2=l2), np.empty_like(y)
        for train, test in StratifiedCellKFold(3).split(x, y, place):
            predicted[test] = alone.fit(x[train], y[train]).predict(x[test])
        first, second = recall_score(y, predicted, average=None)
        gaps.append(abs(first - second))
    np.testing.assert_allclose(-model.cv_results_["score"], gaps, atol=0.02)
    assert model.best_score_ == pytest.approx(model.cv_results_["score"].max())


def test_scores_that_need_a_proxy_are_refused() -> None:
    x, y, place = data()
    with pytest.raises(ConfigError, match="needs a bias proxy"):
        GroupRobustClassifierCV(select="bias_unsupervised").fit(x, y, groups=place)
