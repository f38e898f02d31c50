"""The figure of table 2: how large every group is in every split, and how unequal classes are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grobust.report._canvas import SERIES_COLORS, in_order, panels, plain, titled, write

__all__ = ["GroupCount", "Share", "imbalance", "plot_composition", "shares"]

SPLITS = ("train", "val", "test")
COLUMNS = ("dataset", "split", "class_name", "group", "n", "p_class", "p_group", "p_group_given_class", "is_minority")


@dataclass(frozen=True)
class GroupCount:
    """Rows of one group in one split, ``train``, ``val`` or ``test``."""

    dataset: str
    split: str
    class_name: str
    group: str
    n: int


@dataclass(frozen=True)
class Share:
    """A count and its shares of the split and of the class; NaN of what is empty.

    `is_minority`: whether it is the smallest group of its class in training that has rows, without a tie.
    """

    count: GroupCount
    p_class: float
    p_group: float
    p_group_given_class: float
    is_minority: bool


def shares(counts: Sequence[GroupCount]) -> list[Share]:
    """Shares of every count, in order; those of one data set and split sum to 1."""
    found = []
    for count in counts:
        split = [c for c in counts if (c.dataset, c.split) == (count.dataset, count.split)]
        of_class = sum(c.n for c in split if c.class_name == count.class_name)
        total = sum(c.n for c in split)
        found.append(
            Share(
                count, _ratio(of_class, total), _ratio(count.n, total), _ratio(count.n, of_class),
                count.group in _minorities(counts, count.dataset),
            )
        )  # fmt: skip
    return found


def imbalance(counts: Sequence[GroupCount], dataset: str) -> float:
    """Training rows of the largest class over those of the smallest; NaN without training rows of two classes."""
    classes: dict[str, int] = {}
    for c in counts:
        if (c.dataset, c.split) == (dataset, "train"):
            classes[c.class_name] = classes.get(c.class_name, 0) + c.n
    return _ratio(max(classes.values()), min(classes.values())) if len(classes) > 1 else np.nan


def plot_composition(counts: Sequence[GroupCount], stem: Path) -> tuple[Path, ...]:
    """Share of every group in every split, with its rows; minority groups of training are starred.

    Returns
    -------
    The files written, see `grobust.report._canvas.write`; the CSV has p(y), p(g) and p(g | y).
    """
    found = shares(counts)
    datasets = in_order(c.dataset for c in counts)
    figure, axes = panels(len(datasets))
    for ax, dataset in zip(axes, datasets, strict=True):
        panel = [s for s in found if s.count.dataset == dataset]
        groups = in_order(s.count.group for s in panel)
        splits = [name for name in SPLITS if any(s.count.split == name for s in panel)]
        height = 0.8 / len(splits)
        for j, split in enumerate(splits):
            own = [s for s in panel if s.count.split == split]
            y = [groups.index(s.count.group) - 0.4 + height * (j + 0.5) for s in own]
            width = [100 * np.nan_to_num(s.p_group) for s in own]
            ax.barh(y, width, height=0.9 * height, color=SERIES_COLORS[j], label=split)
            for at, share, s in zip(y, width, own, strict=True):
                ax.annotate(f" {s.count.n:,}", (share, at), va="center", fontsize=7)
        starred = {s.count.group for s in panel if s.is_minority}
        ax.set_yticks(range(len(groups)), [f"{plain(g)}{' *' if g in starred else ''}" for g in groups], fontsize=8)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.15 * max(100 * np.nan_to_num(s.p_group) for s in panel) or 1)
        ax.set_xlabel("share of the split (%), and rows")
        gamma = imbalance(counts, dataset)
        classes = "" if np.isnan(gamma) else f"; largest over smallest class γ = {gamma:.4g}"
        titled(ax, f"{dataset}\n* smallest group of its class{classes}")
        ax.legend(frameon=False, fontsize=8)
    rows = [
        {"dataset": s.count.dataset, "split": s.count.split, "class_name": s.count.class_name, "group": s.count.group,
         "n": s.count.n, "p_class": s.p_class, "p_group": s.p_group, "p_group_given_class": s.p_group_given_class,
         "is_minority": s.is_minority}
        for s in found
    ]  # fmt: skip
    return write(figure, stem, rows, COLUMNS)


def _minorities(counts: Sequence[GroupCount], dataset: str) -> set[str]:
    found = set()
    train = [c for c in counts if (c.dataset, c.split) == (dataset, "train") and c.n]
    for name in {c.class_name for c in train}:
        own = sorted((c for c in train if c.class_name == name), key=lambda c: c.n)
        if len(own) > 1 and own[0].n < own[1].n:
            found.add(own[0].group)
    return found


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else np.nan
