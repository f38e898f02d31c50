"""Trajectories against a plain torch loop on the same draws."""

import numpy as np
import pytest
import torch
from probe_problems import standardized
from torch import nn

from grobust.balancing import make_balancer
from grobust.data.synthetic import gaussian_groups
from grobust.errors import ConfigError, ShapeError
from grobust.groups import Groups
from grobust.metrics import group_metrics
from grobust.probe import SGD, Probe, TrainHead, train_heads
from grobust.settings import BalanceMethod, Match, Optimizer, Schedule, WeightNormalization


def problem(k: int, *, n: int = 300, d: int = 9, seed: int = 0) -> tuple[np.ndarray, Groups]:
    rng = np.random.default_rng(seed)
    y = np.sort(rng.choice(k, size=n, p=np.arange(1, k + 1) / sum(range(1, k + 1))))
    a = rng.integers(2, size=n)
    x = rng.standard_normal((n, d)) + np.eye(k, d)[y] * 1.5 + a[:, None] * 0.3 + 4
    return x.astype(np.float32), Groups.from_arrays(y, a)


def torch_loop(x: np.ndarray, groups: Groups, head: TrainHead, settings: SGD, k: int) -> tuple[nn.Linear, list[float]]:
    """Minibatch training as anybody would write it."""
    features, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(groups.labels)
    linear = nn.Linear(x.shape[1], k)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    sample = head.sample
    weight_of = torch.zeros(len(groups))
    weight_of[sample.indices] = torch.tensor(sample.loss_weight, dtype=torch.float32)
    optimizer: torch.optim.Optimizer
    if settings.optimizer is Optimizer.ADAMW:
        optimizer = torch.optim.AdamW(
            linear.parameters(), lr=head.learning_rate, betas=settings.betas, eps=settings.epsilon,
            weight_decay=head.weight_decay,
        )  # fmt: skip
    else:
        optimizer = torch.optim.SGD(
            linear.parameters(), lr=head.learning_rate, momentum=settings.momentum, weight_decay=head.weight_decay
        )
    size = settings.batch_size
    drawn, own_epoch, means = np.zeros(0, dtype=np.int64), 0, []
    steps = -(-(len(groups) if settings.match is Match.STEPS else len(sample)) // size)
    for epoch in range(settings.epochs):
        for group in optimizer.param_groups:
            factor = settings.schedule.factor(epoch, settings.epochs, step_size=2, gamma=0.3)
            group["lr"] = head.learning_rate * factor
        losses = []
        for _ in range(steps):
            if drawn.size == 0:
                drawn, own_epoch = sample.draw(own_epoch), own_epoch + 1
            batch, drawn = torch.tensor(drawn[:size]), drawn[size:]
            loss = nn.functional.cross_entropy(linear(features[batch]), labels[batch], reduction="none")
            weights = weight_of[batch]
            total = weights.sum() if sample.normalize is WeightNormalization.BATCH else len(batch)
            loss = (loss * weights).sum() / total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        means.append(float(np.mean(losses)))
    return linear, means


@pytest.mark.parametrize("match", list(Match))
@pytest.mark.parametrize("method", list(BalanceMethod))
@pytest.mark.parametrize(
    ("optimizer", "k", "schedule"),
    [(Optimizer.SGD, 2, Schedule.COSINE), (Optimizer.ADAMW, 2, Schedule.CONSTANT), (Optimizer.SGD, 3, Schedule.LINEAR),
     (Optimizer.ADAMW, 3, Schedule.COSINE), (Optimizer.SGD, 3, Schedule.STEP)],
)  # fmt: skip
def test_equals_a_torch_loop(
    optimizer: Optimizer, k: int, schedule: Schedule, method: BalanceMethod, match: Match
) -> None:
    x, groups = problem(k)
    normalize = WeightNormalization.NONE if k == 3 else WeightNormalization.BATCH
    sample = make_balancer(method, normalize=normalize).sample(groups, seed=4)
    settings = SGD(
        epochs=3, batch_size=32, optimizer=optimizer, momentum=0.9, schedule=schedule, step_size=2, gamma=0.3,
        match=match,
    )  # fmt: skip
    head = TrainHead(sample, learning_rate=0.02, weight_decay=0.01)
    found = train_heads(x, groups.labels, [head], n_classes=k, evaluate={"train": (x, groups)}, settings=settings)
    linear, losses = torch_loop(standardized(x), groups, head, settings, k)
    scale, mean = x.astype(np.float64).std(axis=0), x.astype(np.float64).mean(axis=0)
    (probe,) = found.probes
    np.testing.assert_allclose(probe.weight * scale, linear.weight.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(probe.bias + probe.weight @ mean, linear.bias.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(found.loss[:, 0], losses, rtol=1e-5)
    expected = group_metrics(probe.predict(x), groups)
    assert found.metrics("train", -1, 0).as_dict() == expected.as_dict()
    assert found.wga("train")[-1, 0] == expected.wga.value
    assert found.average("train")[-1, 0] == expected.average.value


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_without_standardization_features_are_as_they_are(dtype: type) -> None:
    """Not even centred: for minibatches that would be another path of training."""
    x, groups = problem(3)
    x = (x - 3).astype(dtype)
    head = TrainHead(make_balancer(BalanceMethod.UPSAMPLING).sample(groups, seed=4))
    settings = SGD(epochs=3)
    evaluate = {"train": (x, groups)}
    found = train_heads(x, groups.labels, [head], n_classes=3, evaluate=evaluate, settings=settings, standardize=False)
    linear, _ = torch_loop(x, groups, head, settings, 3)
    np.testing.assert_allclose(found.probes[0].weight, linear.weight.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(found.probes[0].bias, linear.bias.detach().numpy(), atol=1e-5)
    assert found.metrics("train", -1, 0).as_dict() == group_metrics(found.probes[0].predict(x), groups).as_dict()


def test_heads_together_equal_heads_alone() -> None:
    data = gaussian_groups((200, 30, 20, 90), 12, seed=1)
    x, groups = data.features, data.groups
    heads = [
        TrainHead(make_balancer(method).sample(groups, seed=seed), learning_rate=rate, name=f"{method}-{seed}")
        for method in BalanceMethod for seed, rate in ((1, 0.01), (2, 0.1))
    ]  # fmt: skip
    settings = SGD(epochs=4, momentum=0.9)
    evaluate = {"train": (x, groups), "test": (x[::2], groups.take(np.arange(0, len(groups), 2)))}
    together = train_heads(x, groups.labels, heads, n_classes=2, evaluate=evaluate, settings=settings)
    for k, head in enumerate(heads):
        alone = train_heads(x, groups.labels, [head], n_classes=2, evaluate=evaluate, settings=settings)
        np.testing.assert_array_equal(alone.probes[0].weight, together.probes[k].weight)
        for split in evaluate:
            np.testing.assert_array_equal(alone.correct[split][:, 0], together.correct[split][:, k])
    rows = [len(head.sample) for head in heads]
    np.testing.assert_array_equal(together.rows[-1], 4 * np.array(rows))
    np.testing.assert_array_equal(together.steps[-1], [4 * -(-m // 32) for m in rows])
    equal = train_heads(x, groups.labels, heads, n_classes=2, evaluate={}, settings=SGD(epochs=4, match=Match.STEPS))
    assert set(equal.steps[-1].tolist()) == {4 * -(-len(groups) // 32)}


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_dtypes_agree(dtype: type) -> None:
    x, groups = problem(2)
    narrow = x.astype(np.float16)
    sample = make_balancer(BalanceMethod.MIXTURE).sample(groups, seed=0)
    runs = [
        train_heads(part, groups.labels, [TrainHead(sample)], n_classes=2, evaluate={"all": (part, groups)})
        for part in (narrow.astype(np.float32), narrow.astype(dtype))
    ]
    np.testing.assert_allclose(runs[0].probes[0].weight, runs[1].probes[0].weight, atol=1e-5)
    np.testing.assert_array_equal(runs[0].correct["all"], runs[1].correct["all"])


def test_starts_from_a_head_that_is_not_opposite() -> None:
    x, groups = problem(2)
    rng = np.random.default_rng(0)
    start = Probe(rng.standard_normal((2, 9)), rng.standard_normal(2))
    sample = make_balancer(BalanceMethod.NONE).sample(groups, seed=0)
    still = TrainHead(sample, learning_rate=0.0, start=start)
    found = train_heads(x, groups.labels, [still], n_classes=2, evaluate={}, settings=SGD(epochs=1))
    np.testing.assert_allclose(found.probes[0].weight, start.weight, rtol=1e-6)
    np.testing.assert_allclose(found.probes[0].bias, start.bias, rtol=1e-5)
    opposite = Probe(start.weight - start.weight.mean(axis=0), start.bias - start.bias.mean())
    both = [TrainHead(sample, start=begin, weight_decay=0.0) for begin in (start, opposite)]
    runs = [train_heads(x, groups.labels, [head], n_classes=2, evaluate={}) for head in both]
    # The common part of the two columns changes no logit, so both move alike.
    moved = [run.probes[0].weight - head.start.weight for run, head in zip(runs, both, strict=True)]
    np.testing.assert_allclose(moved[0], moved[1], atol=1e-5)


def test_divergence_is_reported() -> None:
    x, groups = problem(2)
    sample = make_balancer(BalanceMethod.NONE).sample(groups, seed=0)
    heads = [TrainHead(sample, learning_rate=1e-2), TrainHead(sample, learning_rate=1e30)]
    found = train_heads(x, groups.labels, heads, n_classes=2, evaluate={"train": (x, groups)})
    assert found.diverged.tolist() == [False, True]


def test_bad_input_is_named() -> None:
    x, groups = problem(2)
    sample = make_balancer(BalanceMethod.NONE).sample(groups, seed=0)
    good = {"n_classes": 2, "evaluate": {}}
    with pytest.raises(ShapeError, match="do not fit"):
        train_heads(x[:-1], groups.labels, [TrainHead(sample)], **good)
    with pytest.raises(ShapeError, match=r"Head 0 \(a\): its sample is of 300 rows"):
        train_heads(x[:200], groups.labels[:200], [TrainHead(sample, name="a")], n_classes=3, evaluate={})
    with pytest.raises(ConfigError, match="learning_rate"):
        train_heads(x, groups.labels, [TrainHead(sample, learning_rate=float("nan"))], **good)
    with pytest.raises(ShapeError, match="of 'val'"):
        train_heads(x, groups.labels, [TrainHead(sample)], n_classes=2, evaluate={"val": (x[:5], groups)})
    with pytest.raises(ConfigError, match="n_classes"):
        train_heads(x, groups.labels, [TrainHead(sample)], n_classes=1, evaluate={})
    with pytest.raises(ShapeError, match="start has weights"):
        train_heads(x, groups.labels, [TrainHead(sample, start=Probe(np.zeros((3, 9)), np.zeros(3)))], **good)
