"""What a record may hold: types of everything that tables, figures and pages read, and where a wrong one stands.

A key that is absent is no damage here: what needs it says so, with the place of the record (`reading`).
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from grobust.errors import DataError

__all__ = ["LARGEST", "RecordLine", "check_record", "place_of", "reading"]

# Squares of larger numbers overflow; no measurement is as large.
# A weighted mean of perfect accuracies may be a little more than 1.
ROUNDING = 1e-9
LARGEST = 1e150

Shape = Callable[[Any, str], None]
Read = TypeVar("Read")


class RecordLine(dict[str, Any]):
    """A record as it was read; `place` is its file and line, for messages."""

    def __init__(self, content: Mapping[str, Any], place: str) -> None:
        super().__init__(content)
        self.place = place


def place_of(record: Mapping[str, Any]) -> str:
    """Where a record stands, or else which one it is."""
    if isinstance(record, RecordLine):
        return record.place
    return f"The record of `grobust {record.get('command')}`, seed {record.get('seed')}, {record.get('time')}"


def reading(record: dict[str, Any], view: Callable[[dict[str, Any]], Read]) -> Read:
    """Apply a view to a record.

    Raises
    ------
    DataError
        If the record lacks what the view needs, or it does not fit together; file, line and key are named.
    """
    try:
        return view(record)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        what = f"key {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{place_of(record)} lacks or damages what a run of `grobust {record.get('command')}` must have: "
            f"{what}. Delete the line, and run it again with this grobust."
        ) from error


def check_record(record: Mapping[str, Any]) -> None:
    """Check the types of what a record holds.

    Raises
    ------
    DataError
        If a key that every record has is absent, or a value is of another type or out of its range; it is named.
    """
    for key in ("command", "config", "provenance", "results"):
        if key not in record:
            raise DataError(f"it has no '{key}', which every record has")
    _RECORD(record, "")
    if record["command"] == "spectrum":
        _SPECTRUM(record["results"], "results")


def _fail(at: str, expected: str, value: Any) -> None:
    seen = repr(value)
    raise DataError(f"'{at}' must be {expected}, got {seen if len(seen) <= 60 else seen[:59] + '…'}")


def _text(value: Any, at: str) -> None:
    if not isinstance(value, str):
        _fail(at, "a text", value)


def _flag(value: Any, at: str) -> None:
    if not isinstance(value, bool):
        _fail(at, "true or false", value)


def _integer(value: Any, at: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**63) <= value < 2**63:
        _fail(at, "an integer of 64 bits", value)


def _count(value: Any, at: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        _fail(at, "a count", value)


def _number(value: Any, at: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST <= value <= LARGEST:
        _fail(at, f"a number, none beyond {LARGEST:g}", value)


def _finite(value: Any, at: str) -> None:
    # Of training that diverges; it is shown, and not computed with.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        _fail(at, "a number", value)


def _positive(value: Any, at: str) -> None:
    _number(value, at)
    if value < 0:
        _fail(at, "a number of at least 0", value)


def _proportion(value: Any, at: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1 + ROUNDING:
        _fail(at, "a proportion, 0 to 1", value)


def _quantiles(value: Any, at: str) -> None:
    _each(_number)(value, at)
    for level in value:
        try:
            inside = 0 <= float(level) <= 1
        except ValueError:
            inside = False
        if not inside:
            _fail(at, "quantiles by their levels, 0 to 1", level)


def _or_none(shape: Shape) -> Shape:
    return lambda value, at: None if value is None else shape(value, at)


def _list_of(shape: Shape) -> Shape:
    def check(value: Any, at: str) -> None:
        if not isinstance(value, list):
            _fail(at, "a list", value)
        for i, item in enumerate(value):
            shape(item, f"{at}[{i}]")

    return check


def _each(shape: Shape) -> Shape:
    """An object whose values are all of one shape."""

    def check(value: Any, at: str) -> None:
        if not isinstance(value, dict):
            _fail(at, "an object", value)
        for key, item in value.items():
            shape(item, f"{at}.{key}")

    return check


def _with(**shapes: Shape) -> Shape:
    """An object; of its keys those that are known must have their shapes."""

    def check(value: Any, at: str) -> None:
        if not isinstance(value, dict):
            _fail(at or "the record", "an object", value)
        for key, shape in shapes.items():
            if key in value:
                shape(value[key], f"{at}.{key}" if at else key)

    return check


def _estimate_in_order(value: Any, at: str) -> None:
    _with(value=_or_none(_proportion), low=_or_none(_proportion), high=_or_none(_proportion), n=_count)(value, at)
    low, high = value.get("low"), value.get("high")
    if low is not None and high is not None and low > high:
        _fail(at, "an estimate whose low is not above its high", value)


_NUMBERS = _list_of(_or_none(_number))
_PROPORTIONS = _list_of(_or_none(_proportion))
_ESTIMATE = _or_none(_estimate_in_order)


def _named_estimate(value: Any, at: str) -> None:
    _estimate_in_order(value, at)
    _with(name=_text)(value, at)


_METRICS = _or_none(
    _with(
        wga=_ESTIMATE, average=_ESTIMATE, average_group=_ESTIMATE, average_train_weighted=_ESTIMATE,
        worst_class=_ESTIMATE, worst_group=_or_none(_text), groups=_list_of(_named_estimate),
    )
)  # fmt: skip
_CURVE = _or_none(
    _with(
        wga=_PROPORTIONS, average=_PROPORTIONS, worst_class=_PROPORTIONS, groups=_list_of(_PROPORTIONS),
        counts=_list_of(_count), n_classes=_count, scores=_each(_NUMBERS),
    )
)  # fmt: skip
_EPOCHS = _with(
    epochs=_list_of(_count), steps=_list_of(_count), rows=_list_of(_count), loss=_list_of(_or_none(_finite)),
    train=_CURVE, val=_CURVE, test=_CURVE,
)  # fmt: skip
_RECORD = _with(
    command=_text,
    seed=_or_none(_integer),
    time=_text,
    device=_text,
    section=_text,
    versions=_with(),
    label_ledger=_with(train=_list_of(_text), selection=_list_of(_text)),
    config=_with(ratio=_or_none(_positive), settings=_or_none(_with(ratio=_or_none(_positive)))),
    provenance=_with(dataset=_text, backbone=_text, options=_or_none(_with())),
    results=_with(
        method=_text, seed=_or_none(_integer), dataset=_text, backbone=_text, store=_text, split=_text, run=_text,
        parameters=_or_none(_count), interpolation_epoch=_or_none(_count), group_names=_list_of(_text),
        val_scores=_or_none(_each(_or_none(_number))), test=_METRICS, val=_METRICS, train=_METRICS, last=_METRICS,
        best=_METRICS, epochs=_or_none(_EPOCHS),
    ),
)  # fmt: skip
_INFERENCE = _or_none(
    _with(
        null_low=_or_none(_number), null_high=_or_none(_number), p_value=_or_none(_proportion), reading=_text,
        null_quantiles=_or_none(_quantiles),
    )
)  # fmt: skip
_SPECTRUM = _with(
    balance=_text,
    groups=_list_of(_with(name=_text, n=_count, minority=_flag, eigenvalues=_NUMBERS)),
    norm_ratios=_list_of(
        _with(
            against=_text, class_name=_text, rho=_or_none(_positive), minority=_or_none(_text),
            majority=_or_none(_text), n_minority=_or_none(_count), n_majority=_or_none(_count), inference=_INFERENCE,
        )
    ),
    gaps=_list_of(
        _with(run=_text, class_name=_text, rho=_or_none(_positive), gap=_or_none(_number), n_minority=_count)
    ),
)  # fmt: skip
