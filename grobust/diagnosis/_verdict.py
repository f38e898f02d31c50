"""What the numbers amount to: a finding, the evidence for it, and what to do; never more than the intervals say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from grobust.comparison import Difference
from grobust.diagnosis._directions import WITHIN_GROUP, Alignment
from grobust.diagnosis._gaps import ClassGap
from grobust.metrics import Estimate

__all__ = ["Effect", "Finding", "Verdict", "conclude"]


class Finding(StrEnum):
    """Whether groups of one class differ in accuracy, and whether a balancing method raises the worst."""

    GAP_AND_REMEDY = "groups differ, and balancing helps"
    GAP = "groups differ, and no balancing tried is shown to help"
    REMEDY = "no evidence that groups differ; balancing helps"
    NOTHING = "no evidence of a problem"


@dataclass(frozen=True)
class Effect:
    """What one balancing method does, cross-validated.

    Parameters
    ----------
    name : of the method
    needs_groups : whether it reads attributes of training rows
    worst, average, worst_class : of its heads: the metric that counts (worst-group accuracy, or without attributes
        worst-class), plain accuracy and worst-class accuracy
    worst_name : the worst group, or class
    gain : of `worst` over no balancing, with a bootstrap interval over rows; undefined for no balancing itself
    p_corrected : after Holm's correction over the methods
    """

    name: str
    needs_groups: bool
    worst: Estimate
    worst_name: str
    average: Estimate
    worst_class: Estimate
    gain: Difference
    p_corrected: float


@dataclass(frozen=True)
class Verdict:
    """The conclusion.

    Parameters
    ----------
    finding : which of four
    recommendation : what to do
    evidence : the numbers it rests on, in sentences
    remedy : the method recommended; None for none
    """

    finding: Finding
    recommendation: str
    evidence: tuple[str, ...]
    remedy: str | None


def conclude(
    gaps: Sequence[ClassGap],
    effects: Sequence[Effect],
    *,
    alpha: float,
    has_attributes: bool,
    alignments: Sequence[Alignment] = (),
) -> Verdict:
    """Weigh gaps and effects; both tests are corrected for their number and taken at level `alpha`.

    Whether the label's score moves with the attribute (`alignments`, within groups) stands in the evidence: a gap
    without it is no sign that the head leans on the attribute.
    """
    proven = [gap for gap in gaps if gap.p_corrected <= alpha]
    helping = [e for e in effects if e.p_corrected <= alpha and e.gain.value > 0]
    remedy = max(helping, key=lambda e: e.gain.value, default=None)
    what = "worst-group accuracy" if has_attributes else "worst-class accuracy"
    evidence = [_gap_sentence(gap, alpha) for gap in (proven or gaps) if gap.best is not None]
    tested = (e for e in effects if not math.isnan(e.p_corrected))
    tried = remedy or max(tested, key=lambda e: e.gain.value, default=None)
    if tried is not None:
        evidence.append(_effect_sentence(tried, what, alpha))
    evidence += [_shift_sentence(found, alpha) for found in alignments if found.metric == WITHIN_GROUP]
    if not has_attributes:
        evidence.append("the store has no attributes: nothing can be said about groups inside a class")
    if proven and remedy:
        return Verdict(Finding.GAP_AND_REMEDY, _do(remedy, helping, what), tuple(evidence), remedy.name)
    if proven:
        advice = (
            "No balancing tried is shown to close the gap. More rows of the worst group, a method beyond balancing or "
            "another backbone are what is left to try."
        )
        return Verdict(Finding.GAP, advice, tuple(evidence), None)
    if remedy:
        return Verdict(Finding.REMEDY, _do(remedy, helping, what), tuple(evidence), remedy.name)
    return Verdict(Finding.NOTHING, _leave(gaps, has_attributes), tuple(evidence), None)


def _leave(gaps: Sequence[ClassGap], has_attributes: bool) -> str:
    known = [gap for gap in gaps if gap.best is not None]
    if not has_attributes or not known:
        return "Nothing here asks for balancing. Attributes, if they can be had, would tell more."
    widest = max(known, key=lambda gap: gap.gap.high)
    return (
        "Nothing here asks for balancing. That is no proof of absence: in class "
        f"'{widest.class_name}' a gap of up to {100 * widest.gap.high:.1f} points between '{widest.best}' and "
        f"'{widest.worst}' is compatible with these rows (n = {widest.n_best}, {widest.n_worst})."
    )


def _do(remedy: Effect, helping: Sequence[Effect], what: str) -> str:
    advice = f"Train with {remedy.name}: it raises the cross-validated {what} to {100 * remedy.worst.value:.1f}%. "
    if not remedy.needs_groups:
        return advice + "It reads class labels only."
    advice += "It reads attributes of training rows."
    blind = max((e for e in helping if not e.needs_groups), key=lambda e: e.gain.value, default=None)
    if blind is None:
        return f"{advice} Without them nothing tried is shown to help."
    return f"{advice} Without them, {blind.name} raises it to {100 * blind.worst.value:.1f}%."


def _gap_sentence(gap: ClassGap, alpha: float) -> str:
    shown = "" if gap.p_corrected <= alpha else ", which chance explains"
    return (
        f"class '{gap.class_name}': the plain head is right on '{gap.best}' (n = {gap.n_best}) "
        f"{_points(gap.gap)} points more often than on '{gap.worst}' (n = {gap.n_worst}), "
        f"p = {gap.p_corrected:.2g}{shown}"
    )


def _effect_sentence(effect: Effect, what: str, alpha: float) -> str:
    shown = "" if effect.p_corrected <= alpha else ", which chance explains"
    return f"{effect.name} changes {what} by {_points(effect.gain)} points, p = {effect.p_corrected:.2g}{shown}"


def _shift_sentence(found: Alignment, alpha: float) -> str:
    moved = (
        f"inside a class the label's score moves by {found.shift:.2f} standard deviations of a group with the "
        f"attribute, p = {found.p_value:.2g}"
    )
    if found.p_value <= alpha:
        return moved
    return f"{moved}, which chance explains: a gap would be one of difficulty rather than of this attribute"


def _points(found: Difference) -> str:
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
