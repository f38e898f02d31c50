"""Table 2: groups of a data set on disk beside the published counts."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from grobust.data.catalog import load_dataset
from grobust.data.published import published_counts
from grobust.experiments.reproduce.compare import Agreement, Row
from grobust.experiments.reproduce.published import Target
from grobust.groups import Groups, Split

__all__ = ["composition_rows"]


def composition_rows(target: Target, folders: dict[str, Path]) -> Iterator[Row]:
    """Counts of every group and split, and the class imbalance; a data set without a folder is missing.

    Raises
    ------
    DataError
        If a folder does not hold its data set.
    """
    for wanted in target.table["imbalance"]:
        name = wanted["dataset"]
        if name not in folders:
            note = f"no folder; give --data {name}=DIR"
            yield Row(name, "groups", None, None, None, 0, None, None, None, Agreement.MISSING, "", note)
            continue
        dataset = load_dataset(name, data_dir=folders[name])
        published = published_counts(name)
        assert published is not None
        for number, split in enumerate(Split):
            rows = np.flatnonzero(dataset.split == split)
            groups = dataset.groups.take(rows)
            expected = published.counts[number] if published.groups else None
            for g, group in enumerate(groups.names):
                count = int(groups.counts[g])
                known = None if expected is None else int(expected[g])
                what = f"{split.name.lower()} rows of {group}{_star(groups, g) if split is Split.TRAIN else ''}"
                yield Row(
                    name, what, count, None, None, 1, known, None, 0.0,
                    Agreement.SHOWN if known is None else Agreement.AGREES if known == count else Agreement.DIFFERS,
                    published.source, f"p(y, a) {count / max(rows.size, 1):.4f}",
                )  # fmt: skip
        classes = dataset.groups.take(np.flatnonzero(dataset.split == Split.TRAIN)).class_counts
        gamma = float(classes.max() / classes.min()) if classes.min() else None
        near = gamma is not None and abs(gamma - wanted["value"]) <= wanted["tolerance"]
        yield Row(
            name, "class imbalance", gamma, None, None, 1, wanted["value"], None, wanted["tolerance"],
            Agreement.AGREES if near else Agreement.DIFFERS, target.sources[wanted["source"]],
        )  # fmt: skip


def _star(groups: Groups, g: int) -> str:
    return " *" if g in {groups.minority_group(y) for y in range(groups.n_classes)} else ""
