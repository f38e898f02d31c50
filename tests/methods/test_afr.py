"""AFR against the published loop: torch's autograd, one candidate at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import planted, three_classes, train, validation

from grobust.errors import ConfigError, GroupError
from grobust.groups import Groups
from grobust.methods import AFR, Features
from grobust.methods._batch import Standard
from grobust.methods._descent import descend
from grobust.methods.afr import afr_weights


def torch_loop(
    x: np.ndarray, y: np.ndarray, mu: np.ndarray, strength: float, start: np.ndarray, rate: float, steps: int
) -> np.ndarray:
    """Full-batch gradient descent from the ERM head, the gradient's norm clipped to 1."""
    head = torch.nn.Linear(x.shape[1] - 1, start.shape[0]).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor(start[:, :-1]))
        head.bias.copy_(torch.tensor(start[:, -1]))
    w0, b0 = head.weight.detach().clone(), head.bias.detach().clone()
    optimizer = torch.optim.SGD(head.parameters(), lr=rate)
    features, target, weights = torch.tensor(x[:, :-1]), torch.tensor(y), torch.tensor(mu)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (torch.nn.functional.cross_entropy(head(features), target, reduction="none") * weights).sum()
        loss = loss + strength * (((head.weight - w0) ** 2).sum() + ((head.bias - b0) ** 2).sum())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    return torch.cat([head.weight, head.bias[:, None]], dim=1).detach().numpy()


@pytest.mark.parametrize("rows", [planted(1, (200, 20, 20, 200)), three_classes(300)], ids=["two", "three"])
@pytest.mark.parametrize("rate", [1e-2, 2.0])
def test_descent_is_the_published_loop(rows: Features, rate: float) -> None:
    """With the large rate the clipping decides."""
    data = Standard.of(rows)
    k = rows.n_classes
    rng = np.random.default_rng(0)
    # Not opposite rows, as a network's own head has them.
    start = rng.standard_normal((k, data.x.shape[1]))
    mu = np.stack([afr_weights(rng.random(len(rows)), rows.labels, k, gamma) for gamma in (1.0, 10.0)])
    strengths = np.array([0.0, 0.3])
    looks = list(descend(data.x, rows.labels, mu, strengths, start, learning_rate=rate, steps=25, every=10))
    assert [step for step, _ in looks] == [10, 20, 25]
    for head in range(2):
        for step, found in looks:
            expected = torch_loop(data.x, rows.labels, mu[head], float(strengths[head]), start, rate, step)
            # torch adds 1e-6 to the norm that it clips by.
            np.testing.assert_allclose(found[head], expected, rtol=1e-5, atol=1e-6)


@given(st.lists(st.floats(0, 1), min_size=4, max_size=20), st.floats(0, 100))
def test_weights_are_what_is_written(p: list[float], gamma: float) -> None:
    probabilities, labels = np.array(p), np.arange(len(p)) % 2
    counts = [sum(1 for y in labels if y == k) for k in range(2)]
    plain = [np.exp(-gamma * (q - min(p))) / counts[y] for q, y in zip(p, labels.tolist(), strict=True)]
    found = afr_weights(probabilities, labels, 2, gamma)
    np.testing.assert_allclose(found, np.array(plain) / sum(plain), rtol=1e-9)
    assert found.sum() == pytest.approx(1)
    if gamma == 0:
        assert found[labels == 0].sum() == pytest.approx(0.5)


def test_the_choice_is_the_best_of_all_heads_and_steps() -> None:
    fit = AFR(gamma=(1.0, 8.0), strengths=(0.0, 0.1), steps=100, every=20)(train(), validation(), seed=1)
    scores = [tried.score for tried in fit.tried]
    assert len(scores) == 4
    chosen = next(tried for tried in fit.tried if tried.settings == fit.chosen)
    assert chosen.score == max(scores)
    assert fit.chosen["step"] in range(0, 101, 20)
    again = AFR(gamma=(1.0, 8.0), strengths=(0.0, 0.1), steps=int(fit.chosen["step"]) or 1, every=20)
    repeated = again(train(), validation(), seed=1)
    if fit.chosen["step"]:
        np.testing.assert_allclose(repeated.probe.weight, fit.probe.weight, rtol=1e-10)


def test_an_erm_head_that_is_always_right_is_said() -> None:
    """Separable rows: every probability is near 1, and the weights all but class-balanced."""
    x = np.concatenate([np.full((60, 1), -10.0), np.full((40, 1), 10.0)]).astype(np.float32)
    rows = Features(
        np.concatenate([x, np.random.default_rng(0).standard_normal((100, 2)).astype(np.float32)], axis=1),
        Groups.from_arrays(np.repeat([0, 1], [60, 40]), np.arange(100) % 2),
    )
    fit = AFR(erm_l2=1e-6)(rows, rows, seed=1)
    assert any("no hint of a minority" in note for note in fit.notes)
    assert any("AFR's choice is the ERM head" in note for note in fit.notes)
    assert fit.chosen["step"] == 0
    assert fit.details["effective_rows"] > 0.9 * 2 * 2 * fit.details["rows"] / 4 * 0.9


def test_what_cannot_be_done_is_said() -> None:
    for bad in ({"gamma": ()}, {"gamma": (-1.0,)}, {"erm_share": 1.0}, {"steps": 0}, {"learning_rate": 0.0}):
        with pytest.raises(ConfigError):
            AFR(**bad)
    rare = Features(np.eye(10, dtype=np.float32), Groups.from_arrays([1] + [0] * 9, np.arange(10) % 2))
    with pytest.raises(GroupError, match="class"):
        AFR()(rare, rare, seed=1)
    with pytest.raises(GroupError, match="no validation rows"):
        AFR()(train(), validation().take(np.zeros(0, dtype=np.int64)), seed=1)
