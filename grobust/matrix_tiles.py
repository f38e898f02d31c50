"""Second moments in a CPU's matrix tiles (Intel's AMX): bfloat16 numbers in, float32 sums out, compiled.

A number v is split into two bfloat16, v = high + low + rest with |rest| ≤ 2⁻¹⁶ |v|, and three of the four products of
parts are summed up in tiles. What is left out, Σ low lowᵀ, and the rest have either sign off the diagonal: relative to
the variances they come to about 5e-6 over the root of the number of rows. On the diagonal, where every term of theirs
is positive, squares of v itself are summed up instead, float32 for 128 rows and float64 from there.

A tile is 16 rows of 64 bytes. Split numbers lie in panels of 32 columns and 32 rows, 4,096 bytes: high of columns 0–15,
high of 16–31, low of 0–15, low of 16–31; each a tile of 16 pairs of rows × 16 columns × 2 rows.

Intel, Architecture Instruction Set Extensions Programming Reference, chapter 3 (TILELOADD, TDPBF16PS, LDTILECFG).
"""

# mypy: disallow_untyped_decorators=false
import ctypes
import platform
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

__all__ = ["LANES", "PANEL_BYTES", "SIDE", "STEP_ROWS", "add_rows", "aligned", "available", "unpack"]

# Columns of a panel, rows of one step, and numbers of a vector register.
SIDE, STEP_ROWS, LANES = 32, 32, 16
PANEL_BYTES, TILE_BYTES = 4096, 1024
# A cache line: tiles that cross one load at a fifth of the speed.
ALIGNMENT = 64
# Rows ahead that are asked for.
AHEAD = 4
# Linux: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) asks for the 8 KiB of state that tiles take of a thread.
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA = 158, 0x1023, 18

_i32, _i64, _void = ir.IntType(32), ir.IntType(64), ir.VoidType()
_ints, _floats = ir.VectorType(_i32, LANES), ir.VectorType(ir.FloatType(), LANES)
_halves = ir.VectorType(ir.HalfType(), LANES)


@cache
def available() -> bool:
    """Whether this machine has tiles of bfloat16 and the system lets this process use them."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return False
    # Told to compile for another processor or not at all, numba has no such instructions.
    if numba.config.DISABLE_JIT or numba.config.CPU_NAME or numba.config.CPU_FEATURES:
        return False
    features = llvmlite.binding.get_host_cpu_features()
    if not (features.get("amx-bf16") and features.get("avx512f")):
        return False
    # The instructions below are written out, and numba starts without LLVM's assembler.
    llvmlite.binding.initialize_native_asmparser()
    return bool(ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0)


def aligned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An empty array that begins at a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    made: NDArray[Any] = room[start : start + size].view(dtype).reshape(shape)
    return made


def _instructions(text: str, constraints: str, outputs: int, inputs: int) -> Callable[..., Any]:
    """An intrinsic of 64-bit integers that is `text`, in AT&T's syntax; whatever it returns is dropped."""

    def typed(*arguments: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            back = ir.LiteralStructType([_i64] * outputs) if outputs > 1 else _void
            builder.asm(ir.FunctionType(back, [_i64] * inputs), text, constraints, list(values), True)
            return context.get_dummy_value()

        return types.void(*[types.int64] * inputs), build

    return typed


@intrinsic
def _load_config(typingctx: Any, address: Any) -> Any:
    return _instructions("ldtilecfg ($0)", "r,~{memory}", 0, 1)(address)


@intrinsic
def _store_config(typingctx: Any, address: Any) -> Any:
    return _instructions("sttilecfg ($0)", "r,~{memory}", 0, 1)(address)


@intrinsic
def _prefetch(typingctx: Any, address: Any) -> Any:
    return _instructions("prefetcht0 ($0)", "r", 0, 1)(address)


# $0 and $1 go over panels of a and b, $2 counts them down, $3 is where the four tiles of sums go.
_PRODUCT = """
movq $$64, %r11
tilezero %tmm0
tilezero %tmm1
tilezero %tmm2
tilezero %tmm3
1:
tileloadd 0($0,%r11,1), %tmm4
tileloadd 2048($1,%r11,1), %tmm6
tdpbf16ps %tmm6, %tmm4, %tmm0
tileloadd 1024($0,%r11,1), %tmm5
tdpbf16ps %tmm6, %tmm5, %tmm2
tileloadd 3072($1,%r11,1), %tmm7
tdpbf16ps %tmm7, %tmm4, %tmm1
tdpbf16ps %tmm7, %tmm5, %tmm3
tileloadd 0($1,%r11,1), %tmm6
tdpbf16ps %tmm6, %tmm4, %tmm0
tdpbf16ps %tmm6, %tmm5, %tmm2
tileloadd 1024($1,%r11,1), %tmm7
tdpbf16ps %tmm7, %tmm4, %tmm1
tdpbf16ps %tmm7, %tmm5, %tmm3
tileloadd 2048($0,%r11,1), %tmm4
tdpbf16ps %tmm6, %tmm4, %tmm0
tdpbf16ps %tmm7, %tmm4, %tmm1
tileloadd 3072($0,%r11,1), %tmm5
tdpbf16ps %tmm6, %tmm5, %tmm2
tdpbf16ps %tmm7, %tmm5, %tmm3
addq $$0x1000, $0
addq $$0x1000, $1
decq $2
jnz 1b
tilestored %tmm0, 0($3,%r11,1)
tilestored %tmm1, 1024($3,%r11,1)
tilestored %tmm2, 2048($3,%r11,1)
tilestored %tmm3, 3072($3,%r11,1)
"""


@intrinsic
def _product(typingctx: Any, sums: Any, a: Any, b: Any, steps: Any) -> Any:
    """Four tiles of `sums`: the products of `steps` panels of a, transposed, and b."""
    constraints = "=&r,=&r,=&r,r,0,1,2,~{r11},~{memory},~{flags}"
    return _instructions(_PRODUCT, constraints, 3, 4)(sums, a, b, steps)


@intrinsic
def _transposed(typingctx: Any, source: Any, target: Any) -> Any:
    """A tile of 16 × 16 four-byte numbers, transposed: numbers change places across one bit of their places a time."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, stop = (builder.inttoptr(address, _ints.as_pointer()) for address in arguments)
        rows = [builder.load(builder.gep(start, [ir.Constant(_i64, i)])) for i in range(LANES)]
        for bit in (1, 2, 4, 8):
            low = ir.Constant(_ints, [LANES + (j ^ bit) if j & bit else j for j in range(LANES)])
            high = ir.Constant(_ints, [LANES + j if j & bit else j | bit for j in range(LANES)])
            for i in (i for i in range(LANES) if not i & bit):
                pair = rows[i], rows[i | bit]
                rows[i], rows[i | bit] = (builder.shuffle_vector(*pair, mask) for mask in (low, high))
        for i, row in enumerate(rows):
            builder.store(row, builder.gep(stop, [ir.Constant(_i64, i)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), build


def _rounded(builder: Any, numbers: Any) -> Any:
    """float32 to the nearest bfloat16, ties to even, as the upper halves of int32."""
    bits = builder.bitcast(numbers, _ints)
    odd = builder.and_(builder.lshr(bits, _all(_i32, 16)), _all(_i32, 1))
    return builder.and_(builder.add(builder.add(bits, odd), _all(_i32, 0x7FFF)), _all(_i32, -65536))


def _all(kind: Any, value: Any) -> Any:
    return ir.Constant(ir.VectorType(kind, LANES), [value] * LANES)


def _split(stored: Any) -> Callable[..., Any]:
    """Of `stored` numbers x, y at two addresses, v = (x − coarse) − fine: sums of v and v², highs and lows."""

    def typed(*arguments: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            addresses, kept = values[:8], values[8:]

            def at(i: int, kind: Any = _floats) -> Any:
                return builder.inttoptr(addresses[i], kind.as_pointer())

            def read(i: int, kind: Any = _floats) -> Any:
                loaded = builder.load(at(i, kind))
                # Rows lie where they lie.
                loaded.align = 2
                return loaded

            coarse, fine = read(2), read(3)
            highs, lows, numbers, squares = [], [], [], []
            for i in range(2):
                x = read(i, stored)
                x = x if stored is _floats else builder.fpext(x, _floats)
                x = builder.fsub(builder.fsub(x, coarse), fine)
                weight = builder.insert_element(ir.Constant(_floats, ir.Undefined), kept[i], ir.Constant(_i32, 0))
                weight = builder.shuffle_vector(weight, weight, _all(_i32, 0))
                x = builder.fmul(x, weight)
                high = _rounded(builder, x)
                rest = builder.fsub(x, builder.bitcast(high, _floats))
                numbers.append(x)
                highs.append(high)
                lows.append(_rounded(builder, rest))
                squares.append(builder.fmul(x, x))
            for i, pair in ((4, numbers), (5, squares)):
                stored_sum = builder.store(builder.fadd(read(i), builder.fadd(*pair)), at(i))
                stored_sum.align = 2
            for i, (first, second) in ((6, highs), (7, lows)):
                both = builder.or_(builder.lshr(first, _all(_i32, 16)), second)
                builder.store(both, at(i, _ints)).align = ALIGNMENT
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8, types.float32, types.float32), build

    return typed


@intrinsic
def _split_single(
    typingctx: Any, x: Any, y: Any, coarse: Any, fine: Any, total: Any, squares: Any, high: Any, low: Any,
    keep_x: Any, keep_y: Any,
) -> Any:  # fmt: skip
    """`_split` of float32."""
    return _split(_floats)()


@intrinsic
def _split_half(
    typingctx: Any, x: Any, y: Any, coarse: Any, fine: Any, total: Any, squares: Any, high: Any, low: Any,
    keep_x: Any, keep_y: Any,
) -> Any:  # fmt: skip
    """`_split` of float16."""
    return _split(_halves)()


@njit(nogil=True, cache=True, error_model="numpy")
def _configured() -> Any:
    """Eight tiles of 16 rows and 64 bytes for this thread; the configuration that it had, to be loaded afterwards.

    Other libraries may keep theirs from one call to the next.
    """
    config, before = np.zeros(64, np.uint8), np.zeros(64, np.uint8)
    config[0] = 1
    for tile in range(8):
        config[16 + 2 * tile], config[48 + tile] = 64, LANES
    _store_config(before.ctypes.data)
    _load_config(config.ctypes.data)
    return before


@njit(nogil=True, cache=True, error_model="numpy")
def add_rows(
    rows: Any, half: Any, coarse: Any, fine: Any, total: Any, squares: Any, packed: Any, panel: Any, sums: Any
) -> None:
    """Add the products of columns of rows less a shift, the upper triangle.

    Parameters
    ----------
    rows : (m) int64 addresses of rows of d numbers, float32 or, if `half`, float16
    coarse, fine : (d) float32, the shift in two parts
    total, squares : (d) float64, gain Σ v and Σ v²
    packed, panel : (d / 32, s, 4096 bytes), (s, 4096 bytes) int32, aligned: room for 32 s rows at a time
    sums : ((d / 32) (d / 32 + 1) / 2, 1024) float32: pairs of panels (0, 0), (0, 1) … of four tiles each
    """
    few_total, few_squares = np.zeros(coarse.size, np.float32), np.zeros(coarse.size, np.float32)
    most, before = packed.shape[1] * STEP_ROWS, _configured()
    for start in range(0, rows.size, most):
        few_total[:], few_squares[:] = 0, 0
        steps = _pack(rows[start : start + most], half, coarse, fine, few_total, few_squares, packed)
        _multiply(packed, steps, panel, sums)
        for j in range(coarse.size):
            total[j] += np.float64(few_total[j])
            squares[j] += np.float64(few_squares[j])
    _load_config(before.ctypes.data)


@njit(nogil=True, cache=True, error_model="numpy")
def _pack(rows: Any, half: Any, coarse: Any, fine: Any, total: Any, squares: Any, packed: Any) -> Any:
    """Split rows; the number of panels in use, of which rows beyond the last are zero."""
    steps = (rows.size + STEP_ROWS - 1) // STEP_ROWS
    size = np.int64(2 if half else 4)
    apart = packed.strides[0]
    for pair in range(steps * LANES):
        # A row that is not there is the first one times zero.
        there_x, there_y = 2 * pair < rows.size, 2 * pair + 1 < rows.size
        keep_x, keep_y = np.float32(1 if there_x else 0), np.float32(1 if there_y else 0)
        x, y = rows[2 * pair if there_x else 0], rows[2 * pair + 1 if there_y else 0]
        # Rows lie anywhere, so that the processor cannot foresee them.
        ahead = min(2 * pair + AHEAD, rows.size - 2)
        next_x, next_y = rows[ahead], rows[ahead + 1]
        to = packed.ctypes.data + (pair // LANES) * PANEL_BYTES + (pair % LANES) * ALIGNMENT
        for group in range(coarse.size // LANES):
            at = np.int64(group * LANES)
            high = to + (group // 2) * apart + (group % 2) * TILE_BYTES
            c, f = coarse.ctypes.data + 4 * at, fine.ctypes.data + 4 * at
            t, q = total.ctypes.data + 4 * at, squares.ctypes.data + 4 * at
            _prefetch(next_x + size * at)
            _prefetch(next_y + size * at)
            if half:
                _split_half(x + size * at, y + size * at, c, f, t, q, high, high + 2 * TILE_BYTES, keep_x, keep_y)
            else:
                _split_single(x + size * at, y + size * at, c, f, t, q, high, high + 2 * TILE_BYTES, keep_x, keep_y)
    return steps


@njit(nogil=True, cache=True, error_model="numpy")
def _multiply(packed: Any, steps: Any, panel: Any, sums: Any) -> None:
    """Add the products of all pairs of panels' columns: each formed by itself, for float32 sums of fewer terms."""
    room = np.empty(PANEL_BYTES // 4 + ALIGNMENT // 4, np.float32)
    skipped = (-room.ctypes.data % ALIGNMENT) // 4
    formed = room[skipped : skipped + PANEL_BYTES // 4]
    apart, a, at = packed.strides[0], panel.ctypes.data, 0
    for i in range(packed.shape[0]):
        own = packed.ctypes.data + i * apart
        for tile in range(4 * steps):
            _transposed(own + tile * TILE_BYTES, a + tile * TILE_BYTES)
        for j in range(i, packed.shape[0]):
            _product(formed.ctypes.data, a, packed.ctypes.data + j * apart, steps)
            for k in range(PANEL_BYTES // 4):
                sums[at, k] += formed[k]
            at += 1


@njit(nogil=True, cache=True, error_model="numpy")
def unpack(sums: Any, squares: Any, out: Any) -> None:
    """Add what `add_rows` left to a float64 matrix.

    Parameters
    ----------
    sums : (p (p + 1) / 2, 1024)
    squares : (d), for the diagonal instead of the sums
    out : (d, d), p = d / 32; above the diagonal all of it, below it some
    """
    at, panels = 0, out.shape[0] // SIDE
    diagonal = squares.copy()
    for i in range(out.shape[0]):
        diagonal[i] += out[i, i]
    for i in range(panels):
        for j in range(i, panels):
            for down in range(2):
                for row in range(LANES):
                    for right in range(2):
                        first = ((2 * down + right) * LANES + row) * LANES
                        for column in range(LANES):
                            value = np.float64(sums[at, first + column])
                            out[i * SIDE + down * LANES + row, j * SIDE + right * LANES + column] += value
            at += 1
    for i in range(out.shape[0]):
        out[i, i] = diagonal[i]
