"""Coverage of intervals for ρ at equal sizes, and size and power of its size-matched test, on known populations.

Every row is one population and pair of group sizes. Its answer holds, over runs, the coverage of five 95% intervals,
the share of one-sided p ≤ 0.05 and the mean of the bias-corrected logarithm. The truth is the ratio of expected log λ1
at the minority's size, computed by simulation, and beside it the ratio of the populations' λ1. Intervals are estimate ±
t · √(V_min + V_maj). They differ in V_min: *majority* takes what the majority's subsets show at that size, *half* and
*fifth* are delete-d jackknives of the minority with a half and a fifth left out, *one* leaves out single rows, *chosen*
is the larger of *majority* and *fifth*, which `ratio_inference` uses. The times are those of one test with interval,
against a loop over its replicates.
"""

import zlib

import numpy as np
from harness import Row, arguments, report, seconds
from numpy.typing import NDArray
from scipy.stats import t as student

from grobust.spectrum import ratio_inference
from grobust.spectrum._subsets import RowSet, draw_subsets

FloatArray = NDArray[np.float64]
RATIO = 2.0
INTERVALS = ("majority", "half", "fifth", "one", "chosen")


def main() -> None:
    args = arguments(__doc__ or "")
    full = args.size == "full"
    dims, sizes, runs = ((50, 768), ((56, 1057), (184, 3498)), 200) if full else ((12,), ((20, 90),), 3)
    rows = []
    for m, n in sizes:
        for d in dims:
            for kind in ("flat", "power 0.5", "power 1", "power 1.4", "spiked") if full else ("power 1",):
                for truth in ("equal", "twice", "first axis twice"):
                    name = f"{m} and {n} of {d}, {kind}, {truth}"
                    if args.only in name and not (kind == "flat" and truth == "first axis twice"):
                        rows.append(_cell(name, m, n, d, kind, truth, runs))
    report("spectrum_coverage", rows, args)


def spreads(kind: str, d: int) -> FloatArray:
    """Standard deviations of the axes; ``power a`` has eigenvalues i^−a, ``spiked`` 20 and 10 above ones."""
    ranks = np.arange(1, d + 1, dtype=np.float64)
    if kind == "spiked":
        return np.sqrt(np.where(ranks == 1, 20.0, np.where(ranks == 2, 10.0, 1.0)))
    return ranks ** -(0.0 if kind == "flat" else float(kind.split()[1]) / 2)


def _cell(name: str, m: int, n: int, d: int, kind: str, truth: str, runs: int) -> Row:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    large = spreads(kind, d)
    small = large * np.sqrt(RATIO) if truth == "twice" else large.copy()
    if truth == "first axis twice":
        small[0] *= np.sqrt(RATIO)
    population = 2 * np.log(small.max() / large.max())
    at_size = population if truth != "first axis twice" else _expected(rng, small, m) - _expected(rng, large, m)
    found = [_run(rng, small, large, m, n) for _ in range(runs)]
    covered = {k: np.mean([abs(est - at_size) <= half[k] for est, half, _ in found]) for k in INTERVALS}
    of_population = np.mean([abs(est - population) <= half["chosen"] for est, half, _ in found])
    width = np.median([2 * half["chosen"] for _, half, _ in found])
    rejected = np.mean([p <= 0.05 for *_, p in found])
    x, y = _draw(rng, small, m), _draw(rng, large, n)
    ours = seconds(lambda: ratio_inference(x, y, null=200, interval=200))
    loop = 400 * seconds(lambda: np.linalg.eigvalsh(np.cov(x.T.astype(np.float64), ddof=0)))
    answer = (
        f"truth {at_size:.2f} (population {population:.2f}), estimate {np.mean([e for e, *_ in found]):.2f}; covered "
        + ", ".join(f"{k} {v:.3f}" for k, v in covered.items())
        + f"; chosen covers the population's {of_population:.3f}, width {width:.2f}; "
        f"p ≤ 0.05: {rejected:.3f}; {runs} runs"
    )
    return Row(name, ours, "numpy.cov + eigvalsh, once, times 400", loop, loop / ours, runs, answer)


def _draw(rng: np.random.Generator, sds: FloatArray, n: int) -> NDArray[np.float32]:
    return rng.standard_normal((n, sds.size), dtype=np.float32) * sds.astype(np.float32)


def _expected(rng: np.random.Generator, sds: FloatArray, n: int) -> float:
    return float(np.mean([np.log(RowSet.of(_draw(rng, sds, n)).prepared().whole()) for _ in range(300)]))


def _run(
    rng: np.random.Generator, small: FloatArray, large: FloatArray, m: int, n: int
) -> tuple[float, dict[str, float], float]:
    """Estimate of the log ratio, half widths, and the one-sided p-value."""
    x, y = _draw(rng, small, m), _draw(rng, large, n)
    seed = int(rng.integers(2**31))
    found = ratio_inference(x, y, null=200, interval=200, seed=seed)
    half_chosen = np.log(found.high / found.low) / 2
    rows = RowSet.of(x).prepared()
    estimate = np.log(found.high * found.low) / 2
    # The null's spread was widened; back to that of subsets.
    shown = float(np.log(found.null).var(ddof=1)) * (n - m) / (n + m) / (1 - m / n)
    quantile = float(student.ppf(0.975, m - 1))

    def half(variance: float) -> float:
        return quantile * float(np.sqrt(variance + shown * m / n))

    def deleted(count: int) -> float:
        kept = np.log(rows.largest(draw_subsets(rng, m, m - count, 200)))
        return float(kept.var(ddof=1)) * (m - count) / count

    one = np.log(rows.largest(np.arange(m)[:, None], complement=True))
    halves = {
        "majority": half(shown),
        "half": half(deleted(m // 2)),
        "fifth": half(deleted(round(0.2 * m))),
        "one": half((m - 1) * float(one.var())),
        "chosen": half_chosen,
    }
    return estimate, halves, found.p_value


if __name__ == "__main__":
    main()
