"""Balancing millions of rows: against the official row-by-row loop and torch's WeightedRandomSampler."""

import numpy as np
import torch
from harness import arguments, paired, report
from torch.utils.data import WeightedRandomSampler

from grobust.balancing import make_balancer
from grobust.groups import Groups
from grobust.settings import BalanceMethod


def naive_subset(labels: np.ndarray, limit: int, seed: int) -> list[int]:
    """The official walk over a permutation."""
    kept, seen = [], [0, 0]
    for row in np.random.default_rng(seed).permutation(len(labels)).tolist():
        if seen[labels[row]] < limit:
            seen[labels[row]] += 1
            kept.append(row)
    return sorted(kept)


def main() -> None:
    args = arguments(__doc__ or "")
    n = 10**7 if args.size == "full" else 10**5
    rng = np.random.default_rng(0)
    labels, attributes = (rng.random(n) < 0.2).astype(np.int64), (rng.random(n) < 0.3).astype(np.int64)
    plain_labels, smallest = labels.tolist(), int(labels.sum())

    def sample(method: BalanceMethod) -> None:
        make_balancer(method).sample(Groups.from_arrays(labels, attributes), seed=1)

    ours = make_balancer(BalanceMethod.SUBSETTING).sample(Groups.from_arrays(labels, attributes), seed=1)
    assert ours.indices.tolist() == naive_subset(plain_labels, smallest, 1)
    rows = [
        paired(f"{method}, {n:.0e} rows: sample", lambda m=method: sample(m), "official loop (subset)",
               lambda: naive_subset(plain_labels, smallest, 1), answer="same rows as the loop", pairs=3)
        for method in BalanceMethod
    ]  # fmt: skip
    upsampled = make_balancer(BalanceMethod.UPSAMPLING).sample(Groups.from_arrays(labels, attributes), seed=1)
    share = labels[upsampled.draw(0)].mean()
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(n)
    weights = torch.from_numpy(upsampled.draw_probability)
    rows.append(
        paired(f"upsampling, {n:.0e} rows: one epoch's draws", lambda: upsampled.draw(1), "WeightedRandomSampler",
               lambda: list(WeightedRandomSampler(weights, n)), answer="class shares of the draws", pairs=3)
    )  # fmt: skip
    report("balancing", rows, args)


if __name__ == "__main__":
    main()
