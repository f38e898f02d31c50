"""Other splits of a data set, by a rule in words: ``half:1``, ``fraction:70/10/20``, ``content:70/10/20``."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import xxhash

from grobust.data.content import item_digest
from grobust.data.dataset import GroupedDataset
from grobust.data.tables import take_rows
from grobust.errors import ConfigError, DataError
from grobust.groups import Split
from grobust.held_out import held_out_half, split_by_digest, split_groups_by_digest

__all__ = ["RULES", "SplitKind", "SplitRule", "parse_split_rule", "resplit"]

DEFAULT_SEED = 1


class SplitKind(StrEnum):
    """Ways to split.

    ``half``: the paper's held-out half. The reweighting half of the validation split becomes the training split and
    the other half the validation split; test stays, and the rows of the old training split are left out.
    ``fraction``: every group is divided at the shares, by a hash of the row's name and the seed.
    ``content``: a hash of the item's content and the seed decides, so equal items never stand in two splits.
    """

    HALF = "half"
    FRACTION = "fraction"
    CONTENT = "content"


RULES = "half[:SEED], fraction:TRAIN/VAL/TEST[:SEED] or content:TRAIN/VAL/TEST[:SEED]"


@dataclass(frozen=True)
class SplitRule:
    """A parsed rule: what divides, the shares of train, validation and test (none for ``half``), and the seed."""

    kind: SplitKind
    shares: tuple[float, ...]
    seed: int = DEFAULT_SEED

    def __str__(self) -> str:
        shares = "/".join(f"{share:g}" for share in self.shares)
        return ":".join(part for part in (str(self.kind), shares, str(self.seed)) if part)


def parse_split_rule(text: str) -> SplitRule:
    """The rule of a text.

    Raises
    ------
    ConfigError
        If it is none.
    """
    kind, *rest = text.strip().split(":")
    try:
        chosen = SplitKind(kind)
        shares = () if chosen is SplitKind.HALF else tuple(float(part) for part in rest.pop(0).split("/"))
        seed = int(rest.pop(0)) if rest else DEFAULT_SEED
        # The splits themselves say what is wrong with shares; here only the form counts.
        usable = not rest and seed >= 0 and len(shares) in (0, len(Split)) and all(share >= 0 for share in shares)
    except (ValueError, IndexError):
        usable = False
    if not usable or (shares and not 0 < sum(shares) < float("inf")):
        raise ConfigError(f"'{text}' is no way to split. Expected {RULES}, such as half:1 or fraction:70/10/20:1.")
    return SplitRule(chosen, shares, seed)


def resplit(
    dataset: GroupedDataset, rule: SplitRule, *, on_progress: Callable[[int, int], None] | None = None
) -> GroupedDataset:
    """The data set with other splits; its name and digest say so.

    Parameters
    ----------
    on_progress : called with the number of items read and of all items; ``content`` alone reads items

    Raises
    ------
    DataError
        If there is no validation split to halve, or an item cannot be read.
    """
    name = f"{dataset.name}[{rule}]"
    if rule.kind is SplitKind.HALF:
        val = np.flatnonzero(dataset.split == Split.VAL)
        if val.size < 2:
            raise DataError(
                f"{dataset.name} has {val.size} validation row(s), so there is no half to hold out.\n"
                "Give it a validation split first: fraction:70/10/20."
            )
        halves = held_out_half(val, seed=rule.seed)
        rows = np.concatenate([halves.reweighting, halves.validation, np.flatnonzero(dataset.split == Split.TEST)])
        sizes = (halves.reweighting.size, halves.validation.size, rows.size - val.size)
        split = np.repeat(np.array(Split, dtype=np.int8), sizes)
        order = np.argsort(rows, kind="stable")
        return take_rows(dataset, rows[order], name=name, split=split[order])
    salt = f"{rule.seed} ".encode()
    keys = np.zeros(len(dataset), dtype=np.uint64)
    for row, sample_id in enumerate(dataset.sample_ids):
        content = sample_id.encode() if rule.kind is SplitKind.FRACTION else item_digest(dataset[row])
        keys[row] = xxhash.xxh3_64_intdigest(salt + content)
        if on_progress is not None and rule.kind is SplitKind.CONTENT:
            on_progress(row + 1, len(dataset))
    if rule.kind is SplitKind.FRACTION:
        split = split_groups_by_digest(dataset.groups, keys, rule.shares)
    else:
        split = split_by_digest(keys, rule.shares)
    return take_rows(dataset, np.arange(len(dataset)), name=name, split=split)
