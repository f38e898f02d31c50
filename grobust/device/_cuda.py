"""The GPU behind `Device`: kernels compiled by NVRTC on first use, cuBLAS, cuSOLVER, pinned memory. A door of CuPy."""

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.device._interface import KERNELS, Product
from grobust.typing import Array

__all__ = ["OPTIONS", "Cuda", "CudaSlab", "cuda", "source"]

OPTIONS = ("-std=c++17",)
# What a kernel may use without being told.
ORDINARY_SHARED = 48 << 10


@cache
def source(name: str) -> str:
    """A CUDA source with what it shares with the others before it."""
    folder = files("grobust.device") / "cuda"
    shared = (folder / "common.cuh").read_text(encoding="utf-8")
    own = (folder / f"{name}.cu").read_text(encoding="utf-8")
    return f'#line 1 "common.cuh"\n{shared}\n#line 1 "{name}.cu"\n{own}'


class Cuda:
    """The current CUDA device."""

    def __init__(self) -> None:
        import cupy
        from cupy_backends.cuda.libs import cublas, cusolver

        self.xp = cupy
        self._cublas, self._cusolver = cublas, cusolver
        self._functions: dict[str, Any] = {}
        self._shared: dict[tuple[str, int], int] = {}
        self._workers: dict[int, list[tuple[Any, int]]] = {}

    @property
    def shared_bytes(self) -> int:
        """Most shared memory that a block may ask for."""
        runtime = self.xp.cuda.runtime
        attribute = runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin
        return int(runtime.deviceGetAttribute(attribute, runtime.getDevice()))

    def launch(
        self, kernel: str, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], *, shared: int = 0
    ) -> None:
        """Start a kernel on the current stream."""
        if kernel not in self._functions:
            self._compile(kernel)
        function = self._functions[kernel]
        key = (kernel, int(self.xp.cuda.runtime.getDevice()))
        if shared > self._shared.get(key, ORDINARY_SHARED):
            function.max_dynamic_shared_size_bytes = shared
            self._shared[key] = shared
        function(grid, block, tuple(args), shared_mem=shared)

    def _compile(self, kernel: str) -> None:
        (name,) = (name for name, kernels in KERNELS.items() if kernel in kernels)
        module = self.xp.RawModule(code=source(name), options=OPTIONS)
        for other in KERNELS[name]:
            self._functions[other] = module.get_function(other)

    def product(self, product: Product) -> None:
        """Start a matrix product: float16 on tensor cores, float32 on ordinary ones, sums in float32."""
        lib, p = self._cublas, product
        kind = self.xp.cuda.runtime.CUDA_R_16F if p.a.dtype == np.float16 else self.xp.cuda.runtime.CUDA_R_32F
        wide = self.xp.cuda.runtime.CUDA_R_32F
        alpha, beta = np.array(p.alpha, dtype=np.float32), np.array(p.beta, dtype=np.float32)
        handle = self.xp.cuda.device.get_cublas_handle()
        transpose = {False: lib.CUBLAS_OP_N, True: lib.CUBLAS_OP_T}
        head = (handle, transpose[p.transpose_a], transpose[p.transpose_b], p.m, p.n, p.k, alpha.ctypes.data)
        tail = (lib.CUBLAS_COMPUTE_32F, lib.CUBLAS_GEMM_DEFAULT)
        a, b, c = p.a.data.ptr, p.b.data.ptr, p.c.data.ptr
        if p.batch == 1:
            lib.gemmEx(*head, a, kind, p.lda, b, kind, p.ldb, beta.ctypes.data, c, wide, p.ldc, *tail)
        else:
            lib.gemmStridedBatchedEx(
                *head, a, kind, p.lda, p.step_a, b, kind, p.ldb, p.step_b, beta.ctypes.data, c, wide, p.ldc, p.step_c,
                p.batch, *tail,
            )  # fmt: skip

    def slab(self, rows: int, d: int, dtype: Any) -> "CudaSlab":
        """Room for a stream's block."""
        return CudaSlab(rows, d, dtype)

    def upload(self, rows: NDArray[Any]) -> Array:
        """Rows as a CuPy array."""
        return self.xp.asarray(rows)

    def free_bytes(self) -> int:
        """Memory that an array may take now: the device's free memory, and what CuPy's pool holds for reuse."""
        return int(self.xp.cuda.runtime.memGetInfo()[0] + self.xp.get_default_memory_pool().free_bytes())

    def inverses(self, matrices: Array, shifts: Sequence[float], ridge: float, tries: int) -> Array:
        """(R, d, d) float32 inverses by Cholesky, each on a stream of its own: one alone does not fill the device."""
        cupy = self.xp
        d = matrices.shape[0]
        out = cupy.empty((len(shifts), d, d), dtype=np.float32)
        out[...] = cupy.eye(d, dtype=np.float32)
        open_, share = list(range(len(shifts))), ridge
        for _ in range(tries):
            flags = self._factorize(matrices, [shifts[i] + share for i in open_], out, open_)
            open_ = [i for i, flag in zip(open_, flags.get().tolist(), strict=True) if flag != 0]
            if not open_:
                return out
            share *= 10
            out[cupy.asarray(open_)] = cupy.eye(d, dtype=np.float32)
        raise AssertionError("the Hessian of the loss is positive semi-definite and finite")

    def _factorize(self, matrix: Array, shifts: list[float], out: Array, places: list[int]) -> Array:
        """Replace the identities at some places by inverses; (r) int32, not 0 where a matrix is not definite."""
        cupy, solver, lib = self.xp, self._cusolver, self._cublas
        d = matrix.shape[0]
        uplo = lib.CUBLAS_FILL_MODE_LOWER
        flags = cupy.zeros((len(shifts), 2), dtype=np.int32)
        factors = cupy.stack([matrix + np.float32(shift) * cupy.eye(d, dtype=np.float32) for shift in shifts])
        here, (_, handle) = cupy.cuda.get_current_stream(), self._worker(0)
        size = solver.spotrf_bufferSize(handle, uplo, d, factors.data.ptr, d)
        rooms = cupy.empty((len(shifts), max(size, 1)), dtype=np.float32)
        ready = here.record()
        for r, place in enumerate(places):
            stream, handle = self._worker(r)
            stream.wait_event(ready)
            with stream:
                solver.spotrf(handle, uplo, d, factors[r].data.ptr, d, rooms[r].data.ptr, size, flags[r].data.ptr)
                solver.spotrs(handle, uplo, d, d, factors[r].data.ptr, d, out[place].data.ptr, d, flags[r, 1:].data.ptr)
            here.wait_event(stream.record())
        return flags[:, 0]

    def _worker(self, index: int) -> tuple[Any, int]:
        """A stream and a cuSOLVER handle of its own: a handle's hidden work space serves one stream at a time."""
        workers = self._workers.setdefault(int(self.xp.cuda.runtime.getDevice()), [])
        while len(workers) <= index:
            stream, handle = self.xp.cuda.Stream(non_blocking=True), self._cusolver.create()
            self._cusolver.setStream(handle, stream.ptr)
            workers.append((stream, handle))
        return workers[index]


@cache
def cuda() -> Cuda:
    """The door, opened once."""
    return Cuda()


class CudaSlab:
    """Room for a block of rows on the device and in pinned memory, and a stream of its own for its transfers."""

    def __init__(self, rows: int, d: int, dtype: Any) -> None:
        import cupyx

        cupy = cuda().xp
        self._cupy, self._device = cupy, int(cupy.cuda.runtime.getDevice())
        self._pinned = cupyx.empty_pinned((rows, d), dtype=dtype)
        self._array = cupy.empty((rows, d), dtype=dtype)
        self._stream = cupy.cuda.Stream(non_blocking=True)
        # The pool may have given memory that work already started still uses.
        self._released = cupy.cuda.get_current_stream().record()
        self._copied: Any = None

    def fill(self, rows: NDArray[Any]) -> None:
        """Copy rows and start their transfer, once what used the slab is done."""
        with self._cupy.cuda.Device(self._device):
            if self._copied is not None:
                self._copied.synchronize()
            count = rows.shape[0]
            np.copyto(self._pinned[:count], rows)
            self._stream.wait_event(self._released)
            self._array[:count].set(self._pinned[:count], stream=self._stream)
            self._copied = self._stream.record()

    def ready(self, rows: int) -> Array:
        """The first rows on the device, for work that is started from now on."""
        self._cupy.cuda.get_current_stream().wait_event(self._copied)
        return self._array[:rows]

    def release(self) -> None:
        """All work on the rows has been started."""
        self._released = self._cupy.cuda.get_current_stream().record()
