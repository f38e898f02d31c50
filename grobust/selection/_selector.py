"""`Selector`: a candidate chosen on validation rows, and the labels that this took."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.errors import ConfigError, DataError, ShapeError
from grobust.ledger import LabelLedger, LabelUse
from grobust.selection._validation import ValidationArrays
from grobust.settings import SelectBy

__all__ = ["Choice", "Selector", "choose"]


@dataclass(frozen=True)
class Choice:
    """What a selector chose.

    Parameters
    ----------
    select : the score
    index, name : of the chosen candidate, in declared order
    score : its mean over seeds
    scores : of every candidate; NaN where undefined
    n_seeds : seeds behind each mean
    tied : names of further candidates with the same score
    ledger : labels of validation rows used to choose, and of training rows where a bias proxy needs them
    notes : what a reader must know
    """

    select: SelectBy
    index: int
    name: str
    score: float
    scores: tuple[float, ...]
    n_seeds: int
    tied: tuple[str, ...]
    ledger: LabelLedger
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selector:
    """Chooses among candidates by one score, averaged over seeds.

    Examples
    --------
    >>> import numpy as np
    >>> from grobust.groups import Groups, Split
    >>> groups = Groups.from_arrays([0, 0, 1, 1], [0, 1, 0, 1])
    >>> rows = ValidationArrays(groups, np.full(4, Split.VAL))
    >>> predictions = np.array([[[0, 0, 1, 0]], [[0, 0, 1, 1]]])  # two candidates, one seed
    >>> Selector(SelectBy.WGA).choose(predictions, rows, names=("plain", "balanced")).name
    'balanced'
    """

    select: SelectBy

    def choose(self, predictions: Any, validation: ValidationArrays, *, names: Sequence[str] | None = None) -> Choice:
        """The candidate with the largest mean score.

        Parameters
        ----------
        predictions : (c, s, m) integer classes of c candidates, s seeds and the m validation rows; (c, m) for one seed
        validation : the rows; anything else is refused
        names : of the candidates; by default their numbers

        Raises
        ------
        ConfigError
            If `validation` is not a `ValidationArrays`.
        ShapeError
            If the predictions do not fit it.
        DataError, GroupError
            If the score is undefined on these rows; see `ValidationArrays.require`.
        """
        if not isinstance(validation, ValidationArrays):
            raise ConfigError(
                f"A selector takes ValidationArrays, got {type(validation).__name__}: build it from the groups and the "
                "split of all rows, so that no test row can choose."
            )
        validation.require(self.select)
        array = np.asarray(predictions)
        array = array[:, None, :] if array.ndim == 2 else array
        if array.ndim != 3 or array.dtype.kind not in "iu" or array.shape[2] != len(validation):
            raise ShapeError(
                f"predictions have shape {array.shape} and dtype {array.dtype}; expected integer classes of "
                f"(candidates, seeds, {len(validation)} validation rows)."
            )
        cells = validation.cells
        correct = np.array(
            [[np.bincount(cells.ids[p == cells.labels], minlength=cells.n_groups) for p in own] for own in array]
        ).reshape(*array.shape[:2], cells.n_groups)
        scores = validation.scores(self.select, correct)
        return choose(self.select, scores, names=names, notes=validation.notes)


def choose(
    select: SelectBy, scores: NDArray[Any], *, names: Sequence[str] | None = None, notes: tuple[str, ...] = ()
) -> Choice:
    """The candidate with the largest mean of scores (c, s) over seeds; on a tie the first in declared order.

    A candidate whose score is undefined for a seed is not chosen.

    Raises
    ------
    ShapeError
        If there are no candidates or seeds, or not one name per candidate.
    DataError
        If no candidate has a score.
    """
    if scores.ndim != 2 or 0 in scores.shape:
        raise ShapeError(f"scores have shape {scores.shape}; expected (candidates, seeds), at least one of each.")
    labels = [str(i) for i in range(scores.shape[0])] if names is None else list(names)
    if len(labels) != scores.shape[0]:
        raise ShapeError(f"{scores.shape[0]} candidates have {len(labels)} names.")
    means = scores.mean(axis=1)
    if np.isnan(means).all():
        raise DataError(f"{select} is undefined for every candidate: {', '.join(labels)}.")
    index = int(np.nanargmax(means))
    return Choice(
        select=select, index=index, name=labels[index], score=float(means[index]), scores=tuple(means.tolist()),
        n_seeds=scores.shape[1],
        tied=tuple(labels[i] for i in np.flatnonzero(means == means[index]).tolist() if i != index),
        ledger=_ledger(select), notes=notes,
    )  # fmt: skip


def _ledger(select: SelectBy) -> LabelLedger:
    """Of the choice alone; the candidates' training has its own."""
    of_proxy = (str(LabelUse.CLASS),) if select.needs_proxy else ()
    chosen = LabelLedger.of(group_training=False, group_selection=select.needs_groups, selects=True).selection
    return LabelLedger(train=of_proxy, selection=chosen, evaluation=())
