"""A device that runs the CUDA sources on the CPU: kernels compiled by g++ behind a shim, products by NumPy.

It stands in for `grobust.device._cuda.Cuda`, with NumPy arrays as the device's.
"""

import ctypes
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from grobust.device._interface import KERNELS, Product

SHIM = Path(__file__).parent / "probe" / "cuda_shim" / "shim.hpp"
PROBLEMS = {1: "a barrier that not every thread reaches", 2: "a deadlock", 3: "a write behind the shared memory"}


@cache
def compiled(folder: Path) -> ctypes.CDLL:
    """All kernels as a shared library."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to run the CUDA sources on the CPU")
    sources = files("grobust.device") / "cuda"
    lines = [f'#include "{SHIM}"', f'#include "{sources / "common.cuh"}"']
    for name, kernels in KERNELS.items():
        lines += [f'#include "{sources / name}.cu"', *(f"KERNEL({kernel})" for kernel in kernels)]
    (folder / "kernels.cpp").write_text("\n".join(lines) + "\n")
    options = ["-std=c++17", "-O2", "-U_FORTIFY_SOURCE", "-ffp-contract=off", "-shared", "-fPIC", "-w"]
    command = [compiler, *options, str(folder / "kernels.cpp"), "-o", str(folder / "kernels.so")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return ctypes.CDLL(str(folder / "kernels.so"))


def parameters(kernel: str) -> int:
    """Parameters of a kernel, counted in its source."""
    (name,) = (name for name, kernels in KERNELS.items() if kernel in kernels)
    text = re.sub(r"//.*", "", (files("grobust.device") / "cuda" / f"{name}.cu").read_text())
    found = re.search(rf"__global__ void (?:__launch_bounds__\(.*?\) )?{kernel}\((.*?)\)\s*{{", text, re.DOTALL)
    assert found is not None
    return found.group(1).count(",") + 1


class ShimDevice:
    """NumPy arrays as the device's."""

    def __init__(self, folder: Path, *, backwards: bool = False, shared_bytes: int = 227 << 10) -> None:
        self.xp = np
        self.shared_bytes = shared_bytes
        self.launches: list[str] = []
        self._library, self._backwards = compiled(folder), backwards

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared: int = 0
    ) -> None:
        assert len(args) == parameters(kernel), f"{kernel}: {len(args)} arguments, {parameters(kernel)} parameters"
        assert shared <= self.shared_bytes
        assert int(np.prod(block)) % 32 == 0
        assert int(np.prod(block)) <= 1024
        assert all(value > 0 for value in (*grid, *block))
        assert max(grid[1:], default=0) <= 65_535
        kept = []
        for value in args:
            if isinstance(value, np.ndarray):
                kept.append(np.array(value.ctypes.data, dtype=np.uint64))
            else:
                # A Python number would go as 64 bits, whatever the kernel expects.
                assert isinstance(value, np.generic), f"{kernel}: {type(value)}"
                kept.append(np.array(value))
        pointers = (ctypes.c_void_p * len(kept))(*(value.ctypes.data for value in kept))
        shape = [(ctypes.c_uint * 3)(*(*sizes, 1, 1)[:3]) for sizes in (grid, block)]
        status = getattr(self._library, f"run_{kernel}")(*shape, shared, int(self._backwards), pointers)
        assert status == 0, f"{kernel}: {PROBLEMS[status]}"
        self.launches.append(kernel)

    def product(self, product: Product) -> None:
        """By cuBLAS's definition, column by column."""
        p = product
        assert p.a.dtype == p.b.dtype
        assert p.c.dtype == np.float32
        for i in range(p.batch):
            a = columns_of(p.a, i * p.step_a, p.lda, (p.k, p.m) if p.transpose_a else (p.m, p.k)).astype(np.float32)
            b = columns_of(p.b, i * p.step_b, p.ldb, (p.n, p.k) if p.transpose_b else (p.k, p.n)).astype(np.float32)
            c = columns_of(p.c, i * p.step_c, p.ldc, (p.m, p.n))
            value = (a.T if p.transpose_a else a) @ (b.T if p.transpose_b else b)
            c[...] = np.float32(p.alpha) * value + (np.float32(p.beta) * c if p.beta else 0)

    def inverses(self, matrices: np.ndarray, shifts: Sequence[float], ridge: float, tries: int) -> np.ndarray:
        identity = np.eye(matrices.shape[0], dtype=np.float32)
        found = []
        for shift in shifts:
            for power in range(tries):
                matrix = matrices + np.float32(shift + ridge * 10.0**power) * identity
                try:
                    factor = np.linalg.cholesky(matrix)
                except np.linalg.LinAlgError:
                    continue
                found.append(np.linalg.solve(factor.T, np.linalg.solve(factor, identity)))
                break
        assert len(found) == len(shifts)
        return np.stack(found)


def columns_of(array: np.ndarray, start: int, leading: int, shape: tuple[int, int]) -> np.ndarray:
    """A matrix stored column by column in the memory from an array's first element on."""
    size = array.dtype.itemsize
    assert shape[0] <= leading
    moved = array.ctypes.data + start * size
    count = (shape[1] - 1) * leading + shape[0]
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * (count * size)).from_address(moved)).view(array.dtype)
    return as_strided(memory, shape=shape, strides=(size, leading * size))
