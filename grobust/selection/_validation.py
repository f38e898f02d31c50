"""`ValidationArrays`: the only rows that a selector can see."""

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

    Attributes
    ----------
    groups : of the m validation rows
    proxy : as given
    cells : the groups cut further by what the proxy says, so that every score follows from correct counts per cell

    Raises
    ------
    ShapeError
        If `groups`, `split` and `proxy` do not fit together.
    """

    def __init__(self, groups: Groups, split: NDArray[Any], proxy: ProxyReading | None = None) -> None:
        split = np.asarray(split)
        if split.shape != (len(groups),):
            raise ShapeError(f"split has shape {split.shape}; expected ({len(groups)},), one per row of the groups.")
        self.groups = groups.take(np.flatnonzero(split == Split.VAL))
        if proxy is not None and len(proxy) != len(self.groups):
            raise ShapeError(f"the proxy read {len(proxy)} rows, and there are {len(self.groups)} validation rows.")
        self.proxy = proxy
        self.cells = self.groups if proxy is None else _cells(self.groups, proxy)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def has_attributes(self) -> bool:
        """Whether rows have attributes, so that groups are more than classes."""
        return self.groups.n_attributes > 1

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of every score: classes and groups without validation rows, and the proxy's notes."""
        counts, classes = self.groups.counts, self.groups.class_counts
        lost = [name for name, n in zip(self.groups.class_names, classes, strict=True) if n == 0]
        notes = [f"class '{name}' has no validation rows: no score sees it" for name in lost]
        notes += [
            f"group '{name}' has no validation rows: wga and average_group leave it out"
            for g, (name, n) in enumerate(zip(self.groups.names, counts, strict=True))
            if n == 0 and self.has_attributes and classes[g // self.groups.n_attributes] > 0
        ]
        return (*notes, *(() if self.proxy is None else self.proxy.notes))

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
        if self.proxy is None:
            return correct
        return np.asarray(correct.reshape(*correct.shape[:-1], self.groups.n_groups, -1).sum(axis=-1))

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
        if self.proxy is None:
            return cells
        k, shape = self.groups.n_classes, cells.shape[:-1]
        apart = cells.reshape(*shape, k, self.groups.n_attributes, k, 2)
        if select is SelectBy.WORST_PSEUDO_GROUP:
            return np.asarray(apart.sum(axis=(-3, -2))).reshape(*shape, -1)
        if select.needs_proxy:
            return np.asarray(apart.sum(axis=(-3, -1))).reshape(*shape, -1)
        return self.by_group(cells)


def _cells(groups: Groups, proxy: ProxyReading) -> Groups:
    """Class × (attribute × proxy's prediction × whether its loss is large)."""
    k = groups.n_classes
    inner = (groups.attributes * k + proxy.predictions) * 2 + proxy.is_hard
    names = tuple(str(i) for i in range(groups.n_attributes * k * 2))
    return Groups(groups.labels, inner, groups.class_names, names)
