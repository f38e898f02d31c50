"""Gaussian groups whose attribute misleads: the first axis carries the class, the second what training leans on."""

from functools import cache

import numpy as np
from scipy.special import logsumexp

from grobust.data.synthetic import gaussian_groups
from grobust.groups import Groups
from grobust.methods import Features
from grobust.metrics import group_metrics
from grobust.probe import Probe

DIM, DECAY = 10, 0.3
SDS = np.arange(1, DIM + 1) ** -DECAY


@cache
def planted(seed: int, counts: tuple[int, int, int, int], core: float = 3.0, spurious: float = 6.0) -> Features:
    data = gaussian_groups(counts, DIM, seed=seed, core=core, spurious=spurious, decay=DECAY)
    return Features(data.features, data.groups)


def train(seed: int = 1, scale: int = 1) -> Features:
    return planted(seed, (950 * scale, 30 * scale, 30 * scale, 950 * scale))


def validation(seed: int = 2) -> Features:
    return planted(seed, (200, 200, 200, 200))


def three_classes(n: int = 400, *, seed: int = 0) -> Features:
    """Three classes, two attribute values in 80% agreement with the class's parity."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=n)
    attributes = np.where(rng.random(n) < 0.8, labels % 2, 1 - labels % 2)
    x = rng.standard_normal((n, 6))
    x[:, :3] += 2 * np.eye(3)[labels]
    x[:, 3] += 3 * attributes
    return Features(x.astype(np.float32), Groups.from_arrays(labels, attributes))


def direction(probe: Probe) -> np.ndarray:
    """Unit vector of a two-class head, on features scaled to unit deviation within groups."""
    weight = (probe.weight[1] - probe.weight[0]) * SDS
    return np.asarray(weight / np.linalg.norm(weight))


def wga(probe: Probe, rows: Features) -> float:
    return group_metrics(probe.predict(rows.values), rows.groups).wga.value


def losses(weight: np.ndarray, bias: np.ndarray, x: np.ndarray, y: np.ndarray, offsets: np.ndarray | float = 0.0):
    """(n) cross-entropies, written down anew."""
    logits = x.astype(np.float64) @ weight.T + bias + offsets
    return logsumexp(logits, axis=1) - logits[np.arange(y.size), y]
