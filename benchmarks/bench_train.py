"""Trajectories: heads trained on minibatches, all methods and seeds in one call, against a torch loop per head.

The peer is the loop of the paper's code on stored features: a `DataLoader` over single rows, a linear layer, SGD, and
the accuracy of every group after each epoch. It trains one epoch of one seed of each method; its time is multiplied to
the whole grid. Heads of one method and seed are compared with it after that epoch first.
"""

import numpy as np
import torch
from harness import arguments, paired, report
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler
from workloads import Workload, backbone_like

from grobust.balancing import BalancedSample, make_balancer
from grobust.probe import SGD, TrainHead, Trajectories, train_heads
from grobust.settings import BalanceMethod

BATCH, RATE, DECAY = 32, 1e-2, 1e-4


def main() -> None:
    args = arguments(__doc__ or "")
    full = args.size == "full"
    (n, d), epochs, seeds = ((50_000, 768), 20, 3) if full else ((600, 24), 2, 2)
    name = f"5 methods x {seeds} seeds x {epochs} epochs, {n} x {d}"
    if args.only not in name:
        report("train", [], args)
        return
    work = backbone_like(n + n // 5, d)
    train, test = _split(work, slice(0, n)), _split(work, slice(n, None))
    samples = [make_balancer(m).sample(train.groups, seed=s) for m in BalanceMethod for s in range(seeds)]
    heads = [TrainHead(sample, learning_rate=RATE, weight_decay=DECAY) for sample in samples]
    evaluate = {"train": (train.features, train.groups), "test": (test.features, test.groups)}

    def ours() -> Trajectories:
        return train_heads(
            train.features, train.labels, heads, n_classes=2, evaluate=evaluate, settings=SGD(epochs=epochs),
            standardize=False,
        )  # fmt: skip

    def peer() -> list[np.ndarray]:
        return [_torch_epoch(sample, train, test) for sample in samples[::seeds]]

    one = train_heads(
        train.features, train.labels, heads[:1], n_classes=2, evaluate={}, settings=SGD(epochs=1), standardize=False
    )
    with_our_draws = _torch_epoch(samples[0], train, test, order=samples[0].draw(0))
    difference = float(np.abs(np.asarray(one.probes[0].weight) - with_our_draws).max())
    assert difference < 1e-5, difference
    rows = [paired(
        name, ours, "torch DataLoader loop, per head", peer,
        answer=f"weights with the same draws within {difference:.0e}", pairs=3 if full else 1, scale=seeds * epochs,
    )]  # fmt: skip
    report("train", rows, args)


def _split(work: Workload, rows: slice) -> Workload:
    return Workload(np.ascontiguousarray(work.features[rows]), work.groups.take(np.arange(len(work.groups))[rows]))


def _torch_epoch(
    sample: BalancedSample, train: Workload, test: Workload, order: np.ndarray | None = None
) -> np.ndarray:
    """One epoch and its evaluation; (k, d) weights. With `order` the rows are taken in that order."""
    features, labels = torch.from_numpy(train.features), torch.from_numpy(train.labels)
    kept = torch.from_numpy(sample.indices)
    data = TensorDataset(features[kept], labels[kept]) if len(sample) < len(labels) else TensorDataset(features, labels)
    if order is not None:
        loader = DataLoader(data, batch_size=BATCH, sampler=order.tolist())
    elif sample.replacement:
        weights = torch.from_numpy(sample.draw_probability)
        loader = DataLoader(data, batch_size=BATCH, sampler=WeightedRandomSampler(weights, len(sample)))
    else:
        loader = DataLoader(data, batch_size=BATCH, shuffle=True)
    class_weights = None
    if sample.method is BalanceMethod.UPWEIGHTING:
        class_weights = torch.from_numpy(sample.cell_weight).float()
    linear = nn.Linear(features.shape[1], 2)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.SGD(linear.parameters(), lr=RATE, weight_decay=DECAY)
    for x, y in loader:
        loss = nn.functional.cross_entropy(linear(x), y, weight=class_weights)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for part in (train, test):
            right = linear(torch.from_numpy(part.features)).argmax(1).numpy() == part.labels
            np.bincount(part.groups.ids, weights=right, minlength=part.groups.n_groups)
    return linear.weight.detach().numpy()


if __name__ == "__main__":
    main()
