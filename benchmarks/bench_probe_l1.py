"""l1 heads: DFR's path of strengths on many group-balanced subsets, against scikit-learn's liblinear.

DFR (Kirichenko et al. 2023) fits 7 strengths on 20 group-balanced subsets of standardized features. liblinear penalizes
the intercept and stops at its default tolerance, as DFR's code has it: its objective, as we define it, is held against
ours, which must not be above it.
"""

import argparse

import numpy as np
from baselines import objectives, sklearn_heads
from harness import Row, arguments, paired, report
from joblib import Parallel, delayed
from numpy.typing import NDArray
from workloads import backbone_like, group_balanced_rows

from grobust.probe import Head, ProbeFit, fit_probes

# Inverse strengths of the published recipe, of the sum of losses.
INVERSE_STRENGTHS = (1.0, 0.7, 0.3, 0.1, 0.07, 0.03, 0.01)


def main() -> None:
    args = arguments(__doc__ or "")
    full = args.size == "full"
    d, subsets = (2_048, 20) if full else (40, 3)
    rows = []
    for n in (532, 1_200) if full else (80, 120):
        name = f"l1 path, 7 strengths x {subsets} subsets, {n} x {d}"
        if args.only in name:
            rows.append(_row(args, name, n, d, subsets))
    report("probe_l1", rows, args)


def _row(args: argparse.Namespace, name: str, n: int, d: int, subsets: int) -> Row:
    full = args.size == "full"
    work = backbone_like(20_000 if full else 1_200, d, rectified=True)
    features = work.features / work.features.std(axis=0)
    chosen = [group_balanced_rows(work.groups, n, seed=seed) for seed in range(subsets)]
    heads = [
        Head(weights=weights, l2=0.0, l1=1 / (c * n))
        for weights in (_mask(rows, work.labels.size) for rows in chosen)
        for c in INVERSE_STRENGTHS
    ]

    def ours() -> tuple[ProbeFit, ...]:
        return fit_probes(features, work.labels, heads, n_classes=2, standardize=False)

    def peer() -> list[list[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
        return list(Parallel(n_jobs=2)(delayed(_liblinear)(features[rows], work.labels[rows], n) for rows in chosen))

    fits = ours()
    assert all(fit.gap <= 1e-6 * fit.objective for fit in fits)
    found = objectives(features, work.labels, heads, [(fit.probe.weight, fit.probe.bias) for fit in fits])
    np.testing.assert_allclose(found, [fit.objective for fit in fits], rtol=1e-5)
    theirs = objectives(features, work.labels, heads, [pair for path in peer() for pair in path])
    assert (found <= theirs * (1 + 1e-6)).all()
    gap = max(fit.gap / fit.objective for fit in fits)
    answer = f"duality gap {gap:.0e}, theirs above ours by {_range(theirs / found - 1)}"
    return paired(name, ours, "joblib (2) + liblinear", peer, answer=answer, pairs=5 if full else 1, warm=False)


def _liblinear(
    features: NDArray[np.float32], labels: NDArray[np.int64], n: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    heads = [Head(l2=0.0, l1=1 / (c * n)) for c in INVERSE_STRENGTHS]
    return sklearn_heads(features, labels, heads, solver="liblinear", tol=1e-4, max_iter=100)


def _mask(rows: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    weights = np.zeros(n)
    weights[rows] = 1 / rows.size
    return weights


def _range(values: NDArray[np.float64]) -> str:
    return f"{np.median(values):.0e} (at most {values.max():.0e})"


if __name__ == "__main__":
    main()
