"""`run_verify_data`: a data set on disk beside what was published of it, and its items one by one."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grobust.data.catalog import load_dataset
from grobust.data.dataset import GroupedDataset
from grobust.data.published import Published, published_counts
from grobust.data.schemes import overlapping_scheme
from grobust.data.verify import ItemsChecked, Mismatch, check_items, compare_counts
from grobust.groups import Split

__all__ = ["VerifyConfig", "VerifyReport", "run_verify_data"]


@dataclass(frozen=True)
class VerifyConfig:
    """Check a data set.

    Parameters
    ----------
    dataset, data_dir, columns : as in `grobust.experiments.config.ExtractConfig`
    decode : read every item, or only look for the files
    """

    dataset: str
    data_dir: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    decode: bool = True


@dataclass(frozen=True, eq=False)
class VerifyReport:
    """What was found.

    Parameters
    ----------
    name, digest : of the data set; the digest is of ids, labels, attributes and splits (and texts)
    counts : per split, names and rows of the groups
    published : what they should be, or None where nothing was published
    mismatches : counts that differ
    items : what reading the items found
    """

    config: VerifyConfig
    name: str
    digest: str
    counts: dict[str, dict[str, int]]
    published: Published | None
    mismatches: tuple[Mismatch, ...]
    items: ItemsChecked

    @property
    def ok(self) -> bool:
        """Whether all counts agree and every item is there and readable; duplicates are reported and allowed."""
        return not (self.mismatches or self.items.missing or self.items.unreadable)

    def published_count(self, split: str, group: str) -> int | None:
        """Published rows of a group, None where they are not known."""
        if self.published is None or group not in self.published.groups:
            return None
        return int(self.published.counts[Split[split.upper()], self.published.groups.index(group)])

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "name": self.name,
            "ok": self.ok,
            "digest": self.digest,
            "source": None if self.published is None else self.published.source,
            "splits": {
                split: [
                    {"group": group, "n": n, "published": self.published_count(split, group)}
                    for group, n in groups.items()
                ]
                for split, groups in self.counts.items()
            },
            "mismatches": [asdict(each) for each in self.mismatches],
            "items": asdict(self.items),
        }


def run_verify_data(config: VerifyConfig, *, on_progress: Callable[[int, int], None] | None = None) -> VerifyReport:
    """Load the data set, compare its counts, read its items.

    Raises
    ------
    DataError
        If its tables cannot be read.
    """
    dataset = load_dataset(config.dataset, data_dir=config.data_dir, columns=config.columns)
    published = published_counts(config.dataset)
    return VerifyReport(
        config=config,
        name=dataset.name,
        digest=dataset.digest,
        counts={split.name.lower(): _counts(dataset, split) for split in Split},
        published=published,
        mismatches=() if published is None else compare_counts(dataset, published),
        items=check_items(dataset, decode=config.decode, on_progress=on_progress),
    )


def _counts(dataset: GroupedDataset, split: Split) -> dict[str, int]:
    groups = dataset.groups.take(dataset.split == split)
    scheme = overlapping_scheme(dataset.name, groups) or groups
    return dict(zip(scheme.names, scheme.counts.tolist(), strict=True))
