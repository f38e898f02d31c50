"""Gaussian groups with a planted spurious direction: features with known answers, for tests and benchmarks."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.groups import Groups

__all__ = ["GaussianGroups", "gaussian_groups"]


@dataclass(frozen=True, eq=False)
class GaussianGroups:
    """Features (n, d) float32 of Gaussian groups, and their groups."""

    features: NDArray[Any]
    groups: Groups


def gaussian_groups(
    counts: tuple[int, ...],
    dim: int,
    *,
    seed: int,
    core: float = 1.0,
    spurious: float = 2.0,
    decay: float = 0.7,
    offset: float = 0.0,
) -> GaussianGroups:
    """Two classes, two attribute values; the first axis carries the class, the second the attribute.

    Parameters
    ----------
    counts : rows of groups 0 … 3
    dim : d, at least 2
    core, spurious : distance of the class means along axis 0, of the attribute means along axis 1, in standard
        deviations of those axes
    decay : standard deviation of axis i is (i + 1) ** −decay, a power-law spectrum
    offset : common mean of all features
    """
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.repeat(np.arange(4), counts))
    groups = Groups.from_arrays(ids // 2, ids % 2, class_names=("y0", "y1"), attribute_names=("a0", "a1"))
    sds = np.arange(1, dim + 1, dtype=np.float64) ** -decay
    features = rng.standard_normal((ids.size, dim)) * sds + offset
    features[:, 0] += sds[0] * core * (groups.labels - 0.5)
    features[:, 1] += sds[1] * spurious * (groups.attributes - 0.5)
    return GaussianGroups(features.astype(np.float32), groups)
