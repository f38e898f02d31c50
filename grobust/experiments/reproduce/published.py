"""Published figures and tables: what each shows, its numbers and their sources, from ``published.toml``."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from typing import Any

from grobust.errors import ConfigError

__all__ = ["Target", "published_targets", "target_named"]


@dataclass(frozen=True)
class Target:
    """A figure or table of the paper.

    Parameters
    ----------
    name, paper : ``rho``, ``figure 5``
    content, shape : what it shows, and what to expect where no number is known
    grids : that make the records it needs
    table : its numbers, as the file has them
    sources : of the numbers, by their short names
    """

    name: str
    paper: str
    content: str
    shape: str
    grids: tuple[str, ...]
    table: Mapping[str, Any]
    sources: Mapping[str, str]


@lru_cache(maxsize=1)
def published_targets() -> tuple[Target, ...]:
    """All targets, in the order of the paper."""
    content = tomllib.loads(files("grobust.experiments.reproduce").joinpath("published.toml").read_text("utf-8"))
    return tuple(
        Target(
            name, table["paper"], table["content"], table["shape"], tuple(table["grids"]), table, content["sources"]
        )
        for name, table in content["targets"].items()
    )  # fmt: skip


def target_named(name: str) -> Target:
    """The target of a name.

    Raises
    ------
    ConfigError
        If there is none; the nearest is named.
    """
    known = {target.name: target for target in published_targets()}
    if name not in known:
        close = get_close_matches(name, known, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"'{name}' is no figure or table of the paper.{hint} There are: {', '.join(known)}.")
    return known[name]
