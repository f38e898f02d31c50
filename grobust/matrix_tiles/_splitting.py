"""Numbers split into two bfloat16 and laid out as panels, a few vector registers at a time."""

# mypy: disallow_untyped_decorators=false
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from grobust.matrix_tiles._instructions import INTS, LANES, LINE, TILE, at

__all__ = ["split_fine_row", "split_half", "split_pair", "split_row", "split_single"]

_int = ir.IntType(32)
_floats, _halves = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.HalfType(), LANES)
_narrow = ir.VectorType(ir.IntType(16), 2 * LANES)
# Of two registers of int32, the upper halves one after another.
_UPPER = ir.Constant(ir.VectorType(_int, 2 * LANES), [2 * i + 1 for i in range(2 * LANES)])


def _all(value: int) -> Any:
    return ir.Constant(INTS, [value] * LANES)


def _rounded(builder: Any, numbers: Any) -> Any:
    """float32 to the nearest bfloat16, halves away from zero, as the upper halves of int32; the lower is noise."""
    return builder.add(builder.bitcast(numbers, INTS), _all(0x8000))


def _parts(builder: Any, numbers: Any, count: int = 2) -> list[Any]:
    """So many bfloat16 whose sum is the number: int32, all but the last with nothing below their upper halves."""
    parts = []
    for _ in range(count - 1):
        parts.append(builder.and_(_rounded(builder, numbers), _all(-65536)))
        numbers = builder.fsub(numbers, builder.bitcast(parts[-1], _floats))
    return [*parts, _rounded(builder, numbers)]


def _read(builder: Any, address: Any, offset: int, kind: Any = _floats) -> Any:
    loaded = builder.load(at(builder, address, offset, kind))
    # Rows lie where they lie.
    loaded.align = 2
    return loaded


def _in_a_row(builder: Any, first: Any, second: Any) -> Any:
    """32 bfloat16 of two registers' upper halves."""
    return builder.shuffle_vector(builder.bitcast(first, _narrow), builder.bitcast(second, _narrow), _UPPER)


def _in_pairs(builder: Any, first: Any, second: Any) -> Any:
    """Upper halves of two registers, alternating."""
    return builder.or_(builder.lshr(first, _all(16)), builder.and_(second, _all(-65536)))


def _write(builder: Any, numbers: Any, address: Any, offset: int) -> None:
    builder.store(numbers, at(builder, address, offset, numbers.type)).align = LINE


def _row(count: int) -> Callable[..., Any]:
    """32 float32 as a row of a left factor's panel of so many parts: each two tiles on."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = arguments
        parts = [_parts(builder, _read(builder, source, LINE * i), count) for i in range(2)]
        for i, (first, second) in enumerate(zip(*parts, strict=True)):
            _write(builder, _in_a_row(builder, first, second), target, 2 * TILE * i)
        return context.get_dummy_value()

    return lambda: (types.void(types.int64, types.int64), build)


@intrinsic
def split_row(typingctx: Any, source: Any, target: Any) -> Any:
    """`_row` of two parts."""
    return _row(2)()


@intrinsic
def split_fine_row(typingctx: Any, source: Any, target: Any) -> Any:
    """`_row` of three parts."""
    return _row(3)()


@intrinsic
def split_pair(typingctx: Any, first: Any, second: Any, left: Any, right: Any) -> Any:
    """32 float32 of two rows: in three parts as two rows of a left factor's panel, in two as pairs in a right one's."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *sources, left, right = arguments
        parts = [[_parts(builder, _read(builder, source, LINE * i), 3) for i in range(2)] for source in sources]
        for row in range(2):
            for part in range(3):
                both = parts[row][0][part], parts[row][1][part]
                _write(builder, _in_a_row(builder, *both), left, LINE * row + 2 * TILE * part)
        for half in range(2):
            for part in range(2):
                both = parts[0][half][part], parts[1][half][part]
                _write(builder, _in_pairs(builder, *both), right, TILE * half + 2 * TILE * part)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), build


def _shifted(stored: Any) -> Callable[..., Any]:
    """Of `stored` numbers x, y at two addresses, v = (x − coarse) − fine: sums of v and v², and pairs of the parts."""

    def typed(*arguments: Any) -> Any:
        def build(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            *sources, coarse, fine, total, squares, high, low, keep_x, keep_y = values
            coarse, fine = _read(builder, coarse, 0), _read(builder, fine, 0)
            numbers = []
            for source, kept in zip(sources, (keep_x, keep_y), strict=True):
                x = _read(builder, source, 0, stored)
                x = x if stored is _floats else builder.fpext(x, _floats)
                x = builder.fsub(builder.fsub(x, coarse), fine)
                weight = builder.insert_element(ir.Constant(_floats, ir.Undefined), kept, ir.Constant(_int, 0))
                numbers.append(builder.fmul(x, builder.shuffle_vector(weight, weight, _all(0))))
            for place, pair in ((total, numbers), (squares, [builder.fmul(x, x) for x in numbers])):
                summed = builder.fadd(_read(builder, place, 0), builder.fadd(*pair))
                builder.store(summed, at(builder, place, 0, _floats)).align = 2
            parts = [_parts(builder, x) for x in numbers]
            for place, (first, second) in zip((high, low), zip(*parts, strict=True), strict=True):
                _write(builder, _in_pairs(builder, first, second), place, 0)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8, types.float32, types.float32), build

    return typed


@intrinsic
def split_single(
    typingctx: Any, x: Any, y: Any, coarse: Any, fine: Any, total: Any, squares: Any, high: Any, low: Any,
    keep_x: Any, keep_y: Any,
) -> Any:  # fmt: skip
    """16 numbers of two rows less a shift, of float32, as pairs in a right factor's tiles; sums of them and squares."""
    return _shifted(_floats)()


@intrinsic
def split_half(
    typingctx: Any, x: Any, y: Any, coarse: Any, fine: Any, total: Any, squares: Any, high: Any, low: Any,
    keep_x: Any, keep_y: Any,
) -> Any:  # fmt: skip
    """The same of float16."""
    return _shifted(_halves)()
