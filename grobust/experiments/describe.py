"""`run_describe`: the groups of a data set, their imbalance and the strength of the spurious correlation."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grobust.data.catalog import load_dataset
from grobust.data.contact_sheet import write_contact_sheet
from grobust.data.dataset import GroupedDataset
from grobust.data.describe import SplitDescription, describe_split, sample_rows
from grobust.data.schemes import overlapping_scheme
from grobust.errors import ConfigError
from grobust.groups import GroupScheme, Split

__all__ = ["DescribeConfig", "DescribeReport", "run_describe"]

INTERVAL = "95%, percentiles of 2,000 multinomial replicates; lower end 0 where independence is not rejected at 5%"


@dataclass(frozen=True)
class DescribeConfig:
    """Describe a data set.

    Parameters
    ----------
    dataset, data_dir, columns : as in `grobust.experiments.config.ExtractConfig`
    split : rule that splits anew, see `grobust.data.resplit`; None for the splits as they are
    samples : items shown per group; 0 for none
    sheet : PNG to draw images of every group on; None for none
    seed : of the items shown
    """

    dataset: str
    data_dir: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    samples: int = 2
    sheet: Path | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if self.samples < 0 or self.seed < 0:
            raise ConfigError(f"samples and seed must not be negative, got {self.samples} and {self.seed}.")
        if self.sheet is not None and self.samples == 0:
            raise ConfigError("a contact sheet needs at least one sample per group: --samples 4.")


@dataclass(frozen=True, eq=False)
class DescribeReport:
    """What a data set holds.

    Parameters
    ----------
    name, kind, digest, n : of the data set
    splits : those that have rows
    samples : name of each group, and sample id and text of some of its rows (the text is None for images)
    sheet : picture that was drawn, or None
    notes : what a reader must know
    """

    config: DescribeConfig
    name: str
    kind: str
    digest: str
    n: int
    splits: tuple[SplitDescription, ...]
    samples: tuple[tuple[str, tuple[tuple[str, str | None], ...]], ...]
    sheet: Path | None
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "name": self.name,
            "kind": self.kind,
            "digest": self.digest,
            "n": self.n,
            "interval": INTERVAL,
            "splits": {each.split: each.as_dict() for each in self.splits},
            "samples": [
                {"group": group, "rows": [{"id": name, "text": text} for name, text in rows]}
                for group, rows in self.samples
            ],
            "sheet": None if self.sheet is None else str(self.sheet),
            "notes": list(self.notes),
        }


def run_describe(config: DescribeConfig, *, on_progress: Callable[[int, int], None] | None = None) -> DescribeReport:
    """Read labels, attributes and splits; look at items only for samples, and to split by content.

    Parameters
    ----------
    on_progress : called with the number of items read and of all items, where the split reads any

    Raises
    ------
    DataError
        If the data set cannot be read, or an image that is to be shown cannot.
    ConfigError
        If a picture is asked for of texts.
    """
    dataset = load_dataset(
        config.dataset, data_dir=config.data_dir, columns=config.columns, split=config.split, on_progress=on_progress
    )
    if config.sheet is not None and dataset.kind != "image":
        raise ConfigError(f"{dataset.name} holds texts; a contact sheet shows images. Leave out --sheet.")
    scheme = overlapping_scheme(dataset.name, dataset.groups)
    splits = tuple(_split(dataset, split) for split in Split if (dataset.split == split).any())
    rows = sample_rows(dataset, config.samples, seed=config.seed, scheme=scheme) if config.samples else ()
    sheet = None
    if config.sheet is not None:
        counts = (dataset.groups.counts if scheme is None else scheme.counts).tolist()
        captions = [f"{name}   n = {count:,}" for (name, _), count in zip(rows, counts, strict=True)]
        sheet = write_contact_sheet(dataset, rows, captions, config.sheet)
    return DescribeReport(
        config=config,
        name=dataset.name,
        kind=dataset.kind,
        digest=dataset.digest,
        n=len(dataset),
        splits=splits,
        samples=tuple((name, tuple(_sample(dataset, row) for row in chosen)) for name, chosen in rows),
        sheet=sheet,
        notes=_notes(dataset, scheme),
    )


def _split(dataset: GroupedDataset, split: Split) -> SplitDescription:
    groups = dataset.groups.take(dataset.split == split)
    return describe_split(groups, split, scheme=overlapping_scheme(dataset.name, groups))


def _sample(dataset: GroupedDataset, row: int) -> tuple[str, str | None]:
    name = dataset.sample_ids[row]
    if dataset.kind == "image":
        return name, None
    item = dataset[row]
    return name, item if isinstance(item, str) else " ⟂ ".join(item)


def _notes(dataset: GroupedDataset, scheme: GroupScheme | None) -> tuple[str, ...]:
    train = dataset.groups.take(dataset.split == Split.TRAIN)
    counts, names = (train.counts, train.names)
    notes = []
    if scheme is not None:
        notes.append(
            "groups overlap: a row counts in each of its groups, or in none; minority groups and the strength of the "
            "correlation are those of the disjoint sets of attributes"
        )
    elif len(train):
        notes += [f"group '{names[g]}' has no training rows" for g in np.flatnonzero(counts == 0).tolist()[:8]]
    if not len(train):
        notes.append("there are no training rows")
    return tuple(notes)
