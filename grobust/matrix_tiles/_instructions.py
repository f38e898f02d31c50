"""The instructions themselves, as numba calls them, and whether this machine has them.

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

__all__ = [
    "FINE_NUMBERS", "FINE_PANEL", "INTS", "LANES", "LINE", "NUMBERS", "PANEL", "SIDE", "STEP", "TILE", "aligned", "at",
    "available", "configured", "fine_product", "prefetch", "product", "product_added", "restored", "transposed",
]  # fmt: skip

# Rows or columns of a panel, numbers that one step sums over, and numbers of a vector register.
SIDE, STEP, LANES = 32, 32, 16
# Bytes of a tile and of panels of two and of three parts, and the panels' numbers of four bytes.
TILE, PANEL, FINE_PANEL = 1024, 4096, 6144
NUMBERS, FINE_NUMBERS = PANEL // 4, FINE_PANEL // 4
# Bytes of a cache line: tiles that cross one load at a fifth of the speed.
LINE = 64
# Linux: arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) asks for the 8 KiB of state that tiles take of a thread.
ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XTILEDATA = 158, 0x1023, 18

INTS = ir.VectorType(ir.IntType(32), LANES)
_int, _void = ir.IntType(64), ir.VoidType()


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
    room = np.empty(size + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    made: NDArray[Any] = room[start : start + size].view(dtype).reshape(shape)
    return made


def at(builder: Any, address: Any, offset: int, kind: Any = INTS) -> Any:
    """A pointer to `kind`, at so many bytes from an address."""
    return builder.inttoptr(builder.add(address, ir.Constant(_int, offset)), kind.as_pointer())


def _instructions(text: str, constraints: str, outputs: int, inputs: int) -> Callable[..., Any]:
    """An intrinsic of 64-bit integers that is `text`, in AT&T's syntax; whatever it returns is dropped."""

    def typed(*arguments: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            back = ir.LiteralStructType([_int] * outputs) if outputs > 1 else _void
            builder.asm(ir.FunctionType(back, [_int] * inputs), text, constraints, list(values), True)
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
def prefetch(typingctx: Any, address: Any) -> Any:
    return _instructions("prefetcht0 ($0)", "r", 0, 1)(address)


# $0 and $1 go over panels of a and b, $2 counts them down, $3 is where the four tiles of sums are. Small parts come
# first, and parts follow each other so that few are loaded twice.
_TWO_PARTS, _THREE_PARTS = ((0, 1), (0, 0), (1, 0)), ((0, 2), (0, 1), (1, 1), (1, 0), (0, 0), (2, 0))


def _product(parts: tuple[tuple[int, int], ...], *, added: bool) -> Callable[..., Any]:
    """Products of the listed parts of a and b: tiles 0–3 are sums, 4 and 5 the halves of a, 6 and 7 those of b."""
    panel = 2 * TILE * (1 + max(part for part, _ in parts))
    begun = [f"tileloadd {TILE * i}($3,%r11,1), %tmm{i}" if added else f"tilezero %tmm{i}" for i in range(4)]
    steps, loaded = [], dict.fromkeys(range(4, 8))

    def load(register: int, operand: int, part: int) -> None:
        if loaded[register] != part:
            loaded[register] = part
            steps.append(f"tileloadd {TILE * (2 * part + register % 2)}(${operand},%r11,1), %tmm{register}")

    for a, b in parts:
        for total, left, right in ((0, 4, 6), (2, 5, 6), (1, 4, 7), (3, 5, 7)):
            load(left, 0, a)
            load(right, 1, b)
            steps.append(f"tdpbf16ps %tmm{right}, %tmm{left}, %tmm{total}")
    turned = [f"addq $${panel}, $0", f"addq $${panel}, $1", "decq $2", "jnz 1b"]
    stored = [f"tilestored %tmm{i}, {TILE * i}($3,%r11,1)" for i in range(4)]
    text = "\n".join([f"movq $${LINE}, %r11", *begun, "1:", *steps, *turned, *stored])
    return _instructions(text, "=&r,=&r,=&r,r,0,1,2,~{r11},~{memory},~{flags}", 3, 4)


@intrinsic
def product(typingctx: Any, sums: Any, a: Any, b: Any, steps: Any) -> Any:
    """Four tiles of `sums`: the products of `steps` panels of a and b, of two parts each."""
    return _product(_TWO_PARTS, added=False)(sums, a, b, steps)


@intrinsic
def product_added(typingctx: Any, sums: Any, a: Any, b: Any, steps: Any) -> Any:
    """The same, added to what `sums` holds."""
    return _product(_TWO_PARTS, added=True)(sums, a, b, steps)


@intrinsic
def fine_product(typingctx: Any, sums: Any, a: Any, b: Any, steps: Any) -> Any:
    """`product` of three parts each."""
    return _product(_THREE_PARTS, added=False)(sums, a, b, steps)


@intrinsic
def transposed(typingctx: Any, source: Any, target: Any, apart: Any) -> Any:
    """A tile of 16 × 16 four-byte numbers, transposed, its rows `apart` bytes from each other in the target.

    Numbers change places across one bit of their places a time.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, stop, step = arguments
        rows = [builder.load(at(builder, start, i * LINE)) for i in range(LANES)]
        for bit in (1, 2, 4, 8):
            low = ir.Constant(INTS, [LANES + (j ^ bit) if j & bit else j for j in range(LANES)])
            high = ir.Constant(INTS, [LANES + j if j & bit else j | bit for j in range(LANES)])
            for i in (i for i in range(LANES) if not i & bit):
                pair = rows[i], rows[i | bit]
                rows[i], rows[i | bit] = (builder.shuffle_vector(*pair, mask) for mask in (low, high))
        for row in rows:
            builder.store(row, at(builder, stop, 0)).align = 4
            stop = builder.add(stop, step)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), build


@njit(nogil=True, cache=True, error_model="numpy")
def configured() -> Any:
    """Eight tiles of 16 rows and 64 bytes for this thread; the configuration that it had, for `restored`.

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
def restored(before: Any) -> None:
    """Give the thread back the configuration that it had."""
    _load_config(before.ctypes.data)
