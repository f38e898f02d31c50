"""The probe engine on a GPU against the same calls on the host; without one, on kernels run by the shim."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cupy import XP, pretend
from probe_problems import problem, row_weights

from grobust.arrays import on_cuda, to_device, to_numpy
from grobust.balancing import make_balancer
from grobust.device._cuda import cuda
from grobust.errors import ConfigError
from grobust.groups import Groups
from grobust.probe import (
    SGD,
    DeviceStream,
    FitStatus,
    Head,
    ProbeFit,
    TrainHead,
    _columns,
    _cuda_passes,
    fit_probe,
    fit_probes,
    train_heads,
)
from grobust.probe._columns import Operand
from grobust.probe._cuda_passes import CudaPasses
from grobust.probe._design import design
from grobust.settings import BalanceMethod, Optimizer
from grobust.threads import threads


@dataclass(frozen=True)
class Gpu:
    """Where arrays go, how streams move, and how much smaller problems are where the GPU is none."""

    put: Callable[[np.ndarray], Any]
    stream: Callable[[Any], DeviceStream]
    shrink: int


@pytest.fixture(params=["shim", pytest.param("cuda", marks=pytest.mark.gpu)])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpu]:
    if request.param == "cuda":
        yield Gpu(partial(to_device, device="cuda"), DeviceStream, 1)
        return
    pretend(monkeypatch, request.getfixturevalue("shim_folder"))
    for module in (_columns, _cuda_passes):
        monkeypatch.setattr(module, "MOST_ROW_BLOCKS", 64)
    yield Gpu(XP.asarray, partial(DeviceStream, smallest=256), 8)
    cuda.cache_clear()


def grid(y: np.ndarray) -> list[Head]:
    weights = [None, row_weights("class", y), row_weights("subset", y), np.random.default_rng(5).random(y.size)]
    return [Head(weights=w, l2=l2) for w in weights for l2 in (1e-5, 1e-3, 1e-1)]


def same(gpu: Gpu, found: tuple[ProbeFit, ...], expected: tuple[ProbeFit, ...], x: np.ndarray) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.status is FitStatus.CONVERGED, a.message
        assert on_cuda(a.probe.weight)
        assert a.objective == pytest.approx(b.objective, rel=2e-6)
        assert a.n_iter <= 2 * b.n_iter + 5
        logits = to_numpy(a.probe.logits(gpu.put(x[:200].astype(np.float64))))
        np.testing.assert_allclose(logits, b.probe.logits(x[:200].astype(np.float64)), atol=0.05)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("n", "d", "k"), [(20_000, 64, 2), (20_011, 67, 3), (6000, 40, 12), (9000, 24, 150)])
def test_fits_equal_the_hosts(gpu: Gpu, n: int, d: int, k: int, dtype: type) -> None:
    if gpu.shrink > 1 and k > 100:
        pytest.skip("takes long on the shim; many classes have a test of their own there")
    # In every size the rows are more than are solved in float64.
    x, y = problem(max(n // gpu.shrink, 70_000 // d), d, k)
    x = (x - 10).astype(dtype)
    heads = grid(y)[:: 1 if k < 10 and gpu.shrink == 1 else 5]
    expected = fit_probes(x, y, heads, n_classes=k)
    on_device = gpu.put(x)
    same(gpu, fit_probes(on_device, gpu.put(y), heads, n_classes=k), expected, x)
    # Host labels, and blocks and turns as small as they get.
    small = fit_probes(on_device, y, heads, n_classes=k, max_bytes=1 << 22)
    same(gpu, small, expected, x)
    np.testing.assert_array_equal(to_numpy(on_device), x)


def test_the_fused_passes_are_what_runs(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    advance = CudaPasses.advance
    monkeypatch.setattr(CudaPasses, "advance", lambda self, direction: calls.append(1) or advance(self, direction))
    x, y = problem(18_000 // gpu.shrink, 40, 2)
    fit_probe(gpu.put(x), y, n_classes=2)
    assert len(calls) > 2


def test_halves_far_from_their_mean_are_centred(gpu: Gpu) -> None:
    x, y = problem(18_000 // gpu.shrink, 40, 2)
    x = (x * 1.0 + 40).astype(np.float16)
    heads = grid(y)[::2]
    same(gpu, fit_probes(gpu.put(x), y, heads, n_classes=2), fit_probes(x, y, heads, n_classes=2), x)


def test_warm_starts_and_collinear_features(gpu: Gpu) -> None:
    x, y = problem(20_000 // gpu.shrink, 60, 3)
    cold = fit_probe(gpu.put(x), y, n_classes=3, l2=1e-3)
    warm = fit_probe(gpu.put(x), y, n_classes=3, l2=1e-3, start=cold.probe)
    assert warm.n_iter < cold.n_iter / 2
    rng = np.random.default_rng(0)
    n, basis = 9000 // gpu.shrink, rng.standard_normal((4, 300))
    x = (rng.standard_normal((n, 4)) * [1e4, 1, 1, 1e-2] @ basis).astype(np.float32)
    y = (x[:, 0] + 1e3 * rng.standard_normal(n) > 0).astype(np.int64)
    fits = fit_probes(gpu.put(x), y, [Head(l2=l2) for l2 in (1e-5, 1e-3, 1e-1)], n_classes=2)
    assert all(fit.status is FitStatus.CONVERGED for fit in fits), [fit.message for fit in fits]


def test_inverses_survive_a_matrix_that_is_not_definite(gpu: Gpu) -> None:
    v = np.random.default_rng(0).standard_normal((50, 1)).astype(np.float32)
    matrix = v @ v.T - 1e-3 * np.eye(50, dtype=np.float32)
    (first, second) = to_numpy(cuda().inverses(gpu.put(matrix), [1.0, 1e-9], 1e-7, 12)).astype(np.float64)
    np.testing.assert_allclose(first @ (matrix + np.eye(50)), np.eye(50), atol=1e-3)
    assert np.isfinite(second).all()
    assert np.linalg.eigvalsh((second + second.T) / 2).min() > 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_products_are_as_exact_as_single_precision(gpu: Gpu, dtype: type) -> None:
    """No TF32, no single float16: within a few roundings of float32 at the sizes that matter."""
    rng = np.random.default_rng(0)
    rows = 30_000 // gpu.shrink
    x = rng.standard_normal((rows, 768)).astype(dtype)
    w = rng.standard_normal((16, 769)) / 30
    device = cuda()
    with threads() as pool:
        data = design(gpu.put(x), standardize=False, threads=pool, block_rows=4096)
    operand = Operand(device, data)
    assert operand.split == (dtype == np.float16)
    folded, block = operand.fold(gpu.put(w)), operand.block(0, rows)
    fresh = operand.forward(block, folded)
    found = to_numpy(fresh.high[:16, :rows]).astype(np.float64)
    if operand.split:
        found += to_numpy(fresh.low[:, :rows]) / 2048
    found *= to_numpy(folded.unscale)[:, None]
    exact = w[:, :-1] @ x.astype(np.float64).T
    assert np.abs(found - exact).max() < 6e-6 * np.abs(exact).max()


@pytest.mark.parametrize("k", [2, 3])
def test_sparse_heads_equal_the_hosts(gpu: Gpu, k: int) -> None:
    x, y = problem(3000, 40, k)
    heads = [Head(l1=l1, l2=l2, weights=row_weights("class", y)) for l1, l2 in ((0.03, 0.0), (0.005, 0.01))]
    expected = fit_probes(x, y, heads, n_classes=k)
    for budget in (1 << 30, 8 * 40 * 700):
        same(gpu, fit_probes(gpu.put(x), y, heads, n_classes=k, max_bytes=budget), expected, x)


@pytest.mark.parametrize("n", [120, 290])
def test_subsets_of_fewer_rows_than_features_equal_the_hosts(gpu: Gpu, n: int) -> None:
    """The n × n form, and beside it a head on all rows."""
    x, y = problem(1300, 500, 2)
    rng = np.random.default_rng(n)
    masks = np.zeros((3, y.size))
    for mask in masks:
        mask[rng.choice(y.size, n, replace=False)] = 1
    heads = [Head(weights=mask, l2=l2) for mask in masks for l2 in (1e-3, 1e-1)] + [Head(l2=1e-2)]
    expected = fit_probes(x, y, heads, n_classes=2)
    same(gpu, fit_probes(gpu.put(x), gpu.put(y), heads, n_classes=2), expected, x)
    # Streamed, the rows of a subset are gathered on the host and sent.
    same(gpu, fit_probes(gpu.stream(x), y, heads[:2], n_classes=2), expected[:2], x)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_streams_equal_features_on_the_device(gpu: Gpu, tmp_path: Path, dtype: type) -> None:
    n = 60_000 // gpu.shrink
    x, y = problem(n, 32, 3)
    x = (x - 10).astype(dtype)
    x.tofile(tmp_path / "x.bin")
    mapped = np.memmap(tmp_path / "x.bin", dtype=dtype, mode="r", shape=x.shape)
    heads = grid(y)[::3]
    expected = fit_probes(x, y, heads, n_classes=3)
    stream = gpu.stream(mapped)
    # Of two and a half megabytes a pass takes many blocks.
    same(gpu, fit_probes(stream, y, heads, n_classes=3, max_bytes=(5 << 20) // gpu.shrink), expected, x)
    for lo in range(0, n, 7000):
        np.testing.assert_array_equal(to_numpy(stream[lo : lo + 7000, :]), x[lo : lo + 7000])


@pytest.mark.parametrize("optimizer", list(Optimizer))
@pytest.mark.parametrize(("k", "d", "dtype"), [(2, 64, np.float16), (3, 50, np.float32), (2, 700, np.float64)])
def test_trajectories_equal_the_hosts(gpu: Gpu, k: int, d: int, dtype: type, optimizer: Optimizer) -> None:
    rng, n = np.random.default_rng(k), 3200 // gpu.shrink
    y, a = np.arange(n) % k, rng.integers(2, size=n)
    groups = Groups.from_arrays(y, a)
    x = (rng.standard_normal((n, d)) + 0.4 * np.eye(k, d)[y] + 4).astype(np.float16).astype(dtype)
    heads = [TrainHead(make_balancer(method).sample(groups, seed=seed)) for method in BalanceMethod for seed in (0, 1)]
    settings = SGD(epochs=3, momentum=0.9, optimizer=optimizer)

    def run(features: Any) -> Any:
        evaluate = {"train": (features, groups), "some": (features[::3], groups.take(np.arange(0, n, 3)))}
        return train_heads(features, groups.labels, heads, n_classes=k, evaluate=evaluate, settings=settings)

    found, expected = run(gpu.put(x)), run(x)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-4)
    np.testing.assert_array_equal(found.steps, expected.steps)
    for split in ("train", "some"):
        # A logit within rounding of a tie may fall to either side.
        assert np.abs(found.correct[split] - expected.correct[split]).max() <= 2
    for one, other in zip(found.probes, expected.probes, strict=True):
        np.testing.assert_allclose(to_numpy(one.weight), other.weight, atol=2e-4)


def test_minibatches_do_not_come_from_a_stream(gpu: Gpu) -> None:
    x, y = problem(3000, 40, 2)
    sample = make_balancer(BalanceMethod.NONE).sample(Groups.from_arrays(y, y), seed=0)
    with pytest.raises(ConfigError, match="fit on the GPU"):
        train_heads(gpu.stream(x), y, [TrainHead(sample)], n_classes=2, evaluate={})
