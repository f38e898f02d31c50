"""Values of a grid file as the types of a config's fields."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from enum import Enum
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from grobust.errors import ConfigError

__all__ = ["FieldError", "converted", "field_types", "int_list", "nearest"]

LONGEST_RANGE = 10_000


class FieldError(ConfigError):
    """A value of a field that is not of its type; `field` names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@cache
def field_types(config: type) -> dict[str, Any]:
    """Name and type of every field of a dataclass."""
    hints = get_type_hints(config)
    return {field.name: hints[field.name] for field in fields(config)}


def converted(config: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a dataclass takes them: choices by name, whole numbers as float, lists as tuples.

    Raises
    ------
    FieldError
        If a value is of another type, or no field has such a name.
    """
    types = field_types(config)
    found = {}
    for name, value in values.items():
        if name not in types:
            raise FieldError(name, f"'{name}' is no setting here.{nearest(name, list(types))}")
        found[name] = _as(types[name], name, value)
    return found


def nearest(name: str, known: Sequence[str]) -> str:
    """A sentence with the name that was meant, or with all of them."""
    close = get_close_matches(name, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else f" There are: {', '.join(known)}."


def int_list(name: str, value: Any) -> tuple[int, ...]:
    """An integer, a list of them, or a range as text: ``1..3``, both ends included.

    Raises
    ------
    FieldError
        If it is something else.
    """
    if isinstance(value, str):
        first, dots, last = value.partition("..")
        if dots and first.strip().isdecimal() and last.strip().isdecimal():
            low, high = int(first), int(last)
            if low <= high < low + LONGEST_RANGE:
                return tuple(range(low, high + 1))
    listed = value if isinstance(value, list | tuple) else [value]
    if not listed or any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in listed):
        raise FieldError(name, f'{name} must be integers, none below 0, or a range such as "1..3"; got {value!r}.')
    return tuple(listed)


def _as(hint: Any, name: str, value: Any) -> Any:
    allowed = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if value is None and type(None) in allowed:
        return None
    one = allowed[0]
    origin, arguments = get_origin(one), get_args(one)
    if origin is tuple and isinstance(value, list | tuple):
        parts = (arguments[0],) * len(value) if arguments[-1] is Ellipsis else arguments
        if len(parts) == len(value):
            return tuple(_as(part, name, item) for part, item in zip(parts, value, strict=True))
    if origin is dict and isinstance(value, Mapping):
        return {str(key): _as(arguments[1], f"{name}.{key}", item) for key, item in value.items()}
    if isinstance(one, type) and is_dataclass(one) and isinstance(value, Mapping):
        return one(**converted(one, value))
    if isinstance(one, type) and origin is None:
        return _plain(one, name, value)
    raise FieldError(name, f"{name} must be {_words(hint)}, got {value!r}.")


def _plain(kind: type, name: str, value: Any) -> Any:
    if issubclass(kind, Enum):
        choices = [str(choice.value) for choice in kind]
        if value not in choices:
            hint = nearest(str(value), choices) if isinstance(value, str) else ""
            raise FieldError(name, f"{name} must be one of {', '.join(choices)}; got {value!r}.{hint}")
        return kind(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise FieldError(name, f"{name} must be {_words(kind)}, got {value!r}.")
    return value


def _words(hint: Any) -> str:
    names = {int: "an integer", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
    if hint in names:
        return names[hint]
    if get_origin(hint) is tuple:
        return "a list"
    return str(getattr(hint, "__name__", hint))
