"""`GroupRobustClassifier`: scikit-learn's own checks, and its LogisticRegression as the independent answer."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_problems import objective, problem, standardized
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from grobust import GroupRobustClassifier, GroupRobustClassifierCV, Groups, make_balancer
from grobust.errors import ConfigError, DeviceError, GroupError, ShapeError
from grobust.probe import fit_probe
from grobust.settings import LBFGS, BalanceBy, BalanceMethod

CLASS_BALANCED = ("upsampling", "upweighting")


@parametrize_with_checks(
    [
        GroupRobustClassifier(),
        GroupRobustClassifier(balance="none", standardize=False),
        GroupRobustClassifier(balance="upweighting", C=1.0),
        GroupRobustClassifierCV(),
    ]
)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def data(k: int = 2, n: int = 300, d: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, string labels and string groups; the last feature shows the group."""
    x, y = problem(n, d, k)
    rng = np.random.default_rng(7)
    place = np.where(rng.random(n) < 0.85, y % 2, 1 - y % 2)
    x = x.astype(np.float64) - 10
    x[:, -1] = place + 0.3 * rng.standard_normal(n)
    return x, np.array(["cat", "dog", "elk", "fox"])[y], np.array(["land", "sea"])[place]


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("balance", ["none", *CLASS_BALANCED])
@pytest.mark.parametrize("weighted", [False, True])
def test_same_c_same_coefficients_as_logistic_regression(k: int, balance: str, weighted: bool) -> None:
    x, y, _ = data(k)
    weights = np.random.default_rng(3).uniform(0.1, 3, size=y.size) if weighted else None
    ours = GroupRobustClassifier(balance=balance, C=0.3, standardize=False).fit(x, y, weights)
    # "balanced" of scikit-learn reads the counts with the sample weights, and multiplies by them.
    theirs = LogisticRegression(
        C=0.3, class_weight="balanced" if balance in CLASS_BALANCED else None, solver="newton-cholesky", tol=1e-12
    ).fit(x, y, weights)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours.decision_function(x), theirs.decision_function(x), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(ours.predict_proba(x), theirs.predict_proba(x), atol=1e-8)
    np.testing.assert_allclose(ours.predict_log_proba(x), theirs.predict_log_proba(x), atol=1e-6)
    np.testing.assert_array_equal(ours.predict(x), theirs.predict(x))
    assert ours.coef_.shape == theirs.coef_.shape
    assert ours.intercept_.shape == theirs.intercept_.shape
    assert ours.score(x, y, weights) == pytest.approx(theirs.score(x, y, weights))


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(("penalty", "ratio"), [("l1", 1.0), ("elasticnet", 0.4)])
def test_same_c_same_sparse_coefficients_as_saga(k: int, penalty: str, ratio: float) -> None:
    x, y, _ = data(k)
    x = x[:, [0, 1, 2, 5]]
    ours = GroupRobustClassifier(balance="none", penalty=penalty, C=0.1, l1_ratio=ratio, standardize=False, tol=1e-8)
    theirs = LogisticRegression(C=0.1, l1_ratio=ratio, solver="saga", tol=1e-9, max_iter=50_000, random_state=0)
    ours.fit(x, y)
    theirs.fit(x, y)

    def cost(model: Any) -> float:
        loss = -model.predict_log_proba(x)[np.arange(y.size), np.searchsorted(model.classes_, y)].sum()
        w = model.coef_
        return float(0.1 * loss + ratio * np.abs(w).sum() + (1 - ratio) / 2 * (w**2).sum())

    assert cost(ours) == pytest.approx(cost(theirs), rel=2e-8)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-3)
    assert ((ours.coef_ == 0) == (theirs.coef_ == 0)).all()
    assert ours.fit_.gap >= 0


def test_subset_is_logistic_regression_on_the_kept_rows() -> None:
    x, y, place = data(3)
    ids, attributes = np.unique(y, return_inverse=True)[1], np.unique(place, return_inverse=True)[1]
    sample = make_balancer(BalanceMethod.SUBSETTING, by=BalanceBy.GROUP).sample(
        Groups.from_arrays(ids, attributes), seed=4
    )
    ours = GroupRobustClassifier(balance="subsetting", by="group", random_state=4, C=1.0, standardize=False)
    ours.fit(x, y, groups=place)
    theirs = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12).fit(x[sample.indices], y[sample.indices])
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("balance", list(BalanceMethod))
@pytest.mark.parametrize("by", list(BalanceBy))
def test_equals_the_engine_on_the_expected_weights(balance: BalanceMethod, by: BalanceBy) -> None:
    x, y, place = data(3)
    ids, attributes = np.unique(y, return_inverse=True)[1], np.unique(place, return_inverse=True)[1]
    sample = make_balancer(balance, by=by, ratio=1.5).sample(Groups.from_arrays(ids, attributes), seed=2)
    fit = fit_probe(x, ids, n_classes=3, weights=sample.expected_weights(), l2=1e-2, solver=LBFGS(newton=256))
    ours = GroupRobustClassifier(balance=balance, by=by, ratio=1.5, l2=1e-2, random_state=2).fit(x, y, groups=place)
    np.testing.assert_allclose(ours.coef_, fit.probe.weight, atol=1e-9)
    again = objective(standardized(x), ids, sample.expected_weights(), 1e-2, ours.coef_ * x.std(axis=0),
                      ours.intercept_ + ours.coef_ @ x.mean(axis=0))  # fmt: skip
    assert ours.fit_.objective == pytest.approx(again, rel=1e-9)
    full_group = [f"{a}/{b}" for a, b in zip(y, place, strict=True)]
    named = clone(ours).fit(x, y, groups=full_group)
    np.testing.assert_allclose(named.coef_, ours.coef_, atol=1e-9)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from(["none", "upsampling"]), st.booleans())
def test_weights_count_rows(seed: int, balance: str, standardize: bool) -> None:
    """Weight 2 is the row twice and weight 0 no row, in the moments, the balance and the strength."""
    rng = np.random.default_rng(seed)
    x, y, place = data(2, n=60)
    times = rng.integers(0, 4, size=60)
    times[[int(np.argmax(y == "cat")), int(np.argmax(y == "dog"))]] = 1
    model = GroupRobustClassifier(balance=balance, by="group", C=1.0, standardize=standardize)
    weighted = clone(model).fit(x, y, times, place)
    repeated = clone(model).fit(x.repeat(times, axis=0), y.repeat(times), groups=place.repeat(times))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(weighted.intercept_, repeated.intercept_, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_features_stay_as_they_are(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, _ = data(2)
    given = x.astype(dtype)
    seen = []

    def spy(features: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(features)
        return fit_probes(features, *args, **kwargs)

    from grobust.classifier import _grid
    from grobust.probe import fit_probes

    monkeypatch.setattr(_grid, "fit_probes", spy)
    model = GroupRobustClassifier().fit(given, y)
    assert np.shares_memory(seen[0], given)
    assert seen[0].dtype == dtype
    np.testing.assert_allclose(model.decision_function(given), model.decision_function(given.astype(np.float64)))


def test_pipeline_search_and_clone() -> None:
    x, y, _ = data(3)
    scaled = make_pipeline(StandardScaler(), GroupRobustClassifier(l2=1e-2, standardize=False)).fit(x, y)
    own = GroupRobustClassifier(l2=1e-2).fit(x, y)
    np.testing.assert_allclose(scaled.decision_function(x), own.decision_function(x), atol=1e-7)
    assert cross_val_score(clone(own), x, y, cv=3).mean() > 0.5
    search = GridSearchCV(GroupRobustClassifier(), {"l2": [1e-3, 10.0], "balance": ["none", "upsampling"]}, cv=3)
    assert search.fit(x, y).best_params_["l2"] == 1e-3
    frame = pd.DataFrame(x, columns=[f"f{i}" for i in range(6)])
    named = GroupRobustClassifier().fit(frame, pd.Series(y), groups=pd.Series(np.arange(300) % 2))
    assert list(named.feature_names_in_) == list(frame.columns)
    with pytest.raises(ValueError, match="feature names"):
        named.predict(frame[list(frame.columns)[::-1]])


def test_groups_are_routed() -> None:
    x, y, place = data(2)
    direct = GroupRobustClassifier(by="group").fit(StandardScaler().fit_transform(x), y, groups=place)
    with sklearn.config_context(enable_metadata_routing=True):
        model = GroupRobustClassifier(by="group").set_fit_request(groups=True, sample_weight=True)
        model.set_score_request(sample_weight=True)
        piped = make_pipeline(StandardScaler(), model).fit(x, y, groups=place)
        scores = cross_validate(model, x, y, cv=3, params={"groups": place, "sample_weight": np.ones(300)})
    np.testing.assert_allclose(piped[-1].coef_, direct.coef_, atol=1e-9)
    assert len(scores["test_score"]) == 3


def test_not_converged_warns() -> None:
    x, y, _ = data(2)
    with pytest.warns(ConvergenceWarning, match="raise max_iter or l2"):
        model = GroupRobustClassifier(max_iter=1, l2=1e-8, tol=1e-12).fit(x, y)
    assert model.fit_.status == "max_iter"
    assert model.n_iter_ == 1


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"balance": "smote"}, ConfigError, "Unknown balance 'smote'. Expected one of: none, subsetting"),
        ({"by": "attribute"}, ConfigError, "Unknown by 'attribute'. Expected one of: class, group"),
        ({"by": "group"}, GroupError, "none were given. Pass fit"),
        ({"penalty": "l3"}, ConfigError, "Unknown penalty 'l3'"),
        ({"C": 0.0}, ConfigError, "C must be a positive number"),
        ({"penalty": "elasticnet", "l1_ratio": 2.0}, ConfigError, "l1_ratio must lie"),
        ({"l2": -1.0}, ConfigError, "l2 must be a number of at least 0"),
        ({"balance": "mixture", "ratio": 0.5}, ConfigError, "mixture ratio"),
        ({"tol": 0.0}, ConfigError, "rtol must be a positive"),
        ({"device": "tpu"}, DeviceError, "Unknown device"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], error: type, message: str) -> None:
    x, y, _ = data(2)
    with pytest.raises(error, match=message):
        GroupRobustClassifier(**settings).fit(x, y)


def test_wrong_groups() -> None:
    x, y, place = data(2)
    model = GroupRobustClassifier(by="group")
    with pytest.raises(ShapeError, match="one label for each of the 300 rows"):
        model.fit(x, y, groups=place[:-1])
    with pytest.raises(GroupError, match="no label in row 3"):
        model.fit(x, y, groups=[None if i == 3 else "a" for i in range(300)])
    with pytest.raises(GroupError, match="no label in row 4"):
        model.fit(x, y, groups=np.where(np.arange(300) == 4, np.nan, 1.0))
    with pytest.raises(NotFittedError):
        model.predict(x)


def test_any_hashable_is_a_group() -> None:
    x, y, place = data(2)
    mixed = np.array([1 if p == "sea" else ("a", "tuple") for p in place], dtype=object)
    model = GroupRobustClassifier(by="group")
    np.testing.assert_allclose(model.fit(x, y, groups=mixed).coef_, clone(model).fit(x, y, groups=place).coef_)


def test_without_penalty() -> None:
    x, y, _ = data(2, n=200, d=3)
    y = np.where(np.random.default_rng(0).random(200) < 0.3, "cat", y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = GroupRobustClassifier(balance="none", penalty=None, tol=1e-10).fit(x, y)
    theirs = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10).fit(x, y)
    np.testing.assert_allclose(ours.decision_function(x), theirs.decision_function(x), atol=1e-3)


@pytest.mark.gpu
def test_device() -> None:
    x, y, place = data(3)
    for model in (GroupRobustClassifier(by="group"), GroupRobustClassifierCV(by="group", select="wga", cv=3)):
        host = clone(model).fit(x, y, groups=place)
        device = clone(model).set_params(device="cuda").fit(x, y, groups=place)
        assert isinstance(device.coef_, np.ndarray)
        np.testing.assert_allclose(device.decision_function(x), host.decision_function(x), atol=2e-2)
