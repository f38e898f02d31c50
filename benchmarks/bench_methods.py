"""Methods on stored features, against the published implementations' way of doing it.

DFR: seven strengths on twenty group-balanced subsets, l1 with a penalized intercept; they loop over liblinear at its
default tolerance. The objective of liblinear's heads, as both define it, is held against ours, which must not be above.
AFR: every γ and λ from one ERM head, full-batch steps with a clipped gradient; they run torch once per candidate. The
heads after the last step are compared.
"""

import argparse
import warnings
from typing import Any

import numpy as np
import torch
from harness import Row, arguments, paired, report
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from workloads import backbone_like, group_balanced_rows

from grobust.methods import Features
from grobust.methods._batch import Standard, probabilities
from grobust.methods._descent import descend
from grobust.methods.afr import afr_weights
from grobust.methods.choose import erm_head
from grobust.methods.dfr import INVERSE_STRENGTHS
from grobust.probe import Head, ProbeFit, feature_moments, fit_probes

# Waterbirds' published grid.
GAMMA = tuple(np.linspace(4, 20, 33).tolist())
STRENGTHS = (0.0, 0.1, 0.2, 0.3)
LEARNING_RATE = 1e-2


def main() -> None:
    args = arguments(__doc__ or "")
    full = args.size == "full"
    rows = []
    for n, d in ((1_200, 2_048), (4_000, 768)) if full else ((80, 30),):
        name = f"DFR grid, 7 strengths x {20 if full else 2} subsets, {n} x {d}"
        if args.only in name:
            rows.append(_dfr(args, name, n, d))
    for n, d in ((959, 2_048), (5_000, 384)) if full else ((60, 20),):
        name = f"AFR grid, {33 if full else 3} gammas x {4 if full else 2} strengths, {n} x {d}"
        if args.only in name:
            rows.append(_afr(args, name, n, d))
    report("methods", rows, args)


def _dfr(args: argparse.Namespace, name: str, n: int, d: int) -> Row:
    full = args.size == "full"
    work = backbone_like(20_000 if full else 800, d, rectified=True)
    subsets = [group_balanced_rows(work.groups, n, seed=seed) for seed in range(20 if full else 2)]
    mean, scale = feature_moments(work.features)

    def ours() -> tuple[ProbeFit, ...]:
        masks = [np.bincount(rows, minlength=work.labels.size).astype(np.float64) for rows in subsets]
        heads = [
            Head(weights=mask, l2=0.0, l1=1 / (c * n), penalize_intercept=True)
            for mask in masks
            for c in INVERSE_STRENGTHS
        ]
        return fit_probes(work.features, work.labels, heads, n_classes=2, moments=(mean, scale))

    def theirs() -> list[tuple[NDArray[Any], float]]:
        scaled = ((work.features - mean) / scale).astype(np.float32)
        found = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for rows in subsets:
                for c in INVERSE_STRENGTHS:
                    model = LogisticRegression(C=c, l1_ratio=1.0, solver="liblinear").fit(
                        scaled[rows], work.labels[rows]
                    )
                    found.append((model.coef_[0], float(model.intercept_[0])))
        return found

    fits = ours()
    gap = max(fit.gap / fit.objective for fit in fits)
    assert gap <= 1e-6
    above = []
    for i, (weight, bias) in enumerate(theirs()):
        rows, c = subsets[i // len(INVERSE_STRENGTHS)], INVERSE_STRENGTHS[i % len(INVERSE_STRENGTHS)]
        x, signs = (work.features[rows] - mean) / scale, 2.0 * work.labels[rows] - 1
        mine = (fits[i].probe.weight[1] - fits[i].probe.weight[0]) * scale
        own_bias = fits[i].probe.bias[1] - fits[i].probe.bias[0] + mine @ (mean / scale)
        values = [
            np.logaddexp(0, -signs * (x @ w + b)).mean() + (np.abs(w).sum() + abs(b)) / (c * n)
            for w, b in ((mine, own_bias), (weight, bias))
        ]
        np.testing.assert_allclose(values[0], fits[i].objective, rtol=1e-5)
        above.append(values[1] / values[0] - 1)
    assert min(above) >= -1e-6
    answer = f"duality gap {gap:.0e}, theirs above ours by {np.median(above):.0e} (at most {max(above):.0e})"
    return paired(name, ours, "liblinear, one after another", theirs, answer=answer, pairs=3 if full else 1, warm=False)


def _afr(args: argparse.Namespace, name: str, n: int, d: int) -> Row:
    full = args.size == "full"
    work = backbone_like(5 * n, d, separation=0.3)
    everything = Features(work.features, work.groups)
    erm, rows = erm_head(everything.take(np.arange(n, 5 * n)), 1e-3).probe, everything.take(np.arange(n))
    p = probabilities(erm, rows)[rows.rows, rows.labels]
    gammas, strengths = (GAMMA, STRENGTHS) if full else (GAMMA[:3], STRENGTHS[:2])
    pairs = [(gamma, strength) for gamma in gammas for strength in strengths]
    steps = 500 if full else 20
    data = Standard.of(rows)
    x = data.x.astype(np.float32)
    weights = np.stack([afr_weights(p, rows.labels, 2, gamma) for gamma, _ in pairs])
    start = data.inner(erm)
    # One of so many candidates is timed for the peer, which runs them one after another.
    share = 12 if full else 1

    def ours() -> NDArray[Any]:
        *_, (_, found) = descend(
            x, rows.labels, weights, np.array([s for _, s in pairs]), start,
            learning_rate=LEARNING_RATE, steps=steps, every=steps,
        )  # fmt: skip
        return found

    def theirs() -> list[NDArray[Any]]:
        return [_torch(x, rows.labels, weights[i], pairs[i][1], start, steps) for i in range(0, len(pairs), share)]

    found = ours()
    error = max(float(np.abs(found[i * share] - other).max()) for i, other in enumerate(theirs()))
    assert error < 1e-3
    return paired(
        name, ours, "torch, a candidate at a time", theirs, answer=f"heads differ by at most {error:.0e}",
        pairs=3 if full else 1, scale=len(pairs) / len(range(0, len(pairs), share)), warm=False,
    )  # fmt: skip


def _torch(
    x: NDArray[Any], y: NDArray[Any], mu: NDArray[Any], strength: float, start: NDArray[Any], steps: int
) -> NDArray[Any]:
    features, target = torch.as_tensor(x[:, :-1]).contiguous(), torch.as_tensor(y)
    weights = torch.as_tensor(mu, dtype=torch.float32)
    w0, b0 = torch.as_tensor(start[:, :-1]).float(), torch.as_tensor(start[:, -1]).float()
    head = torch.nn.Linear(x.shape[1] - 1, start.shape[0])
    with torch.no_grad():
        head.weight.copy_(w0)
        head.bias.copy_(b0)
    optimizer = torch.optim.SGD(head.parameters(), lr=LEARNING_RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (torch.nn.functional.cross_entropy(head(features), target, reduction="none") * weights).sum()
        loss = loss + strength * (((head.weight - w0) ** 2).sum() + ((head.bias - b0) ** 2).sum())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    return np.column_stack([head.weight.detach().numpy(), head.bias.detach().numpy()])


if __name__ == "__main__":
    main()
