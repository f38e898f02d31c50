"""`ValidationArrays`: the only rows that a selector can see."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import NDArray

from grobust.errors import ConfigError, DataError, GroupError, ShapeError
from grobust.groups import Groups, Split
from grobust.ledger import LabelUse
from grobust.selection._proxy import ProxyReading
from grobust.selection._scores import cell_scores
from grobust.settings import SelectBy

__all__ = ["ValidationArrays"]


class ValidationArrays:
    """Groups of the validation rows of a data set, and what a bias proxy says about them.

    It is made from the rows of all splits and keeps those of the validation split: there is no way to put test rows
    into one, and selectors take nothing else.

    Parameters
    ----------
    groups : of all n rows
    split : (n) `Split` of each row
    proxy : what a bias proxy says about the validation rows, in their order; None for none
    unions : (g, o) bool, which of the g groups each of o overlapping groups is made of; None where groups are disjoint.
        Scores by group look at these

    Attributes
    ----------
    groups : of the m validation rows
    proxy : as given
    cells : the groups cut further by what the proxy says, so that every score follows from correct counts per cell

    Raises
    ------
    ShapeError
        If `groups`, `split`, `proxy` and `unions` do not fit together.
    """

    def __init__(
        self, groups: Groups, split: NDArray[Any], proxy: ProxyReading | None = None, *,
        unions: NDArray[np.bool_] | None = None,
    ) -> None:  # fmt: skip
        split = np.asarray(split)
        if split.shape != (len(groups),):
            raise ShapeError(f"split has shape {split.shape}; expected ({len(groups)},), one per row of the groups.")
        self.groups = groups.take(np.flatnonzero(split == Split.VAL))
        if proxy is not None and len(proxy) != len(self.groups):
            raise ShapeError(f"the proxy read {len(proxy)} rows, and there are {len(self.groups)} validation rows.")
        if unions is not None and unions.shape[:1] != (groups.n_groups,):
            raise ShapeError(f"unions have shape {unions.shape}; expected ({groups.n_groups}, o), a row per group.")
        self.proxy, self._unions = proxy, unions
        self._parts = None if proxy is None else _Parts.of(self.groups, proxy)
        self.cells = self.groups if self._parts is None else self._parts.cells

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def has_attributes(self) -> bool:
        """Whether rows have attributes, so that groups are more than classes."""
        return self.groups.n_attributes > 1

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know: `absent`, and what the proxy has to say."""
        return (*self.absent, *(() if self.proxy is None else self.proxy.notes))

    @property
    def absent(self) -> tuple[str, ...]:
        """Notes on classes and groups without validation rows, if there are rows at all."""
        if len(self) == 0:
            return ()
        counts, classes = self.groups.counts, self.groups.class_counts
        lost = [name for name, n in zip(self.groups.class_names, classes, strict=True) if n == 0]
        notes = [f"class '{name}' has no validation rows: no score sees it" for name in lost]
        notes += [
            f"group '{name}' has no validation rows: wga and average_group leave it out"
            for g, (name, n) in enumerate(zip(self.groups.names, counts, strict=True))
            if n == 0 and self.has_attributes and classes[g // self.groups.n_attributes] > 0
        ]
        return tuple(notes)

    def labels_used(self, select: SelectBy) -> tuple[str, ...]:
        """Kinds of labels of validation rows that a score reads."""
        uses = (LabelUse.CLASS, LabelUse.ATTRIBUTE) if select.needs_groups else (LabelUse.CLASS,)
        return tuple(str(use) for use in uses)

    def require(self, select: SelectBy) -> None:
        """Check that the score can be computed.

        Raises
        ------
        DataError
            If there are no validation rows.
        GroupError
            If the score needs groups and the rows have no attributes.
        ConfigError
            If it needs a bias proxy and there is none.
        """
        if len(self) == 0:
            raise DataError(f"There are no validation rows, so nothing can be chosen by {select}.")
        if select.needs_groups and not self.has_attributes:
            free = ", ".join(s for s in SelectBy if not s.needs_groups)
            raise GroupError(f"{select} looks at groups, and these rows have no attributes. Without: {free}.")
        if select.needs_proxy and self.proxy is None:
            raise ConfigError(f"{select} needs a bias proxy: give ValidationArrays(…, proxy=BiasProxy.read(…)).")

    def by_group(self, correct: Int[np.ndarray, "... c"]) -> Int[np.ndarray, "... g"]:
        """(..., g) correct predictions per group from those per cell."""
        return correct if self._parts is None else self._parts.summed(correct, self._parts.group, self.groups.n_groups)

    def scores(self, select: SelectBy, correct: Int[np.ndarray, "... c"]) -> NDArray[Any]:
        """(...) scores of candidates from correct predictions per cell of `cells`; raises as `require`."""
        self.require(select)
        if correct.shape[-1] != self.cells.n_groups:
            raise ShapeError(f"correct has {correct.shape[-1]} cells; expected {self.cells.n_groups}, as in `cells`.")
        k = self.groups.n_classes
        return cell_scores(self._seen(select, correct), self._seen(select, self.cells.counts), k, select)

    def all_scores(self, correct: Int[np.ndarray, "... c"]) -> dict[SelectBy, NDArray[Any]]:
        """Every score that can be computed, by name, in the order of `SelectBy`."""
        if len(self) == 0:
            return {}
        possible = [
            s for s in SelectBy
            if (self.has_attributes or not s.needs_groups) and (self.proxy is not None or not s.needs_proxy)
        ]  # fmt: skip
        return {select: self.scores(select, correct) for select in possible}

    def _seen(self, select: SelectBy, cells: NDArray[Any]) -> NDArray[Any]:
        """The same counts in the cells that a score looks at."""
        parts = self._parts
        if parts is None or not select.needs_proxy:
            found = self.by_group(cells)
            return found @ self._unions.astype(np.int64) if self._unions is not None and select.needs_groups else found
        pseudo = select is SelectBy.WORST_PSEUDO_GROUP
        return parts.summed(cells, parts.pseudo_group if pseudo else parts.stratum)


@dataclass(frozen=True, eq=False)
class _Parts:
    """The combinations of class, attribute, proxy's prediction and large loss that have rows, of which there are u.

    Only those are kept: with many classes most combinations are empty.

    Parameters
    ----------
    cells : groups whose attributes number the combinations of a class
    cell : (u) id of each combination among the cells
    group, stratum, pseudo_group : (u) what each belongs to
    """

    cells: Groups
    cell: Int[np.ndarray, " u"]
    group: Int[np.ndarray, " u"]
    stratum: Int[np.ndarray, " u"]
    pseudo_group: Int[np.ndarray, " u"]

    @classmethod
    def of(cls, groups: Groups, proxy: ProxyReading) -> "_Parts":
        k = groups.n_classes
        keys = (groups.ids * k + proxy.predictions) * 2 + proxy.is_hard
        used, of_row = np.unique(keys, return_inverse=True)
        group, predicted, hard = used // 2 // k, used // 2 % k, used % 2
        label = group // groups.n_attributes
        # Sorted by class, so that a combination's number in its class is its distance from the class's first.
        number = np.arange(used.size) - np.searchsorted(label, label)
        width = int(number.max(initial=0)) + 1
        names = tuple(str(i) for i in range(width))
        return cls(
            cells=Groups(groups.labels, number[of_row], groups.class_names, names), cell=label * width + number,
            group=group, stratum=np.unique(predicted * k + label, return_inverse=True)[1],
            pseudo_group=np.unique(label * 2 + hard, return_inverse=True)[1],
        )  # fmt: skip

    def summed(self, cells: NDArray[Any], target: NDArray[Any], size: int | None = None) -> NDArray[Any]:
        """Counts (..., c) per cell added up by the target (u) of each combination."""
        width = int(target.max(initial=-1)) + 1 if size is None else size
        found = np.zeros((*cells.shape[:-1], width), dtype=cells.dtype)
        for part, to in zip(self.cell.tolist(), target.tolist(), strict=True):
            found[..., to] += cells[..., part]
        return found
