"""Minibatches and the torch sampler: the draws of the balancing module, whoever asks for them."""

import math
import pickle
from itertools import islice

import numpy as np
import pytest
from accelerate.data_loader import prepare_data_loader
from hypothesis import given
from hypothesis import strategies as st
from torch import arange
from torch.utils.data import DataLoader, TensorDataset

from grobust.balancing import BalancedSample, make_balancer
from grobust.errors import ConfigError
from grobust.finetune.sampler import BalancedSampler, minibatches
from grobust.groups import Groups
from grobust.settings import BalanceBy, BalanceMethod

METHODS = st.sampled_from(list(BalanceMethod))
COUNTS = st.lists(st.integers(1, 30), min_size=2, max_size=4)


def sample_of(counts: list[int], method: BalanceMethod = BalanceMethod.MIXTURE, seed: int = 3) -> BalancedSample:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    return make_balancer(method).sample(Groups.from_arrays(labels, np.zeros_like(labels)), seed=seed)


@given(COUNTS, METHODS, st.integers(0, 5), st.integers(0, 9), st.integers(1, 40))
def test_minibatches_are_the_draw_cut_into_pieces(
    counts: list[int], method: BalanceMethod, seed: int, epoch: int, batch_size: int
) -> None:
    sample = sample_of(counts, method, seed)
    batches = minibatches(sample, seed=seed, epoch=epoch, batch_size=batch_size)
    drawn = iter(sample.draw(epoch).tolist())
    expected = []
    while piece := list(islice(drawn, batch_size)):
        expected.append(piece)
    assert [batch.tolist() for batch in batches] == expected
    assert len(batches) == math.ceil(len(sample) / batch_size)


@given(COUNTS, METHODS, st.integers(0, 9))
def test_the_sampler_gives_the_same_rows(counts: list[int], method: BalanceMethod, epoch: int) -> None:
    sample = sample_of(counts, method)
    sampler = BalancedSampler(sample, seed=sample.seed)
    sampler.set_epoch(epoch)
    rows = list(sampler)
    assert rows == sample.draw(epoch).tolist()
    assert all(type(row) is int for row in rows)
    assert len(rows) == len(sampler) == len(sample)


def test_upsampled_draws_follow_the_stated_probabilities() -> None:
    """χ² over rows of 300 epochs, within five standard deviations of its mean."""
    sample = sample_of([40, 5, 12], BalanceMethod.UPSAMPLING)
    sampler = BalancedSampler(sample)
    observed = np.zeros(sample.n)
    for epoch in range(300):
        sampler.set_epoch(epoch)
        observed += np.bincount(list(sampler), minlength=sample.n)
    expected = sample.draw_probability * observed.sum()
    freedom = sample.n - 1
    assert abs(((observed - expected) ** 2 / expected).sum() - freedom) < 5 * math.sqrt(2 * freedom)


def test_another_seed_draws_otherwise_from_the_same_rows() -> None:
    sample = sample_of([60, 9], BalanceMethod.SUBSETTING)
    own, other = list(BalancedSampler(sample)), list(BalancedSampler(sample, seed=11))
    assert own != other
    assert sorted(own) == sorted(other) == sample.indices.tolist()
    whole = np.concatenate(minibatches(sample, seed=11, epoch=0, batch_size=4))
    assert whole.tolist() == other


def test_a_loader_sees_the_minibatches() -> None:
    sample = sample_of([33, 8])
    data = TensorDataset(arange(sample.n))
    sampler = BalancedSampler(sample)
    loader = DataLoader(data, batch_size=5, sampler=sampler)
    for epoch in (0, 2):
        sampler.set_epoch(epoch)
        seen = [batch[0].tolist() for batch in loader]
        assert seen == [batch.tolist() for batch in minibatches(sample, epoch=epoch, batch_size=5)]


@given(COUNTS, METHODS, st.integers(1, 4))
def test_processes_share_one_draw(counts: list[int], method: BalanceMethod, replicas: int) -> None:
    sample = sample_of(counts, method)
    shares = [list(BalancedSampler(sample, epoch=1, replicas=replicas, rank=rank)) for rank in range(replicas)]
    assert {len(share) for share in shares} == {math.ceil(len(sample) / replicas)}
    together = [row for round_ in zip(*shares, strict=True) for row in round_]
    drawn = sample.draw(1).tolist()
    assert together[: len(drawn)] == drawn
    assert together[len(drawn) :] == (drawn * replicas)[: len(together) - len(drawn)]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_accelerate_shares_out_the_batches_and_sets_the_epoch(processes: int) -> None:
    sample = sample_of([40, 16])
    assert len(sample) % (4 * processes) == 0
    shares = [
        prepare_data_loader(
            DataLoader(TensorDataset(arange(sample.n)), batch_size=4, sampler=BalancedSampler(sample)),
            num_processes=processes, process_index=process, put_on_device=False,
        )
        for process in range(processes)
    ]  # fmt: skip
    for epoch in range(3):
        batches = [[batch[0].tolist() for batch in share] for share in shares]
        together = [batch for round_ in zip(*batches, strict=True) for batch in round_]
        assert together == [batch.tolist() for batch in minibatches(sample, epoch=epoch, batch_size=4)]


def test_more_rows_than_torch_can_draw_from() -> None:
    """torch.multinomial, and so WeightedRandomSampler, refuses 2**24 + 1 rows."""
    n = 2**24 + 1
    sample = BalancedSample(
        indices=np.arange(n), cells=(np.arange(n) == n - 1).astype(np.int64), n=n, seed=0, replacement=True,
        cell_probability=np.array([0.5 / (n - 1), 0.5]), cell_weight=np.ones(2),
        method=BalanceMethod.UPSAMPLING, by=BalanceBy.CLASS,
    )  # fmt: skip
    sampler = BalancedSampler(sample)
    assert len(sampler) == n
    first = list(islice(sampler, 20_000))
    assert first == sample.draw(0)[:20_000].tolist()
    # The last row alone has half of the probability: 10,000 of the 20,000 draws, with sd 70.7.
    assert abs(first.count(n - 1) - 10_000) < 5 * 71


def test_pickled_samplers_go_on() -> None:
    sampler = BalancedSampler(sample_of([20, 6]), seed=5, epoch=4)
    again = pickle.loads(pickle.dumps(sampler))
    assert (list(again), again.epoch) == (list(sampler), 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"rank": 2, "replicas": 2}, "rank 2 of 2"), ({"epoch": -1}, "epoch must not"), ({"seed": -3}, "seed must not")],
)
def test_what_a_sampler_refuses(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BalancedSampler(sample_of([4, 3]), **settings)


def test_what_minibatches_refuse() -> None:
    with pytest.raises(ConfigError, match="batch_size must be at least 1, got 0"):
        minibatches(sample_of([4, 3]), epoch=0, batch_size=0)
    with pytest.raises(ConfigError, match="epoch must not be negative, got -1"):
        minibatches(sample_of([4, 3]), epoch=-1, batch_size=2)
