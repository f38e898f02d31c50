"""Options that several commands share, and parsers of their values."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from grobust.errors import ConfigError
from grobust.settings import BalanceBy, BalanceMethod

__all__ = ["By", "Device", "DeviceOption", "Json", "Methods", "Ratio", "Records", "Store", "floats", "ints", "methods"]


class Device(StrEnum):
    """Where arrays live; ``auto`` exists on the command line only and says what it took."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Store = Annotated[Path, typer.Argument(help="Feature store written by `grobust extract`.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
By = Annotated[BalanceBy, typer.Option(help="What is balanced: classes, or groups (needs attributes in training).")]
Ratio = Annotated[float, typer.Option(help="Mixture ratio r: a class keeps at most r times the smallest class.")]
DeviceOption = Annotated[Device, typer.Option(help="`auto` takes a GPU if there is one, and says so.")]
Records = Annotated[
    Path | None,
    typer.Option(help="File to append the run to. Default: records.jsonl beside the store.", show_default=False),
]
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


def ints(text: str, option: str) -> tuple[int, ...]:
    """Comma-separated integers."""
    parts = _parts(text, option)
    try:
        return tuple(int(part) for part in parts)
    except ValueError:
        raise ConfigError(f"{option}: expected integers with commas, such as 1,2,3; got {text!r}.") from None


def floats(text: str, option: str) -> tuple[float, ...]:
    """Comma-separated numbers."""
    parts = _parts(text, option)
    try:
        return tuple(float(part) for part in parts)
    except ValueError:
        raise ConfigError(f"{option}: expected numbers with commas, such as 1e-4,1e-2; got {text!r}.") from None


def _parts(text: str, option: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ConfigError(f"{option}: empty value in {text!r}.")
    return parts
