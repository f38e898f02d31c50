"""Options that several commands share, and parsers of their values."""

import re
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from grobust.errors import ConfigError
from grobust.settings import BalanceBy, BalanceMethod, SelectBy

__all__ = [
    "By",
    "Columns",
    "DataDir",
    "Device",
    "DeviceOption",
    "Json",
    "Methods",
    "Ratio",
    "RecordFiles",
    "Records",
    "Sampler",
    "Store",
    "Where",
    "byte_size",
    "columns",
    "criteria",
    "duration",
    "floats",
    "ints",
    "methods",
    "pairs",
    "strengths",
]

LARGEST_RANGE = 10_000
UNITS = {"": 1, "B": 1, **{f"{p}B": 1000**i for i, p in enumerate("KMGT", 1)},
         **{f"{p}IB": 1024**i for i, p in enumerate("KMGT", 1)}}  # fmt: skip
SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


class Device(StrEnum):
    """Where arrays live; ``auto`` exists on the command line only and says what it took."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Store = Annotated[Path, typer.Argument(help="Feature store written by `grobust extract`.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
By = Annotated[BalanceBy, typer.Option(help="What is balanced: classes, or groups (needs attributes in training).")]
Sampler = Annotated[
    bool, typer.Option("--sampler/--no-sampler", help="Mixture: draw classes evenly, or every kept row once an epoch.")
]
Ratio = Annotated[float, typer.Option(help="Mixture ratio r: a class keeps at most r times the smallest class.")]
DeviceOption = Annotated[Device, typer.Option(help="`auto` takes a GPU if there is one, and says so.")]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of a data set, or address such as s3://bucket/folder.", show_default=False)
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        help="Column of metadata_csv, arrow or webdataset, such as label=y; repeatable.",
        metavar="NAME=VALUE",
        show_default=False,
    ),
]
Records = Annotated[
    Path | None,
    typer.Option(help="File to append the run to. Default: records.jsonl beside the store.", show_default=False),
]
RecordFiles = Annotated[
    list[Path],
    typer.Argument(help="Files of records, or folders with a records.jsonl.", show_default=False),
]
Where = Annotated[
    list[str] | None,
    typer.Option(
        "--where", help="Only runs with this value: FIELD=VALUE, or FIELD=VALUE,VALUE. Repeatable.",
        metavar="FIELD=VALUE", show_default=False,
    ),
]  # fmt: skip
Methods = Annotated[
    str,
    typer.Option(
        "--balance",
        help="One method, several with commas, or `all`: " + ", ".join(BalanceMethod) + ".",
        metavar="METHOD",
    ),
]


def methods(text: str) -> tuple[BalanceMethod, ...]:
    """``all`` or comma-separated method names."""
    if text.strip() == "all":
        return tuple(BalanceMethod)
    known = set(BalanceMethod)
    for name in _parts(text, "--balance"):
        if name not in known:
            raise ConfigError(f"--balance: unknown method {name!r}. Expected one of: all, {', '.join(BalanceMethod)}.")
    return tuple(BalanceMethod(name) for name in _parts(text, "--balance"))


def criteria(text: str) -> tuple[SelectBy, ...]:
    """``all`` or comma-separated validation scores."""
    if text.strip() == "all":
        return tuple(SelectBy)
    names = _parts(text, "--criterion")
    for name in names:
        if name not in set(SelectBy):
            raise ConfigError(f"--criterion: unknown score {name!r}. Expected one of: all, {', '.join(SelectBy)}.")
    return tuple(SelectBy(name) for name in names)


def ints(text: str, option: str) -> tuple[int, ...]:
    """Comma-separated integers and ranges: ``1,2,3``, ``0..4`` (both ends included)."""
    values: list[int] = []
    for part in _parts(text, option):
        first, dots, last = part.partition("..")
        try:
            low, high = int(first), int(last if dots else first)
        except ValueError:
            raise ConfigError(
                f"{option}: expected integers with commas or ranges, such as 1,2,3 or 0..4; got {text!r}."
            ) from None
        if high < low or high - low >= LARGEST_RANGE:
            raise ConfigError(f"{option}: the range {part!r} goes down or has more than {LARGEST_RANGE} numbers.")
        values += range(low, high + 1)
    return tuple(values)


def floats(text: str, option: str) -> tuple[float, ...]:
    """Comma-separated numbers."""
    parts = _parts(text, option)
    try:
        return tuple(float(part) for part in parts)
    except ValueError:
        raise ConfigError(f"{option}: expected numbers with commas, such as 1e-4,1e-2; got {text!r}.") from None


def strengths(text: str, option: str, *, path: tuple[float, ...]) -> tuple[float, ...]:
    """Comma-separated numbers, or ``path`` for a grid."""
    return path if text.strip() == "path" else floats(text, option)


def columns(options: list[str] | None) -> dict[str, str]:
    """``NAME=VALUE`` options of `--column`."""
    return pairs(options or [], "--column", "label=y")


def byte_size(text: str, option: str) -> int:
    """A size such as ``2GiB``, ``500MB`` or ``1073741824``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z]*)\s*", text)
    unit = match and UNITS.get(match[2].upper())
    if not (match and unit):
        raise ConfigError(f"{option}: expected a size such as 2GiB, 500MB or 1073741824; got {text!r}.")
    return int(float(match[1]) * unit)


def duration(text: str, option: str) -> float:
    """Seconds of an age such as ``30d``, ``12h`` or ``2w``."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([A-Za-z])\s*", text)
    unit = match and SECONDS.get(match[2].lower())
    if not (match and unit):
        raise ConfigError(
            f"{option}: expected an age in weeks, days, hours or minutes, such as 30d or 12h; got {text!r}."
        )
    return float(match[1]) * unit


def pairs(texts: Sequence[str], option: str, example: str) -> dict[str, str]:
    """Values of a repeatable option ``NAME=VALUE``."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise ConfigError(f"{option} expects NAME=VALUE, such as {example}; got {text!r}.")
        if key in found:
            raise ConfigError(f"{option} names {key!r} twice.")
        found[key] = value
    return found


def _parts(text: str, option: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ConfigError(f"{option}: empty value in {text!r}.")
    return parts
