"""The probe engine on a GPU: grids of heads, many classes, trajectories, and the passes against the memory's rate.

Answers are checked first: objectives of sixteen heads against lower bounds from a float64 solution by the general array
code, evaluated here; trajectories against the host's. Times are of float16 features that are on the device already. At
the tiny size the same code runs on whatever device is given, so that it cannot rot; numbers are worth taking at full
size on a GPU only.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from harness import Row, arguments, paired, report, seconds
from numpy.typing import NDArray
from torch_baselines import torch_heads, torch_trajectory
from workloads import backbone_like, grid_weights, group_balanced_rows

from grobust.arrays import array_namespace, to_device, to_numpy
from grobust.balancing import make_balancer
from grobust.data.synthetic import gaussian_groups
from grobust.probe import LBFGS, SGD, Head, Probe, ProbeFit, TrainHead, fit_probes, train_heads
from grobust.settings import BalanceMethod

STRENGTHS = np.logspace(-6, -1, 16)
EXACT = 1e-6
PIECE = 16_384
NO_GPU = "no GPU: run with --device cuda"


def main() -> None:
    args = arguments(__doc__ or "")
    if args.device == "cpu":
        # Small products: torch's threads would mostly wait for each other.
        torch.set_num_threads(1)
    rows: list[Row] = []
    skipped: dict[str, str] = {}
    parts: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
        "grid 50,000 x 768, K = 128": lambda args: _grid(args, 50_000, 768, 128),
        "grid 162,770 x 768, K = 128": lambda args: _grid(args, 162_770, 768, 128),
        "1,281,167 x 2,048, 1,000 classes": _classes,
        "subsets 532 x 2,048, K = 32": _subsets,
        "trajectories 4,795 x 2,048": _trajectories,
        "grid 162,770 x 768, K = 32, streamed": _streamed,
        "product + fused stage against the copy rate": _rates,
    }
    for name, part in parts.items():
        if args.only not in name:
            continue
        if args.device == "cpu" and (args.size == "full" or part in (_rates, _streamed)):
            skipped[name] = NO_GPU
        elif args.size == "tiny" and part is not _streamed and "162,770" in name:
            skipped[name] = "the same as the grid above at this size"
        else:
            rows += part(args)
    try:
        import cuml  # noqa: F401
    except ImportError:
        skipped["cuML"] = "not installed"
    report("probe_gpu", rows, args, skipped=skipped)


def _synchronize(device: str) -> None:
    if device == "cuda":
        import cupy

        cupy.cuda.runtime.deviceSynchronize()


def _grid(args: argparse.Namespace, n: int, d: int, count: int) -> list[Row]:
    """All heads in one solve; the peers are one head after another, and cuML where it is."""
    full = args.size == "full"
    n, d, count = (n, d, count) if full else (300, 16, 4)
    work = backbone_like(n, d)
    host = work.features.astype(np.float16)
    weights = grid_weights(work.groups, -(-count // STRENGTHS.size))
    heads = [Head(weights=weights[i // STRENGTHS.size], l2=float(STRENGTHS[i % STRENGTHS.size])) for i in range(count)]
    features, labels = to_device(host, args.device), to_device(work.labels, args.device)

    def ours() -> tuple[ProbeFit, ...]:
        fits = fit_probes(features, labels, heads, n_classes=2, standardize=False)
        _synchronize(args.device)
        return fits

    fits = ours()
    places = np.unique(np.linspace(0, count - 1, 16).astype(int)).tolist()
    worst = _excess(features, work.labels, [heads[i] for i in places], [fits[i].probe for i in places], 2)
    assert worst <= EXACT, worst
    name, rows = f"{n} x {d}, K = {count}", []
    sample = [heads[i] for i in np.linspace(0, count - 1, 4 if full else 1).astype(int)]
    peers: dict[str, Callable[[Sequence[Head]], list[Probe]]] = {
        "torch L-BFGS, one by one": lambda chosen: torch_heads(host, work.labels, chosen, 2, args.device),
    }
    if full and args.device == "cuda" and (cuml := _cuml_heads(host, work.labels)) is not None:
        peers["cuML, one by one"] = cuml
    for peer, solve in peers.items():
        theirs = _excess(features, work.labels, sample, [_there(p, args.device) for p in solve(sample)], 2)
        rows.append(
            paired(name, ours, peer, lambda solve=solve: solve(sample), scale=count / len(sample),
                   answer=f"excess {worst:.0e}, theirs {theirs:.0e}", pairs=5 if full else 1)
        )  # fmt: skip
    return rows


def _classes(args: argparse.Namespace) -> list[Row]:
    """ImageNet's size; features are drawn on the device."""
    full = args.size == "full"
    n, d, k = (1_281_167, 2048, 1000) if full else (900, 24, 5)
    rng = np.random.default_rng(0)
    labels = rng.integers(k, size=n)
    centres = rng.standard_normal((k, d)).astype(np.float32) * 0.12
    if args.device == "cuda":
        import cupy

        features, moved = cupy.empty((n, d), dtype=cupy.float16), cupy.asarray(centres)
        for lo in range(0, n, PIECE):
            hi = min(lo + PIECE, n)
            noise = cupy.random.standard_normal((hi - lo, d), dtype=cupy.float32)
            features[lo:hi] = (noise + moved[cupy.asarray(labels[lo:hi])]).astype(cupy.float16)
    else:
        features = (rng.standard_normal((n, d)) + centres[labels]).astype(np.float16)
    there, head = to_device(labels, args.device), Head(l2=1e-4)

    def ours() -> ProbeFit:
        (fit,) = fit_probes(features, there, [head], n_classes=k, standardize=False, max_bytes=24 << 30)
        _synchronize(args.device)
        return fit

    fit = ours()
    objective, gap = _certificate(features, labels, head, fit.probe)
    assert gap <= 50 * EXACT * objective, (gap, objective)
    assert abs(objective - fit.objective) <= EXACT * objective

    def peer() -> None:
        # Products alone, as torch does them: two per iteration of ours.
        x = torch.as_tensor(features, device=args.device)
        w = torch.zeros((d, k), dtype=x.dtype, device=x.device)
        for _ in range(fit.n_iter):
            for lo in range(0, n, PIECE):
                part = x[lo : lo + PIECE]
                part.T @ (part @ w)
        if args.device == "cuda":
            torch.cuda.synchronize()

    answer = f"bound on the excess {gap / objective:.0e}, {fit.n_iter} iterations"
    return [paired(f"{n} x {d}, {k} classes", ours, "one float16 product each way per iteration", peer, answer=answer,
                   pairs=3)]  # fmt: skip


def _subsets(args: argparse.Namespace) -> list[Row]:
    """Group-balanced subsets of fewer rows than features: each is solved in the n × n form."""
    full = args.size == "full"
    n, d, kept, count = (4795, 2048, 532, 32) if full else (400, 120, 40, 4)
    work = backbone_like(n, d)
    host = work.features
    heads = []
    for seed in range(count):
        weights = np.zeros(n)
        weights[group_balanced_rows(work.groups, kept, seed=seed)] = 1
        heads.append(Head(weights=weights, l2=float(STRENGTHS[8 + seed % 8])))
    features, labels = to_device(host, args.device), to_device(work.labels, args.device)

    def ours() -> tuple[ProbeFit, ...]:
        fits = fit_probes(features, labels, heads, n_classes=2, standardize=False)
        _synchronize(args.device)
        return fits

    places = [0, count // 2, count - 1]
    probes = ours()
    worst = _excess(features, work.labels, [heads[i] for i in places], [probes[i].probe for i in places], 2)
    assert worst <= EXACT, worst
    sample = heads[:: max(1, count // 4)]
    return [
        paired(f"subsets {kept} x {d}, K = {count}", ours, "torch L-BFGS on all rows, one by one",
               lambda: torch_heads(host, work.labels, sample, 2, args.device), scale=count / len(sample),
               answer=f"excess {worst:.0e}", pairs=5 if full else 1)
    ]  # fmt: skip


def _streamed(args: argparse.Namespace) -> list[Row]:
    """Features on the host that stream in every pass, against the same on the device."""
    from grobust.device import DeviceStream

    full = args.size == "full"
    n, d, count = (162_770, 768, 32) if full else (20_000, 32, 4)
    work = backbone_like(n, d)
    host = work.features.astype(np.float16)
    weights = grid_weights(work.groups, 2)
    heads = [Head(weights=weights[i % 2], l2=float(STRENGTHS[i % STRENGTHS.size])) for i in range(count)]
    there, labels, stream = to_device(host, args.device), to_device(work.labels, args.device), DeviceStream(host)

    def solve(features: Any) -> tuple[ProbeFit, ...]:
        fits = fit_probes(features, labels, heads, n_classes=2, standardize=False, max_bytes=64 << 20)
        _synchronize(args.device)
        return fits

    off = max(abs(a.objective / b.objective - 1) for a, b in zip(solve(stream), solve(there), strict=True))
    assert off <= 2 * EXACT, off
    return [
        paired(f"grid {n} x {d}, K = {count}, streamed", lambda: solve(stream), "the same on the device",
               lambda: solve(there), answer=f"objectives within {off:.0e}", pairs=3)
    ]  # fmt: skip


def _trajectories(args: argparse.Namespace) -> list[Row]:
    """The paper's last-layer grid: five methods, three seeds, all groups after every epoch."""
    full = args.size == "full"
    counts, d, epochs = ((3498, 184, 56, 1057), 2048, 100) if full else ((60, 12, 8, 30), 16, 2)
    data = gaussian_groups(counts, d, seed=0)
    x, groups = data.features.astype(np.float16), data.groups
    test = gaussian_groups(tuple(2 * c for c in counts), d, seed=1)
    heads = [TrainHead(make_balancer(m).sample(groups, seed=s), name=f"{m}") for m in BalanceMethod for s in range(3)]

    def run(device: str, epochs: int) -> Any:
        evaluate = {
            "train": (there[device][0], groups),
            "test": (there[device][1], test.groups),
        }
        settings = SGD(epochs=epochs, momentum=0.9)
        return train_heads(there[device][0], groups.labels, heads, n_classes=2, evaluate=evaluate, settings=settings)

    arrays = (x, test.features.astype(np.float16))
    there = {name: tuple(to_device(array, name) for array in arrays) for name in {"cpu", args.device}}
    found, expected = run(args.device, 2), run("cpu", 2)
    off = max(int(np.abs(found.correct[split] - expected.correct[split]).max()) for split in expected.correct)
    assert off <= 3, off
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-3)
    one = heads[0]

    def peer() -> None:
        torch_trajectory(x.astype(np.float32), groups, one.sample, epochs, args.device)

    return [
        paired(f"{len(heads)} heads, {len(groups)} x {d}, {epochs} epochs", lambda: run(args.device, epochs),
               "torch loop on the device, one by one", peer, scale=len(heads),
               answer=f"rows counted differently from the host: at most {off}", pairs=3 if full else 1)
    ]  # fmt: skip


def _rates(args: argparse.Namespace) -> list[Row]:
    """One pass (product, fused stage, product back) against its bytes at the rate of a copy."""
    import cupy

    from grobust.device._cuda import cuda
    from grobust.probe._cuda_passes import CudaPasses
    from grobust.probe._design import design
    from grobust.probe._weights import weight_table
    from grobust.threads import threads

    n, d = (162_770, 768) if args.size == "full" else (5000, 64)
    work = backbone_like(n, d)
    features = cupy.asarray(work.features.astype(np.float16))
    buffers = cupy.empty((2, 1 << 28 if args.size == "full" else 1 << 20), dtype=cupy.float32)

    def timed(call: Callable[[], Any]) -> float:
        call()
        _synchronize("cuda")
        return min(seconds(lambda: (call(), _synchronize("cuda"))) for _ in range(20))

    rate = 2 * buffers[0].nbytes / timed(lambda: cupy.copyto(buffers[1], buffers[0]))
    rows = []
    with threads() as pool:
        data = design(features, standardize=False, threads=pool, block_rows=PIECE)
        for heads in (1, 32, 128):
            weights = grid_weights(work.groups, max(1, heads // 16))
            table = weight_table(
                [weights[i * len(weights) // heads] for i in range(heads)], [""] * heads, work.labels, 2
            )
            direction = cupy.zeros((heads, 1, d + 1))
            for block in (n, 65_536, 32_768, 16_384):
                passes = CudaPasses(cuda(), data, cupy.asarray(work.labels), table, 1, rows=min(block, n))
                spent = timed(lambda passes=passes, direction=direction: passes.advance(direction))
                # The rows twice; logits, direction and two products read, two written, residuals written and read.
                moved = n * (2 * 2 * d + heads * (16 + 8 + 4 + 4))
                rows.append(
                    Row(f"pass {n} x {d}, K = {heads}, {min(block, n)} a block", spent, "its bytes at the copy rate",
                        moved / rate, moved / rate / spent, 20, f"copy at {rate / 1e12:.2f} TB/s; tests check passes")
                )  # fmt: skip
    return rows


def _there(probe: Probe, device: str) -> Probe:
    name = "cuda" if device == "cuda" else "cpu"
    return Probe(to_device(to_numpy(probe.weight), name), to_device(to_numpy(probe.bias), name))


def _excess(features: Any, labels: NDArray[Any], heads: Sequence[Head], probes: Sequence[Probe], k: int) -> float:
    """Largest relative distance of objectives from lower bounds."""
    xp = array_namespace(features)
    exact = fit_probes(
        xp.astype(features, xp.float64), xp.asarray(labels), heads, n_classes=k, standardize=False,
        solver=LBFGS(rtol=1e-9, gtol=1e-9, max_iter=3000),
    )  # fmt: skip
    worst = 0.0
    for head, probe, reference in zip(heads, probes, exact, strict=True):
        best, gap = _certificate(features, labels, head, reference.probe)
        assert gap <= 2e-7 * best, "the reference is not exact enough"
        found, _ = _certificate(features, labels, head, probe)
        worst = max(worst, found / (best - gap) - 1)
    return worst


def _certificate(features: Any, labels: NDArray[Any], head: Head, probe: Probe) -> tuple[float, float]:
    """A head's objective, in float64 and written down anew, and how far it can be above the minimum: the objective,
    minimized over the intercept, is λ-strongly convex."""
    xp = array_namespace(features)
    weights = np.ones(labels.size) if head.weights is None else head.weights
    share, y = xp.asarray(weights / weights.sum()), xp.asarray(labels)
    loss, slope, ones = 0.0, xp.zeros(probe.weight.shape), xp.zeros(probe.bias.shape)
    for lo in range(0, labels.size, PIECE):
        rows = xp.astype(features[lo : lo + PIECE], xp.float64)
        logits = rows @ probe.weight.T + probe.bias
        logits -= xp.max(logits, axis=1, keepdims=True)
        exponentials = xp.exp(logits)
        total = xp.sum(exponentials, axis=1)
        at = (xp.arange(rows.shape[0]), y[lo : lo + PIECE])
        loss += float(share[lo : lo + PIECE] @ (xp.log(total) - logits[at]))
        residual = exponentials / total[:, None]
        residual[at] -= 1
        residual *= share[lo : lo + PIECE, None]
        slope += residual.T @ rows
        ones += xp.sum(residual, axis=0)
    slope += head.l2 * probe.weight
    # The intercept's gradient is nearly 0: to first order it moves the weights' by as much.
    norm = float(xp.sqrt(xp.sum(slope**2))) + 10 * float(xp.max(xp.abs(ones)))
    return loss + 0.5 * head.l2 * float(xp.sum(probe.weight**2)), norm**2 / (2 * head.l2)


def _cuml_heads(features: NDArray[Any], labels: NDArray[Any]) -> Callable[[Sequence[Head]], list[Probe]] | None:
    """cuML's `LogisticRegression`, one head after another, or None where it is not installed."""
    try:
        from cuml.linear_model import LogisticRegression
    except ImportError:
        return None
    wide = to_device(features.astype(np.float32), "cuda")
    there = to_device(labels.astype(np.float32), "cuda")

    def solve(heads: Sequence[Head]) -> list[Probe]:
        found = []
        for head in heads:
            weights = np.ones(labels.size) if head.weights is None else head.weights * labels.size
            model = LogisticRegression(C=2 / (head.l2 * weights.sum()), tol=1e-6, max_iter=5000)
            model.fit(wide, there, sample_weight=to_device(weights.astype(np.float32), "cuda"))
            w, b = to_numpy(model.coef_).astype(np.float64).reshape(1, -1), to_numpy(model.intercept_).reshape(1)
            found.append(Probe(np.concatenate([-w / 2, w / 2]), np.concatenate([-b / 2, b / 2])))
        return found

    return solve


if __name__ == "__main__":
    main()
