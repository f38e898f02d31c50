"""ρ(y): the intra-class spectral norm ratio (LaBonte et al. 2024, section 5)."""

import math
from dataclasses import dataclass

from grobust.errors import ShapeError
from grobust.groups import Groups
from grobust.spectrum.spectra import Spectra

__all__ = ["SMALL_GROUP_NOTE", "NormRatio", "norm_ratios"]

SMALL_GROUP_NOTE = (
    "the largest eigenvalue of a small group is biased upward by sampling alone, so ρ(y) > 1 can come from group sizes "
    "rather than from the groups; compare the counts beside it before reading anything into it"
)


@dataclass(frozen=True)
class NormRatio:
    """ρ(y) = λ1 of the minority group over λ1 of the majority group of class y.

    Parameters
    ----------
    class_name : y
    rho : the ratio; NaN if undefined, with the reason in `note`
    trace_ratio : the same of the traces, which sampling hardly biases
    minority, n_minority, majority, n_majority : names and rows of the two groups; None if undefined
    note : why it is undefined, or empty
    """

    class_name: str
    rho: float
    trace_ratio: float
    minority: str | None
    n_minority: int | None
    majority: str | None
    n_majority: int | None
    note: str


def norm_ratios(spectra: Spectra, groups: Groups) -> tuple[NormRatio, ...]:
    """ρ(y) of every class from the spectra of its groups.

    Parameters
    ----------
    spectra : of the groups of `groups` (`group_spectra`)
    groups : the rows that the spectra were computed from; their counts decide minority and majority

    Raises
    ------
    ShapeError
        If the spectra are of other groups.
    """
    if spectra.names != groups.names or spectra.counts.tolist() != groups.counts.tolist():
        raise ShapeError("The spectra are not those of the given groups; compute them from the same rows.")
    return tuple(_ratio(spectra, groups, label) for label in range(groups.n_classes))


def _ratio(spectra: Spectra, groups: Groups, label: int) -> NormRatio:
    minority, majority = groups.minority_group(label), groups.majority_group(label)
    name = groups.class_names[label]
    if minority is None or majority is None:
        return _undefined(name, "no minority group: a tie, or fewer than two groups with rows")
    small, large = float(spectra.eigenvalues[minority, 0]), float(spectra.eigenvalues[majority, 0])
    if math.isnan(small) or math.isnan(large):
        return _undefined(name, "a group has fewer than two rows")
    if large == 0:
        return _undefined(name, "the majority group does not vary")
    return NormRatio(
        class_name=name,
        rho=small / large,
        trace_ratio=float(spectra.trace[minority] / spectra.trace[majority]),
        minority=groups.names[minority],
        n_minority=int(groups.counts[minority]),
        majority=groups.names[majority],
        n_majority=int(groups.counts[majority]),
        note="",
    )


def _undefined(class_name: str, note: str) -> NormRatio:
    return NormRatio(class_name, math.nan, math.nan, None, None, None, None, note)
