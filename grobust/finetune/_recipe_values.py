"""Values of recipes as the types of their settings."""

from enum import Enum
from functools import lru_cache
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from grobust.errors import ConfigError
from grobust.finetune.settings import FinetuneSettings

__all__ = ["INPUTS", "plain", "setting_types", "typed"]

# Arguments of `grobust.load_backbone` that belong to a recipe.
INPUTS: dict[str, Any] = {"image_size": int, "max_tokens": int}


@lru_cache(maxsize=1)
def setting_types() -> dict[str, Any]:
    """Type of every field of `FinetuneSettings`, and of the inputs."""
    return {**get_type_hints(FinetuneSettings), **INPUTS}


def typed(name: str, value: Any) -> Any:
    """The value as the type of its setting: choices from their names, whole numbers as float, lists as tuple.

    Raises
    ------
    ConfigError
        If it has no such type.
    """
    return _as(setting_types()[name], name, value)


def plain(value: Any) -> Any:
    """The value as JSON has it."""
    if isinstance(value, Enum):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _as(hint: Any, name: str, value: Any) -> Any:
    allowed = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if value is None and type(None) in allowed:
        return None
    one = allowed[0]
    if isinstance(one, type) and issubclass(one, Enum):
        try:
            return one(value)
        except ValueError:
            raise ConfigError(f"{name} must be one of {', '.join(one)}; got {value!r}.") from None
    if get_origin(one) is tuple and isinstance(value, list | tuple) and len(value) == len(get_args(one)):
        return tuple(_as(part, name, item) for item, part in zip(value, get_args(one), strict=True))
    if one is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(one, type) or not isinstance(value, one) or (isinstance(value, bool) and one is not bool):
        raise ConfigError(f"{name} must be {getattr(one, '__name__', one)}, got {value!r}.")
    return value
