"""Group DRO and CVaR DRO against their epigraph forms (scipy), and the paper's exponentiated gradient."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted import losses, planted, three_classes
from scipy.optimize import minimize

from grobust.errors import ConfigError, GroupError
from grobust.groups import Groups
from grobust.methods import CVaRDRO, Features, GroupDRO
from grobust.methods._batch import Standard
from grobust.methods._risk import minimize_risk, not_converged, weighted_mean
from grobust.methods.cvar_dro import cvar

ROWS = planted(1, (60, 8, 10, 50), 1.5, 2.0)


def parts(flat: np.ndarray, k: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    w = flat[: k * width].reshape(k, width)
    return w[:, :-1], w[:, -1]


def standardized(rows: Features, columns: int) -> Features:
    x = rows.values[:, :columns].astype(np.float64)
    return Features((x - x.mean(axis=0)) / x.std(axis=0), rows.groups)


@pytest.mark.parametrize("adjustment", [0.0, 1.0])
@pytest.mark.parametrize("rows", [standardized(ROWS, 3), standardized(three_classes(150), 4)], ids=["two", "three"])
def test_group_dro_is_the_minimax(rows: Features, adjustment: float) -> None:
    """min t + penalty subject to L_g + C/√n_g ≤ t, by SLSQP."""
    k, width, l2 = rows.n_classes, rows.values.shape[1] + 1, 0.05
    groups = [np.flatnonzero(rows.groups.ids == g) for g in range(rows.groups.n_groups)]

    def worst(flat: np.ndarray) -> np.ndarray:
        w, b = parts(flat, k, width)
        own = losses(w, b, rows.values, rows.labels)
        return flat[-1] - np.array([own[g].mean() + adjustment / np.sqrt(g.size) for g in groups])

    def value(flat: np.ndarray) -> float:
        return float(flat[-1] + 0.5 * l2 * (parts(flat, k, width)[0] ** 2).sum())

    start = np.concatenate([np.zeros(k * width), [3.0]])
    found = minimize(value, start, constraints={"type": "ineq", "fun": worst}, method="SLSQP",
                     options={"maxiter": 500, "ftol": 1e-10})  # fmt: skip
    fit = GroupDRO(adjustment=adjustment, l2=(l2,))(rows, rows, seed=1)
    assert fit.details["objective"] == pytest.approx(found.fun, rel=2e-3)
    assert fit.details["objective"] >= found.fun - 1e-6
    assert 0 <= fit.details["gap"] < 2e-3
    assert fit.details["objective"] - fit.details["gap"] <= found.fun + 1e-6
    w = parts(found.x, k, width)[0]
    centred = fit.probe.weight - fit.probe.weight.mean(axis=0)
    np.testing.assert_allclose(centred, w - w.mean(axis=0), atol=0.02)


def test_the_papers_exponentiated_gradient_tends_to_the_same_value() -> None:
    rows, l2, eta = standardized(ROWS, 3), 0.1, 0.1
    x, y, ids = rows.values, rows.labels, rows.groups.ids
    w, b, q = np.zeros((2, 3)), np.zeros(2), np.full(4, 0.25)
    counts = rows.groups.counts
    averaged = np.zeros(4)
    steps = 4000
    for step in range(steps):
        own = losses(w, b, x, y)
        group_loss = np.array([own[ids == g].mean() for g in range(4)])
        q = q * np.exp(eta * group_loss)
        q /= q.sum()
        p = np.exp(x @ w.T + b)
        p /= p.sum(axis=1, keepdims=True)
        residual = (p - np.eye(2)[y]) * (q / counts)[ids][:, None]
        w, b = w - 0.5 * (residual.T @ x + l2 * w), b - 0.5 * residual.sum(axis=0)
        averaged += q * (step >= steps // 2) / (steps // 2)
    own = losses(w, b, x, y)
    value = max(own[ids == g].mean() for g in range(4)) + 0.5 * l2 * (w**2).sum()
    fit = GroupDRO(l2=(l2,))(rows, rows, seed=1)
    assert fit.details["objective"] <= value + 3e-4
    assert fit.details["objective"] == pytest.approx(value, rel=0.02)
    found = [fit.details[f"q[{name}]"] for name in rows.groups.names]
    np.testing.assert_allclose(found, averaged, atol=0.05)


@pytest.mark.parametrize("alpha", [0.2, 0.55, 1.0])
def test_cvar_dro_is_the_minimum(alpha: float) -> None:
    """min η + Σ ξ / (α n) + penalty subject to ξ ≥ ℓ − η, ξ ≥ 0, by SLSQP."""
    data = planted(3, (16, 4, 4, 16), 1.5, 2.0)
    rows, l2, n = standardized(data, 2), 0.1, len(data)

    def value(flat: np.ndarray) -> float:
        return float(flat[6] + flat[7:].sum() / (alpha * n) + 0.5 * l2 * (parts(flat, 2, 3)[0] ** 2).sum())

    def room(flat: np.ndarray) -> np.ndarray:
        w, b = parts(flat, 2, 3)
        return flat[7:] - losses(w, b, rows.values, rows.labels) + flat[6]

    start = np.concatenate([np.zeros(7), np.ones(n)])
    found = minimize(
        value, start, constraints={"type": "ineq", "fun": room}, bounds=[(None, None)] * 7 + [(0, None)] * n,
        method="SLSQP", options={"maxiter": 500, "ftol": 1e-10},
    )  # fmt: skip
    fit = CVaRDRO(alpha=(alpha,), l2=(l2,))(rows, rows, seed=1)
    data_x = Standard.of(rows)
    w = data_x.inner(fit.probe)
    own = cvar(losses(fit.probe.weight, fit.probe.bias, rows.values, rows.labels), alpha)
    reached = own + 0.5 * l2 * float((w[:, :-1] ** 2).sum())
    assert reached == pytest.approx(found.fun, rel=5e-3)
    assert reached >= found.fun - 1e-6


@given(st.lists(st.floats(0, 50), min_size=1, max_size=30), st.floats(0.01, 1))
def test_cvar_is_its_variational_form(values: list[float], alpha: float) -> None:
    own = np.array(values)
    kinks = [eta + np.maximum(own - eta, 0).sum() / (alpha * own.size) for eta in own]
    assert cvar(own, alpha) == pytest.approx(min(kinks), rel=1e-9, abs=1e-9)
    assert own.mean() - 1e-9 <= cvar(own, alpha) <= own.max() + 1e-9


def test_an_empty_group_is_left_out_and_said() -> None:
    rows = planted(4, (40, 0, 30, 40))
    fit = GroupDRO(l2=(0.1,))(rows, planted(2, (200, 200, 200, 200)), seed=1)
    assert any("'y0 / a1' has no training row" in note for note in fit.notes)
    assert fit.details["q[y0 / a1]"] == 0
    assert np.isfinite(fit.probe.weight).all()


def test_a_group_of_one_row() -> None:
    fit = GroupDRO(l2=(0.1,))(planted(4, (40, 1, 30, 40)), ROWS, seed=1)
    assert np.isfinite(fit.probe.weight).all()
    assert fit.details["gap"] < 1e-2


def test_what_cannot_be_done_is_said() -> None:
    one = Features(ROWS.values, Groups.from_arrays(ROWS.labels))
    with pytest.raises(GroupError, match="Group DRO needs group labels"):
        GroupDRO()(one, one, seed=1)
    with pytest.raises(ConfigError, match="adjustment"):
        GroupDRO(adjustment=-1.0)
    for bad in ((), (0.0,), (1.5,)):
        with pytest.raises(ConfigError, match="alpha"):
            CVaRDRO(alpha=bad)


def test_fits_that_stop_early_are_said() -> None:
    rows = standardized(ROWS, 3)
    fits = [
        minimize_risk(Standard.of(rows), rows.labels, 2, weighted_mean(np.ones(len(rows))), l2=1e-4, max_iter=steps)
        for steps in (1, 1000)
    ]
    assert not_converged(fits) == ("1 of 2 full-batch fits did not converge",)
    assert not_converged(fits[1:]) == ()
    assert fits[1].objective < fits[0].objective
