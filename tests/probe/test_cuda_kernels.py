"""The CUDA sources: compiled by NVRTC for the GPUs, and run on the CPU against the code they replace."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from probe_problems import learnt_by_heart, problem, row_weights, standardized
from shim_device import ShimDevice

from grobust.arrays import to_numpy
from grobust.balancing import make_balancer
from grobust.device._cuda import OPTIONS, source
from grobust.device._interface import KERNELS, NULL, Device, backward, forward, square
from grobust.groups import Groups
from grobust.probe import LBFGS, SGD, Head, Probe, TrainHead, _cuda_passes, _numba, fit_probes
from grobust.probe._columns import Operand, padded
from grobust.probe._cuda_moments import mean_and_scale
from grobust.probe._cuda_passes import CudaPasses
from grobust.probe._cuda_solver import dots, shared_product, two_loop
from grobust.probe._cuda_train import DeviceTrainer
from grobust.probe._design import Design, design
from grobust.probe._objective import effective_l2
from grobust.probe._passes import ArrayPasses, Evaluation
from grobust.probe._precondition import references, shared_inverse
from grobust.probe._solver import _dot, _Pair, _pair, _State, _two_loop, at_zero, solve
from grobust.probe._train import _Draws, _Host, _initial
from grobust.probe._weights import weight_table
from grobust.settings import BalanceMethod, Optimizer, WeightNormalization
from grobust.threads import one_thread, threads


def moved(device: Device, data: Design) -> Design:
    """The same on the device."""
    parts = {name: getattr(data, name) for name in ("features", "mean", "scale", "shift")}
    return replace(data, **{name: None if part is None else device.xp.asarray(part) for name, part in parts.items()})


def compile_cuda(code: str, architecture: str) -> str:
    """The log of NVRTC; '' where all is well."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings, which torch's CUDA wheels bring")
    status, program = nvrtc.nvrtcCreateProgram(code.encode(), b"kernels.cu", 0, [], [])
    assert status == 0
    options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={architecture}")]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    size = nvrtc.nvrtcGetProgramLogSize(program)[1]
    # NVRTC writes into the bytes, so they must not be the interpreter's own single byte, which all code shares.
    log = b" " * (size + 1)
    nvrtc.nvrtcGetProgramLog(program, log)
    text = log.decode().strip("\0 \n")
    if status != 0:
        return text or str(status)
    size = nvrtc.nvrtcGetCUBINSize(program)[1]
    cubin = b" " * (size + 1)
    nvrtc.nvrtcGetCUBIN(program, cubin)
    missing = [kernel for kernels in KERNELS.values() for kernel in kernels
               if f"void {kernel}(" in code and kernel.encode() not in cubin]  # fmt: skip
    return text + " ".join(missing)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", list(KERNELS))
def test_sources_compile(name: str, architecture: str) -> None:
    assert compile_cuda(source(name), architecture) == ""


def test_a_mistake_does_not_compile() -> None:
    assert "error" in compile_cuda(source("passes").replace("double total = 0;", "double total = 0", 1), "sm_90")


@pytest.mark.parametrize("kind", ["half", "single", "centred"])
@pytest.mark.parametrize(
    ("k", "heads", "n"), [(2, 1, 700), (2, 5, 1500), (3, 3, 1300), (11, 2, 900), (40, 2, 500), (300, 1, 350)]
)
def test_passes_equal_the_general_code(
    device: Device, kind: str, k: int, heads: int, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if heads > 1:
        # Blocks that take several pieces of rows.
        monkeypatch.setattr(_cuda_passes, "MOST_TILES", 2)
        monkeypatch.setattr(_cuda_passes, "MOST_BLOCKS", 2)
    x, y = problem(n, 21, k, seed=heads)
    x = x - 10 + {"half": 0.0, "single": 1.0, "centred": 30.0}[kind]
    x = x.astype(np.float16 if kind != "single" else np.float32)
    rng = np.random.default_rng(k)
    # One dense weighting, and coded ones, one of them shared.
    given = [rng.random(n), row_weights("class", y), None, row_weights("class", y)][: max(heads, 1)]
    given = (given * 2)[:heads]
    table = weight_table(given, [str(i) for i in range(heads)], y, k)
    columns = 1 if k == 2 else k
    with threads() as pool:
        data = design(x, standardize=True, threads=pool, block_rows=256, small=0)
        wide = design(x.astype(np.float64), standardize=True, threads=pool, block_rows=256)
        assert data.near == (kind != "centred")
        rows = n if k == 3 else 512
        xp = device.xp
        passes = CudaPasses(device, moved(device, data), xp.asarray(y), table, columns, rows=rows)
        reference = ArrayPasses(wide, y, table, columns, 256)
        scale = 0.5 if k < 100 else 0.2
        same(at_zero(passes), reference.advance(np.zeros((len(table.weighting), columns, 22))))
        for turn in range(2):
            w = rng.standard_normal((len(table.weighting), columns, 22)) * scale
            same(passes.advance(xp.asarray(w)), reference.advance(w))
            chosen = np.arange(len(table.weighting))[::-2].copy()
            step = rng.random(chosen.size)
            for gradient in (False, True):
                found = passes.evaluate(chosen, step, gradient=gradient)
                same(found, reference.evaluate(chosen, step, gradient=gradient))
            step = rng.random(len(table.weighting))
            passes.take(step)
            reference.take(step)
            np.testing.assert_allclose(to_numpy(passes.curvature(3)), reference.curvature(3), rtol=1e-4, atol=1e-9)
            if turn == 0 and len(table.weighting) > 2:
                kept = np.array([0, 2])
                passes.keep(kept)
                reference.keep(kept)
                table = table.take(kept)


@pytest.mark.parametrize("k", [2, 3, 40])
def test_rows_learnt_by_heart_keep_their_digits(device: Device, k: int) -> None:
    """As on the host: residuals of probabilities near 1 are not what is left of 1 − p."""
    x, y, w = learnt_by_heart(k)
    xp, columns = device.xp, w.shape[1]
    table = weight_table([np.random.default_rng(k).random(y.size)], ["a"], y, k)
    with threads() as pool:
        data = design(x, standardize=False, threads=pool, block_rows=256, small=0)
        wide = design(x.astype(np.float64), standardize=False, threads=pool, block_rows=256)
        passes = CudaPasses(device, moved(device, data), xp.asarray(y), table, columns, rows=512)
        w = wide.centred(w)
        found, expected = passes.advance(xp.asarray(w)), ArrayPasses(wide, y, table, columns, 256).advance(w)
    np.testing.assert_allclose(to_numpy(found.loss), expected.loss, rtol=2e-5)
    np.testing.assert_allclose(to_numpy(found.slope), expected.slope, rtol=2e-5)
    largest = np.abs(expected.gradient).max()
    np.testing.assert_allclose(to_numpy(found.gradient), expected.gradient, rtol=1e-4, atol=1e-5 * largest)


def same(found: Evaluation, expected: Evaluation) -> None:
    np.testing.assert_allclose(to_numpy(found.loss), expected.loss, rtol=5e-6)
    np.testing.assert_allclose(to_numpy(found.slope), expected.slope, rtol=1e-5, atol=1e-5)
    assert (found.gradient is None) == (expected.gradient is None)
    if found.gradient is not None:
        np.testing.assert_allclose(to_numpy(found.gradient), expected.gradient, atol=5e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("rows", "chunk"), [(64, 16), (70, 16), (5, 16), (16, 16)])
def test_products_lie_where_they_are_said_to(device: Device, dtype: type, rows: int, chunk: int) -> None:
    """Leading dimensions, distances and transpositions, by cuBLAS's definition of them."""
    rng, xp = np.random.default_rng(0), device.xp
    x, w = rng.standard_normal((rows, 7)).astype(dtype), rng.standard_normal((3, 7)).astype(dtype)
    on_device, out = xp.asarray(x), xp.full((3, 80), 7, dtype=np.float32)
    forward(device, on_device, xp.asarray(w), out)
    expected = w.astype(np.float64) @ x.T.astype(np.float64)
    np.testing.assert_allclose(to_numpy(out[:, :rows]), expected, atol=1e-5)
    assert (out[:, rows:] == 7).all()
    forward(device, on_device, xp.asarray(w), out, alpha=0.5, beta=1.0)
    np.testing.assert_allclose(to_numpy(out[:, :rows]), 1.5 * expected, atol=1e-5)
    residual = np.full((3, 80), np.nan, dtype=dtype)
    residual[:, :rows] = rng.standard_normal((3, rows))
    parts = to_numpy(backward(device, xp.asarray(residual), on_device, chunk))
    assert parts.shape == (-(-rows // chunk), 3, 7)
    for i, part in enumerate(parts):
        at = slice(i * chunk, min(rows, (i + 1) * chunk))
        np.testing.assert_allclose(part, residual[:, at].astype(float) @ x[at].astype(float), atol=1e-5)
    moments = xp.ones((7, 7), dtype=np.float32)
    square(device, on_device, moments)
    np.testing.assert_allclose(to_numpy(moments), 1 + x.T.astype(float) @ x.astype(float), atol=1e-4)


def test_two_halves_are_as_exact_as_single_precision(device: Device) -> None:
    """The claim of `_columns`: float16 features times a small factor in two float16, summed in float32."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((2000, 256)) * np.arange(1, 257) ** -0.5).astype(np.float16)
    w = np.concatenate(
        [rng.standard_normal((4, 256)) * 10.0 ** np.array([[0], [-6], [4], [-3]]), np.zeros((4, 1))], axis=1
    )
    data = Design(x, np.zeros(256), np.ones(256), np.float32, np.zeros(256, np.float32), near=True)
    operand, xp = Operand(device, moved(device, data)), device.xp
    folded = operand.fold(xp.asarray(w))
    exact = w[:, :-1] @ x.astype(np.float64).T
    single = w[:, :-1].astype(np.float32) @ x.astype(np.float32).T

    def error(found: np.ndarray) -> float:
        return float((np.abs(found - exact).max(axis=1) / np.abs(exact).max(axis=1)).max())

    fresh, unscale = operand.forward(xp.asarray(x), folded), to_numpy(folded.unscale)[:, None].astype(np.float64)
    high = to_numpy(fresh.high[:4, :2000]) * unscale
    both = high + to_numpy(fresh.low[:, :2000]) / 2048 * unscale
    assert error(both) < 1.5e-6
    assert error(both) < 3 * error(single)
    assert error(high) > 50 * error(both)


@pytest.mark.parametrize(("columns", "groups"), [(1, 4), (3, 6), (12, 9000)])
@pytest.mark.parametrize("half", [False, True])
def test_counts_equal_the_hosts(device: Device, columns: int, groups: int, half: bool) -> None:
    rng = np.random.default_rng(columns)
    rows, heads = 777, 3
    logits = rng.standard_normal((heads, columns, rows)).astype(np.float32).round(1)
    labels = rng.integers(max(columns, 2), size=rows)
    ids = rng.integers(groups, size=rows).astype(np.int32)
    expected = np.zeros((heads, groups), dtype=np.int64)
    _numba.count_correct(logits, labels.astype(np.int32), ids, expected)
    fresh = np.full((heads * columns, padded(rows)), np.nan, dtype=np.float32)
    offset, unscale = np.full(heads * columns, 0.5, np.float32), np.full(heads * columns, 0.25, np.float32)
    low = np.full_like(fresh, 2048.0 * 4)
    fresh[:, :rows] = (logits.reshape(-1, rows) - 0.5) * 4 - (4 if half else 0)
    local, xp = groups < 8192, device.xp
    correct = xp.zeros((heads, groups), dtype=np.uint64)
    device.launch(
        "count_correct", (2, heads), (64,),
        (xp.asarray(fresh), xp.asarray(low) if half else NULL, xp.asarray(unscale), xp.asarray(offset),
         np.int64(fresh.shape[1]), np.int32(columns), np.int32(rows), xp.asarray(labels.astype(np.uint16)),
         xp.asarray(ids), np.int32(groups), np.int32(local), correct),
        shared=4 * groups if local else 0,
    )  # fmt: skip
    # Rounded logits tie often; the same numbers must come out of the sums for the ties to be the same.
    np.testing.assert_array_equal(to_numpy(correct), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (5000, 37), (700, 64)])
def test_means_and_scales(device: Device, dtype: type, n: int, d: int) -> None:
    x = (np.random.default_rng(n).standard_normal((n, d)) * np.arange(1, d + 1) + 100).astype(dtype)
    for block in (n, 64):
        mean, scale = map(to_numpy, mean_and_scale(device, device.xp.asarray(x), block))
        np.testing.assert_allclose(mean, x.astype(np.float64).mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(scale, x.astype(np.float64).std(axis=0), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("pairs", [0, 1, 4])
def test_steps_equal_the_solvers(device: Device, pairs: int) -> None:
    """L-BFGS's recursion, dots of views, and the preconditioner, against the general code."""
    rng = np.random.default_rng(pairs)
    shape = (3, 2, 41)
    history: list[_Pair] = []
    for i in range(pairs):
        step, change, smoothed = rng.standard_normal((3, *shape))
        inverse = 1 / _dot(step, change)
        inverse[i % 3] = 0 if i else inverse[i % 3]
        history.append(_pair(step, change, smoothed, inverse))
    g, pg = rng.standard_normal((2, *shape))
    none = np.zeros(3, dtype=np.int64)
    state = _State(np.arange(3), g, g, pg, none, none, none, none, history)
    xp = device.xp
    there, on_device = (
        [tuple(xp.asarray(part) for part in pair[:4]) for pair in history],
        (xp.asarray(g), xp.asarray(pg)),
    )
    found = to_numpy(two_loop(device, there, *on_device))
    np.testing.assert_allclose(found, _two_loop(state, one_thread()), rtol=1e-9, atol=1e-9)
    everything, some = slice(None), slice(None, -1)
    for at in ((everything, everything), (everything, some), (slice(1), slice(1, None))):
        a, b = g[:, at[0], at[1]], pg[:, at[0], at[1]]
        found = dots(device, on_device[0][:, at[0], at[1]], on_device[1][:, at[0], at[1]])
        np.testing.assert_allclose(to_numpy(found), _dot(a, b), rtol=1e-12)
    assert dots(device, on_device[0][:, :, ::2], on_device[1][:, :, ::2]) is None
    moments = np.cov(rng.standard_normal((40, 200))) + np.eye(40)
    l2, heads = np.array([1e-3, 3.0, 1e-3]), np.arange(3)
    with threads() as pool:
        expected = shared_inverse(moments, 0.3, heads, l2, pool)(g, heads)
    strengths, nearest = references(l2)
    inverses = device.inverses(xp.asarray(moments.astype(np.float32)), strengths.tolist(), 0.0, 1)
    found = to_numpy(shared_product(device, inverses, on_device[0], nearest, 0.3))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(("k", "heads", "dtype"), [(2, 4, np.float16), (2, 2, np.float32), (3, 3, np.float16)])
def test_the_solver_goes_through(shim_folder: Path, k: int, heads: int, dtype: type) -> None:
    """The solver on the GPU's passes and moments: the optimum that the host's find."""
    x, y = problem(900, 30, k)
    x = (x - 10).astype(dtype)
    weights = [row_weights("class", y), None][: heads // 2 + 1]
    given = (weights * heads)[:heads]
    l2 = np.logspace(-4, -1, heads)
    expected = fit_probes(x, y, [Head(weights=w, l2=s) for w, s in zip(given, l2, strict=True)], n_classes=k)
    table = weight_table(given, ["a"] * heads, y, k)
    device = ShimDevice(shim_folder)
    columns = 1 if k == 2 else k
    with threads() as pool:
        data = design(x, standardize=True, threads=pool, block_rows=256, small=0)
        for rows in (900, 300):
            passes = CudaPasses(device, data, y, table, columns, rows=rows)
            start = np.zeros((heads, columns, 31))
            solution = solve(data, passes, start, effective_l2(l2, k), settings=LBFGS(), threads=pool)
            assert solution.converged.all()
            np.testing.assert_allclose(solution.objective, [fit.objective for fit in expected], rtol=1e-6)
            assert "root_weighted" in device.launches
            known, total = passes.moments(2)
            curvature = passes.curvature(2) * (900 / 450)
            xs = standardized(x)[::2]
            centre = curvature @ xs / curvature.sum()
            np.testing.assert_allclose(total, curvature.sum())
            exact = (xs - centre).T @ ((xs - centre) * curvature[:, None])
            np.testing.assert_allclose(known, exact, atol=2e-3 * np.abs(exact).max())


@pytest.mark.parametrize("optimizer", list(Optimizer))
@pytest.mark.parametrize("shared_bytes", [227 << 10, 2048, 1400], ids=["all", "some", "none"])
@pytest.mark.parametrize(("k", "dtype"), [(2, np.float16), (2, np.float32), (3, np.float16), (5, np.float32)])
def test_training_equals_the_hosts(
    device: Device, k: int, dtype: type, shared_bytes: int, optimizer: Optimizer
) -> None:
    rng = np.random.default_rng(k)
    y, a = np.arange(150) % k, rng.integers(2, size=150)
    groups = Groups.from_arrays(y, a)
    x = (rng.standard_normal((150, 19)) + np.eye(k, 19)[y] + 4).astype(dtype)
    device.shared_bytes = shared_bytes
    kinds = [
        (BalanceMethod.UPSAMPLING, WeightNormalization.BATCH), (BalanceMethod.UPWEIGHTING, WeightNormalization.NONE),
        (BalanceMethod.SUBSETTING, WeightNormalization.BATCH),
    ]  # fmt: skip
    samples = [make_balancer(kind, normalize=norm).sample(groups, seed=i) for i, (kind, norm) in enumerate(kinds)]
    heads = [TrainHead(sample, learning_rate=0.02, weight_decay=0.01) for sample in samples]
    start = Probe(rng.standard_normal((k, 19)), rng.standard_normal(k))
    heads[0] = replace(heads[0], start=start)
    heads = heads if k > 2 else heads[1:]
    settings = SGD(epochs=2, batch_size=20, momentum=0.9, optimizer=optimizer)
    with threads() as pool:
        data = design(x, standardize=True, threads=pool, block_rows=64, small=0)
        host = _Host(data, y, heads, k, settings, pool)
        there = moved(device, data)
        trainer = DeviceTrainer(
            device, there, y, _initial(heads, data, k), weight_decays=[head.weight_decay for head in heads],
            normalize=[head.sample.normalize is WeightNormalization.BATCH for head in heads], settings=settings,
        )  # fmt: skip
        draws = [_Draws(head.sample, settings.batch_size) for head in heads]
        for epoch in range(2):
            batches = [draw.take(draw.per_epoch) for draw in draws]
            rates = [head.learning_rate / (epoch + 1) for head in heads]
            np.testing.assert_allclose(trainer.train(batches, rates), host.train(batches, rates), rtol=1e-5)
            np.testing.assert_array_equal(trainer.correct(there, groups), host.correct(data, groups))
        for found, expected in zip(trainer.probes(), host.probes(), strict=True):
            np.testing.assert_allclose(to_numpy(found.weight), expected.weight, atol=2e-5)
            np.testing.assert_allclose(to_numpy(found.bias), expected.bias, atol=1e-4)
