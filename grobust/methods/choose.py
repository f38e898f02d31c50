"""Choosing among heads by a score on validation rows; the reference head of methods that start from one."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.errors import ConfigError, GroupError
from grobust.groups import Groups
from grobust.methods.method import Features, Labels, Tried
from grobust.metrics import GroupMetrics
from grobust.probe import Head, Probe, ProbeFit, evaluate_probes, fit_probe
from grobust.selection import best, cell_scores
from grobust.settings import SelectBy

__all__ = ["check_selection", "choose", "erm_head", "heads_of", "labels_of", "score_of", "unfinished"]


def score_of(select: SelectBy, metrics: GroupMetrics) -> float:
    """The estimate of a score's name.

    Raises
    ------
    ConfigError
        If the score needs a bias proxy.
    """
    if select.needs_proxy:
        raise ConfigError(
            f"{select} needs a bias proxy, which methods do not have. They choose their settings by "
            + ", ".join(s for s in SelectBy if not s.needs_proxy)
            + "."
        )
    return float(cell_scores(metrics.correct, metrics.counts, len(metrics.class_names), select))


def labels_of(select: SelectBy) -> Labels:
    """Labels of validation rows that a score reads."""
    return Labels.GROUP if select.needs_groups else Labels.CLASS


def choose(
    probes: Sequence[Probe], settings: Sequence[Mapping[str, float]], rows: Features, select: SelectBy
) -> tuple[int, tuple[Tried, ...]]:
    """The head with the largest score on `rows`, the first on a tie, and the table of all.

    Raises
    ------
    GroupError
        If there is a choice and no row to choose on, or a class without rows makes the score undefined.
    """
    if len(probes) == 1 and len(rows) == 0:
        return 0, (Tried(settings[0], None),)
    check_selection(rows.groups)
    scores = np.array([score_of(select, m) for m in evaluate_probes(probes, rows.values, rows.groups)])
    tried = tuple(Tried(s, None if np.isnan(v) else v) for s, v in zip(settings, scores.tolist(), strict=True))
    return best(scores), tried


def check_selection(groups: Groups) -> None:
    """Refuse validation rows that lack a class: a worst class or group that is not there would choose blindly."""
    if len(groups) == 0:
        raise GroupError("There are no validation rows to choose settings on. Give some, or fix every setting.")
    absent = [name for name, count in zip(groups.class_names, groups.class_counts, strict=True) if count == 0]
    if absent:
        raise GroupError(
            f"The validation rows to choose on have no row of class(es) {', '.join(absent)}.\n"
            "Give validation rows of every class."
        )


def erm_head(rows: Features, l2: float) -> ProbeFit:
    """The reference head: all rows alike, to the optimum."""
    return fit_probe(rows.values, rows.labels, n_classes=rows.n_classes, l2=l2)


def unfinished(fits: Sequence[ProbeFit]) -> tuple[str, ...]:
    """A note where fits did not converge."""
    lost = [fit for fit in fits if fit.status != "converged"]
    return (f"{len(lost)} of {len(fits)} fits: {lost[0].message}",) if lost else ()


def heads_of(weights: NDArray[Any] | None, l2: Sequence[float]) -> list[Head]:
    """One head per strength on the same weights."""
    return [Head(weights=weights, l2=value) for value in l2]
