"""A grid of heads against scikit-learn fitting them one by one; objectives are compared first."""

import warnings

import numpy as np
from harness import arguments, paired, report
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from grobust.arrays import to_device
from grobust.data.synthetic import gaussian_groups
from grobust.probe import Head, fit_probes


def main() -> None:
    args = arguments(__doc__ or "")
    full = args.size == "full"
    counts, dim = ((14_000, 1000, 600, 4400), 384) if full else ((300, 40, 30, 130), 16)
    data = gaussian_groups(counts, dim, seed=0)
    x, y, n = data.features, data.groups.labels, len(data.groups)
    per_class = 1 / np.bincount(y)[y]
    heads = [Head(weights=w, l2=float(l2)) for w in (None, per_class) for l2 in np.logspace(-4, 0, 8)]
    on_device, labels = to_device(x, args.device), to_device(y, args.device)
    spread = x.std(axis=0, dtype=np.float64)
    xs = (x - x.mean(axis=0, dtype=np.float64)) / spread

    def ours() -> list[float]:
        return [fit.objective for fit in fit_probes(on_device, labels, heads, n_classes=2)]

    def peer() -> list[float]:
        objectives = []
        for head in heads:
            weights = np.ones(n) if head.weights is None else head.weights
            model = LogisticRegression(C=2 / (head.l2 * weights.sum()), tol=1e-5, max_iter=2000)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.fit(xs, y, sample_weight=weights)
            z = xs @ model.coef_[0] + model.intercept_[0]
            loss = logsumexp(np.stack([np.zeros(n), z], axis=1), axis=1) - y * z
            objectives.append(float(weights @ loss / weights.sum() + head.l2 / 4 * (model.coef_**2).sum()))
        return objectives

    excess = [a / b - 1 for a, b in zip(ours(), peer(), strict=True)]
    assert max(excess) < 1e-6, excess
    answer = f"our objective / theirs - 1: at most {max(excess):.1e}"
    row = paired(
        f"{len(heads)} heads, {n} x {dim}", ours, "scikit-learn lbfgs, one by one", peer, answer=answer, pairs=3
    )
    report("probe", [row], args)


if __name__ == "__main__":
    main()
