"""ρ(y): the intra-class spectral norm ratio (LaBonte et al. 2024, section 5)."""

import math
from dataclasses import dataclass
from enum import StrEnum

from grobust.errors import ShapeError
from grobust.groups import Groups
from grobust.spectrum.spectra import Spectra

__all__ = ["SMALL_GROUP_NOTE", "Against", "NormRatio", "norm_ratios", "pairs_of_class"]

SMALL_GROUP_NOTE = (
    "the largest eigenvalue of a small group is biased upward by sampling alone, so ρ(y) > 1 can come from group sizes "
    "rather than from the groups; read it beside its size-matched null"
)


class Against(StrEnum):
    """What the smallest group of a class is compared with.

    MAJORITY : the largest group: ρ(y) proper
    OTHER : another group of a class with more than two groups
    """

    MAJORITY = "majority"
    OTHER = "other"


@dataclass(frozen=True)
class NormRatio:
    """ρ(y) = λ1 of the minority group over λ1 of the majority group of class y.

    Parameters
    ----------
    class_name : y
    rho : the ratio; NaN if undefined, with the reason in `note`
    trace_ratio : the same of the traces, which sampling hardly biases
    minority, n_minority, majority, n_majority : names and rows of the two groups; None if undefined. With more than two
        attribute values the smallest group is also compared with each group between, which then stands as `majority`
    note : why it is undefined, or what it is compared with, or empty
    against : whether `majority` is the largest group of the class
    minority_id, majority_id : the groups' ids; None if undefined
    """

    class_name: str
    rho: float
    trace_ratio: float
    minority: str | None
    n_minority: int | None
    majority: str | None
    n_majority: int | None
    note: str
    against: Against = Against.MAJORITY
    minority_id: int | None = None
    majority_id: int | None = None


def norm_ratios(spectra: Spectra, groups: Groups) -> tuple[NormRatio, ...]:
    """ρ(y) of every class from the spectra of its groups.

    Parameters
    ----------
    spectra : of the groups of `groups` (`group_spectra`)
    groups : the rows that the spectra were computed from; their counts decide minority and majority

    Returns
    -------
    One per class, smallest against largest group; after it, in a class of more than two groups, the smallest against
    each of the others.

    Raises
    ------
    ShapeError
        If the spectra are of other groups.
    """
    if spectra.names != groups.names or spectra.counts.tolist() != groups.counts.tolist():
        raise ShapeError("The spectra are not those of the given groups; compute them from the same rows.")
    ratios: list[NormRatio] = []
    for label in range(groups.n_classes):
        pairs = pairs_of_class(groups, label)
        if not pairs:
            note = "no minority group: a tie, or fewer than two groups with rows"
            ratios.append(_undefined(groups.class_names[label], note, Against.MAJORITY))
        ratios += [_ratio(spectra, groups, label, *pair) for pair in pairs]
    return tuple(ratios)


def pairs_of_class(groups: Groups, label: int) -> tuple[tuple[int, int, Against], ...]:
    """(smallest group, compared group, what that is): the largest first, then the others; empty without a minority."""
    minority, majority = groups.minority_group(label), groups.majority_group(label)
    if minority is None or majority is None:
        return ()
    others = [g for g in groups.groups_of_class(label) if groups.counts[g] > 0 and g not in (minority, majority)]
    return ((minority, majority, Against.MAJORITY), *((minority, g, Against.OTHER) for g in others))


def _ratio(spectra: Spectra, groups: Groups, label: int, minority: int, majority: int, against: Against) -> NormRatio:
    name = groups.class_names[label]
    small, large = float(spectra.eigenvalues[minority, 0]), float(spectra.eigenvalues[majority, 0])
    if math.isnan(small) or math.isnan(large):
        return _undefined(name, "a group has fewer than two rows", against)
    if large == 0:
        return _undefined(name, "the majority group does not vary", against)
    several = len(pairs_of_class(groups, label)) > 1
    what = "smallest against largest group" if against is Against.MAJORITY else "smallest against another group"
    return NormRatio(
        class_name=name,
        rho=small / large,
        trace_ratio=float(spectra.trace[minority] / spectra.trace[majority]),
        minority=groups.names[minority],
        n_minority=int(groups.counts[minority]),
        majority=groups.names[majority],
        n_majority=int(groups.counts[majority]),
        note=what if several else "",
        against=against,
        minority_id=minority,
        majority_id=majority,
    )


def _undefined(class_name: str, note: str, against: Against) -> NormRatio:
    return NormRatio(class_name, math.nan, math.nan, None, None, None, None, note, against)
