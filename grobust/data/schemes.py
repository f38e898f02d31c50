"""Which data sets are reported on overlapping groups, by the name that the catalog and feature stores give them."""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from grobust.data.civilcomments import identity_cells
from grobust.groups import Groups, GroupScheme

__all__ = ["overlapping_cells", "overlapping_scheme"]

WILDS = "civilcomments-wilds"


def overlapping_cells(
    dataset: str, class_names: Sequence[str], attribute_names: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.bool_]] | None:
    """Names of the overlapping groups, and (g, o) bool which of the g disjoint cells each is made of.

    Parameters
    ----------
    dataset : name of the data set, also of a part of it (``civilcomments-wilds[400 rows, seed 1]``)
    class_names, attribute_names : of its disjoint cells

    Returns
    -------
    None for data sets that are reported on their disjoint groups.
    """
    if re.split(r"[:\[]", dataset)[0] != WILDS:
        return None
    return identity_cells(class_names, attribute_names)


def overlapping_scheme(dataset: str, groups: Groups) -> GroupScheme | None:
    """The overlapping groups of the given rows of a data set; None where it has none."""
    found = overlapping_cells(dataset, groups.class_names, groups.attribute_names)
    return None if found is None else GroupScheme(found[0], found[1][groups.ids])
