"""Logit adjustment and uLA against objectives written down anew and minimized by scipy."""

import numpy as np
import pytest
from planted import losses, planted, three_classes, train, validation
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from grobust.errors import ConfigError, GroupError
from grobust.groups import Groups
from grobust.methods import ULA, Features, LogitAdjustment, _risk
from grobust.methods.logit_adjustment import log_priors
from grobust.metrics import group_metrics
from grobust.settings import BalanceBy

L2 = 0.02
ROWS = [planted(1, (150, 20, 15, 60), 2.0, 3.0), three_classes(250)]


def lowest(rows: Features, offsets: np.ndarray) -> tuple[float, np.ndarray]:
    """Least mean loss with offsets plus ½ λ ‖W‖² on standardized features, and the logits there."""
    x = rows.values.astype(np.float64)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    k, d = rows.n_classes, x.shape[1]

    def value(flat: np.ndarray) -> float:
        w = flat.reshape(k, d + 1)
        own = losses(w[:, :-1], w[:, -1], x, rows.labels, offsets)
        return float(own.mean() + 0.5 * L2 * (w[:, :-1] ** 2).sum())

    found = minimize(value, np.zeros(k * (d + 1)), method="BFGS", options={"gtol": 1e-6})
    w = found.x.reshape(k, d + 1)
    return float(found.fun), x @ w[:, :-1].T + w[:, -1]


def centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(axis=1, keepdims=True)


@pytest.mark.parametrize("rows", ROWS, ids=["two", "three"])
@pytest.mark.parametrize("tau", [0.0, 1.0, 2.0])
def test_class_priors(rows: Features, tau: float) -> None:
    shares = np.array([(rows.labels == y).mean() for y in range(rows.n_classes)])
    _, logits = lowest(rows, tau * np.log(shares))
    fit = LogitAdjustment(tau=(tau,), l2=(L2,))(rows, rows, seed=1)
    np.testing.assert_allclose(centred(fit.probe.logits(rows.values)), centred(logits), atol=5e-3)


@pytest.mark.parametrize("rows", ROWS, ids=["two", "three"])
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_group_priors(rows: Features, tau: float) -> None:
    y, a = rows.labels, rows.groups.attributes
    table = [[np.mean(y[a == v] == k) for k in range(rows.n_classes)] for v in range(2)]
    _, logits = lowest(rows, tau * np.log(np.array(table))[a])
    fit = LogitAdjustment(by=BalanceBy.GROUP, tau=(tau,), l2=(L2,))(rows, rows, seed=1)
    np.testing.assert_allclose(centred(fit.probe.logits(rows.values)), centred(logits), atol=5e-3)


def test_scaling_by_the_diagonal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    method = LogitAdjustment(by=BalanceBy.GROUP, tau=(1.0,), l2=(L2,))
    whole = method(ROWS[1], ROWS[1], seed=1).probe
    monkeypatch.setattr(_risk, "MOST_SCALED", 3)
    found = method(ROWS[1], ROWS[1], seed=1).probe
    np.testing.assert_allclose(*(centred(p.logits(ROWS[1].values)) for p in (found, whole)), atol=5e-3)


def test_an_empty_group_has_no_share_and_does_no_harm() -> None:
    rows = planted(4, (40, 0, 30, 40))
    assert log_priors(rows.groups)[1, 0] == -np.inf
    fit = LogitAdjustment(by=BalanceBy.GROUP, tau=(1.0,), l2=(L2,))(rows, validation(), seed=1)
    assert np.isfinite(fit.probe.weight).all()


def test_ula_is_its_definition() -> None:
    """Proxy by scikit-learn, joint shares by a loop, head by scipy, score by strata."""
    rows, held_out = planted(1, (150, 20, 15, 60), 2.0, 3.0), planted(2, (60, 50, 40, 30), 2.0, 3.0)
    mean, scale = rows.values.astype(float).mean(axis=0), rows.values.astype(float).std(axis=0)
    proxy_l2 = 0.3
    n = len(rows)
    proxy = LogisticRegression(C=2 / (proxy_l2 * n), tol=1e-10, max_iter=10_000)
    proxy.fit((rows.values - mean) / scale, rows.labels)
    p = proxy.predict_proba((rows.values - mean) / scale)
    joint = np.zeros((2, 2))
    for i in range(n):
        for j in range(2):
            joint[j, rows.labels[i]] += p[i, j] / n
    conditional = joint / joint.sum(axis=1, keepdims=True)
    _, logits = lowest(rows, np.log(conditional[p.argmax(axis=1)]))
    fit = ULA(proxy_l2=proxy_l2, l2=(L2,))(rows, held_out, seed=1)
    np.testing.assert_allclose(centred(fit.probe.logits(rows.values)), centred(logits), atol=1e-2)
    predicted = proxy.predict((held_out.values - mean) / scale)
    hit = fit.probe.predict(held_out.values) == held_out.labels
    strata = [hit[(predicted == j) & (held_out.labels == k)] for j in range(2) for k in range(2)]
    assert fit.tried[0].score == pytest.approx(np.mean([s.mean() for s in strata if s.size]))
    assert fit.details["proxy_accuracy"] == pytest.approx((p.argmax(axis=1) == rows.labels).mean())


def test_ula_takes_the_proxys_own_features() -> None:
    """A proxy that sees the spurious direction alone, and what it is right about."""
    rows, held_out = train(), validation()
    sees = [Features(r.values, r.groups, early=r.values[:, 1:2].copy()) for r in (rows, held_out)]
    fit = ULA(l2=(1e-3,))(*sees, seed=1)
    model = LogisticRegression(C=1e3).fit(rows.values[:, 1:2], rows.labels)
    assert fit.details["proxy_accuracy"] == pytest.approx(model.score(rows.values[:, 1:2], rows.labels), abs=2e-3)
    plain = ULA(l2=(1e-3,))(rows, held_out, seed=1)
    assert plain.details["proxy_accuracy"] != fit.details["proxy_accuracy"]
    erm = LogitAdjustment(tau=(0.0,), l2=(1e-3,))(rows, held_out, seed=1)
    wga = [group_metrics(f.probe.predict(held_out.values), held_out.groups).wga.value for f in (erm, fit)]
    assert wga[1] > wga[0] + 0.1


def test_a_proxy_that_is_always_right_is_said() -> None:
    x = np.concatenate([np.full((30, 1), -5.0), np.full((30, 1), 5.0)]).astype(np.float32)
    rows = Features(x, Groups.from_arrays(np.repeat([0, 1], 30), np.arange(60) % 2))
    fit = ULA(l2=(L2,))(rows, rows, seed=1)
    assert any("always right" in note for note in fit.notes)
    assert (fit.probe.predict(x) == rows.labels).all()


def test_what_cannot_be_done_is_said() -> None:
    rows = ROWS[0]
    one = Features(rows.values, Groups.from_arrays(rows.labels))
    with pytest.raises(GroupError, match="logit adjustment by group needs group labels"):
        LogitAdjustment(by=BalanceBy.GROUP)(one, one, seed=1)
    lost = rows.with_groups(Groups(rows.labels, rows.groups.attributes, ("a", "b", "c"), ("p", "q")))
    with pytest.raises(GroupError, match="class c has no training row"):
        LogitAdjustment()(lost, lost, seed=1)
    with pytest.raises(ConfigError, match="tau"):
        LogitAdjustment(tau=())
    with pytest.raises(ConfigError, match="tau"):
        ULA(tau=(-1.0,))
