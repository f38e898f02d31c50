"""Does a head lean on an attribute? Gaps, directions, what balancing changes, and what that amounts to."""

from grobust.diagnosis._crossval import CrossValidated, Problem, cross_validate
from grobust.diagnosis._directions import STANDARDIZED, WITHIN_GROUP, Alignment, alignment
from grobust.diagnosis._gaps import ClassGap, class_gaps, newcombe_interval
from grobust.diagnosis._verdict import Effect, Finding, Verdict, conclude

__all__ = [
    "STANDARDIZED",
    "WITHIN_GROUP",
    "Alignment",
    "ClassGap",
    "CrossValidated",
    "Effect",
    "Finding",
    "Problem",
    "Verdict",
    "alignment",
    "class_gaps",
    "conclude",
    "cross_validate",
    "newcombe_interval",
]
