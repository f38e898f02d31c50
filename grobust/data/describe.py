"""What a table of groups says: shares, imbalance, minorities, and how strongly label and attribute go together."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from grobust.data.association import Association, association
from grobust.data.dataset import GroupedDataset
from grobust.groups import Groups, GroupScheme, Split

__all__ = ["SplitDescription", "describe_split", "sample_rows"]


@dataclass(frozen=True, eq=False)
class SplitDescription:
    """One split.

    Parameters
    ----------
    split : ``train``, ``val`` or ``test``
    groups : of its rows
    scheme : overlapping groups that are reported in their place; None for the disjoint ones
    association : of label and attribute
    """

    split: str
    groups: Groups
    scheme: GroupScheme | None
    association: Association

    @property
    def class_imbalance(self) -> float | None:
        """Rows of the largest class over rows of the smallest that has any; None with fewer than two such classes."""
        counts = self.groups.class_counts[self.groups.class_counts > 0]
        return None if counts.size < 2 else float(counts.max() / counts.min())

    @property
    def group_imbalance(self) -> float | None:
        """Rows of the largest group over rows of the smallest that has any; None with fewer than two such groups."""
        counts = self.reported.counts[self.reported.counts > 0]
        return None if counts.size < 2 else float(counts.max() / counts.min())

    @property
    def reported(self) -> Groups | GroupScheme:
        """The groups that tables show."""
        return self.groups if self.scheme is None else self.scheme

    @property
    def minorities(self) -> tuple[int | None, ...]:
        """Per class the id of its smallest non-empty group; None for a tie."""
        return tuple(self.groups.minority_group(label) for label in range(self.groups.n_classes))

    def as_dict(self) -> dict[str, Any]:
        """JSON-able description."""
        n = len(self.groups)
        names, counts = self.reported.names, self.reported.counts.tolist()
        return {
            "n": n,
            "overlapping": self.scheme is not None,
            "groups": [
                {"name": name, "n": count, "share": count / n if n else None}
                for name, count in zip(names, counts, strict=True)
            ],
            "classes": [
                {
                    "name": name,
                    "n": count,
                    "share": count / n if n else None,
                    "minority_group": None if minority is None else self.groups.names[minority],
                }
                for name, count, minority in zip(
                    self.groups.class_names, self.groups.class_counts.tolist(), self.minorities, strict=True
                )
            ],
            "class_imbalance": self.class_imbalance,
            "group_imbalance": self.group_imbalance,
            "association": self.association.as_dict(),
        }


def describe_split(groups: Groups, split: Split, *, scheme: GroupScheme | None = None) -> SplitDescription:
    """Describe the rows of a split.

    Parameters
    ----------
    groups : of its rows
    scheme : overlapping groups of the same rows
    """
    counts = groups.counts.reshape(groups.n_classes, groups.n_attributes)
    return SplitDescription(split.name.lower(), groups, scheme, association(counts))


def sample_rows(
    dataset: GroupedDataset, per_group: int, *, seed: int, scheme: GroupScheme | None = None, split: Split = Split.TRAIN
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Some rows of every group, of one split where the group has rows there, and of all splits where not.

    Parameters
    ----------
    per_group : rows per group, fewer where it has fewer
    seed : of the draw
    scheme : overlapping groups of all rows of the data set

    Returns
    -------
    Name and row numbers of each group, ascending.
    """
    rng = np.random.default_rng(seed)
    groups = dataset.groups
    found = []
    order = np.argsort(groups.ids, kind="stable")
    ends = np.concatenate([[0], np.cumsum(groups.counts)])
    names = groups.names if scheme is None else scheme.names
    for group, name in enumerate(names):
        rows = order[ends[group] : ends[group + 1]] if scheme is None else np.flatnonzero(scheme.membership[:, group])
        preferred = rows[dataset.split[rows] == split]
        pool = preferred if preferred.size else rows
        chosen = rng.choice(pool, size=min(per_group, pool.size), replace=False) if pool.size else pool
        found.append((name, tuple(sorted(chosen.tolist()))))
    return tuple(found)
