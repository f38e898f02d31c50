"""Minibatches and their shares: nothing lost, nothing twice, weights as the definition says."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grobust.balancing import make_balancer
from grobust.errors import ConfigError
from grobust.finetune._plan import Plan, Shares, plan_of
from grobust.finetune.choices import FinetuneOptimizer
from grobust.finetune.settings import FinetuneSettings
from grobust.groups import Groups
from grobust.settings import BalanceMethod, Match, WeightNormalization


def groups_of(counts: list[int]) -> Groups:
    return Groups.from_arrays(np.repeat(np.arange(len(counts)), counts), class_names=("a", "b", "c")[: len(counts)])


def a_plan(method: BalanceMethod, **changes: object) -> Plan:
    s = FinetuneSettings(**{"balance": method, "epochs": 3, "batch_size": 8, **changes})  # type: ignore[arg-type]
    return plan_of(s.balancer().sample(groups_of([31, 12]), seed=s.seed), s)


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=3),
    method=st.sampled_from(list(BalanceMethod)),
    normalize=st.sampled_from(list(WeightNormalization)),
    batch_size=st.integers(1, 9),
    processes=st.integers(1, 3),
    accumulate=st.integers(1, 3),
)
def test_shares_make_up_every_minibatch(
    counts: list[int], method: BalanceMethod, normalize: WeightNormalization, batch_size: int, processes: int,
    accumulate: int,
) -> None:  # fmt: skip
    groups = groups_of(counts)
    sample = make_balancer(method, normalize=normalize).sample(groups, seed=4)
    s = FinetuneSettings(
        balance=method, normalize=normalize, epochs=2, batch_size=batch_size, accumulate=min(accumulate, batch_size)
    )
    plan = plan_of(sample, s)
    drawn = np.concatenate([sample.draw(epoch) for epoch in range(2)])
    shares = [Shares(plan, 0, s.accumulate, rank, processes) for rank in range(processes)]
    largest = max(counts)
    seen: list[int] = []
    for step in range(plan.steps):
        expected = plan.batch(step)
        assert 1 <= expected.size <= batch_size
        parts, weights = [], []
        for own in shares:
            for piece in range(s.accumulate):
                share = own.weights(step, piece)
                rows = plan.rows_at(own[step * s.accumulate + piece])
                assert rows.size == share.size >= 1
                parts.append(rows[share > 0])
                weights.append(share[share > 0])
        np.testing.assert_array_equal(np.concatenate(parts), expected)
        w = np.array([largest / counts[y] if method is BalanceMethod.UPWEIGHTING else 1.0
                      for y in groups.labels[expected]])  # fmt: skip
        whole = w.sum() if normalize is WeightNormalization.BATCH or method is not BalanceMethod.UPWEIGHTING else w.size
        np.testing.assert_allclose(np.concatenate(weights), w / whole, rtol=1e-12)
        seen += expected.tolist()
        assert plan.rows_until(step + 1) == len(seen)
    np.testing.assert_array_equal(seen, drawn)


def test_an_epoch_of_equal_steps_has_those_of_all_rows() -> None:
    """43 rows in batches of 8: six steps, whatever the method; draws go on where the epoch ends."""
    steps = {method: a_plan(method, match=Match.STEPS) for method in BalanceMethod}
    assert {plan.per_epoch for plan in steps.values()} == {6}
    assert {plan.steps for plan in steps.values()} == {18}
    subset = steps[BalanceMethod.SUBSETTING]
    assert (subset.per_draw, subset.epochs) == (3, 3)
    # Two draws of the 24 kept rows in the first epoch: every row twice.
    first = np.concatenate([subset.batch(step) for step in range(6)])
    assert np.unique(first, return_counts=True)[1].tolist() == [2] * 24
    assert a_plan(BalanceMethod.SUBSETTING).per_epoch == 3


def test_the_last_epoch_can_be_cut_short() -> None:
    plan = a_plan(BalanceMethod.NONE, max_steps=8)
    assert (plan.steps, plan.per_epoch, plan.epochs) == (8, 6, 2)
    # 43 rows in the first draw, whose last minibatch has 3, and two batches of the second.
    assert plan.rows_until(8) == 43 + 16


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"lr": float("nan")}, "lr must be a positive number"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"clip_norm": 0.0}, "clip_norm must be a positive number"),
        ({"label_smoothing": 1.0}, "label_smoothing must be at least 0 and below 1"),
        ({"batch_size": 2, "accumulate": 3}, "cuts 2 rows into 3 pieces"),
        ({"optimizer": "lion"}, "optimizer must be one of adamw, adam, sgd; got 'lion'"),
        ({"precision": "bf16"}, "precision must be one of float32, bfloat16, float16"),
        ({"tracker": "paper"}, "tensorboard, wandb, mlflow"),
        ({"balance": BalanceMethod.MIXTURE, "ratio": 0.5}, "ratio must be a number of at least 1"),
    ],
)
def test_settings_check_themselves(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FinetuneSettings(**changes)


def test_choices_are_taken_by_name() -> None:
    named = FinetuneSettings(optimizer="sgd", balance="mixture", match="steps")  # type: ignore[arg-type]
    assert named == FinetuneSettings(
        optimizer=FinetuneOptimizer.SGD, balance=BalanceMethod.MIXTURE, match=Match.STEPS
    )  # fmt: skip
    assert named.optimizer is FinetuneOptimizer.SGD
