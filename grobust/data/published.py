"""Counts that were published for the benchmarks, from ``published.toml``."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

from grobust.errors import DataError
from grobust.groups import Split

__all__ = ["Published", "published_counts"]

SPLITS = tuple(split.name.lower() for split in Split)


@dataclass(frozen=True, eq=False)
class Published:
    """What is known of a benchmark.

    Parameters
    ----------
    source : where the numbers stand, and how sure they are
    rows : of train, validation and test
    groups : g names; empty where the sizes of the groups are not known
    counts : (3, g) int64
    """

    source: str
    rows: tuple[int, ...]
    groups: tuple[str, ...]
    counts: NDArray[np.int64]


def published_counts(name: str) -> Published | None:
    """The published counts of a data set by its name in the catalog; None if there are none."""
    content = tomllib.loads(files("grobust.data").joinpath("published.toml").read_text(encoding="utf-8"))
    if name not in content:
        return None
    entry = content[name]
    groups = tuple(entry.get("groups", ()))
    counts = np.array([entry.get(split, []) for split in SPLITS], dtype=np.int64)
    rows = tuple(entry["rows"])
    if counts.shape != (len(Split), len(groups)) or (groups and tuple(counts.sum(axis=1).tolist()) != rows):
        raise DataError(f"published.toml contradicts itself about '{name}'; reinstall grobust.")
    return Published(entry["source"], rows, groups, counts)
