"""The CUDA sources: compiled by NVRTC for the GPUs, and run on the CPU against the code they replace."""

from pathlib import Path

import numpy as np
import pytest
from probe_problems import problem, row_weights
from shim_device import ShimDevice

from grobust.probe._cuda import OPTIONS, source
from grobust.probe._cuda_passes import CudaPasses
from grobust.probe._design import design
from grobust.probe._device import KERNELS
from grobust.probe._passes import ArrayPasses
from grobust.probe._threads import threads
from grobust.probe._weights import weight_table


@pytest.fixture(scope="session")
def shim_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shim")


@pytest.fixture(params=[False, True], ids=["forwards", "backwards"])
def device(request: pytest.FixtureRequest, shim_folder: Path) -> ShimDevice:
    return ShimDevice(shim_folder, backwards=request.param)


def compile_cuda(code: str, architecture: str) -> str:
    """The log of NVRTC; '' where all is well."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings, which torch's CUDA wheels bring")
    status, program = nvrtc.nvrtcCreateProgram(code.encode(), b"kernels.cu", 0, [], [])
    assert status == 0
    options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={architecture}")]
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    size = nvrtc.nvrtcGetProgramLogSize(program)[1]
    log = b" " * size
    nvrtc.nvrtcGetProgramLog(program, log)
    text = log.decode().strip("\0 \n")
    if status != 0:
        return text or str(status)
    size = nvrtc.nvrtcGetCUBINSize(program)[1]
    cubin = b" " * size
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
    ("k", "heads", "n"), [(2, 1, 700), (2, 5, 1500), (3, 3, 1300), (11, 2, 900), (40, 1, 500), (300, 1, 700)]
)
def test_passes_equal_the_general_code(device: ShimDevice, kind: str, k: int, heads: int, n: int) -> None:
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
        passes = CudaPasses(device, data, y, table, columns, rows=rows)
        reference = ArrayPasses(wide, y, table, columns, 256)
        scale = 0.5 if k < 100 else 0.2
        for turn in range(3):
            w = rng.standard_normal((len(table.weighting), columns, 22)) * scale
            found, expected = passes.advance(w), reference.advance(w)
            np.testing.assert_allclose(found.loss, expected.loss, rtol=5e-6)
            np.testing.assert_allclose(found.slope, expected.slope, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(found.gradient, expected.gradient, atol=5e-6)
            chosen = np.arange(len(table.weighting))[::-2].copy()
            step = rng.random(chosen.size)
            for gradient in (False, True):
                found = passes.evaluate(chosen, step, gradient=gradient)
                expected = reference.evaluate(chosen, step, gradient=gradient)
                np.testing.assert_allclose(found.loss, expected.loss, rtol=5e-6)
                np.testing.assert_allclose(found.slope, expected.slope, rtol=1e-5, atol=1e-5)
                if gradient:
                    np.testing.assert_allclose(found.gradient, expected.gradient, atol=5e-6)
            step = rng.random(len(table.weighting))
            passes.take(step)
            reference.take(step)
            np.testing.assert_allclose(passes.curvature(3), reference.curvature(3), rtol=1e-4, atol=1e-9)
            if turn == 0 and len(table.weighting) > 2:
                kept = np.array([0, 2])
                passes.keep(kept)
                reference.keep(kept)
                table = table.take(kept)
