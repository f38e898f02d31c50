"""CivilComments (Borkan et al. 2019, the WILDS split): toxic or not, identities mentioned or not; two benchmarks.

``civilcomments`` has four disjoint groups: toxicity, and whether any of eight identities is mentioned (LaBonte et al.).
``civilcomments-wilds`` has WILDS' 16 overlapping groups: toxicity and each identity; a comment belongs to the groups
of all identities it mentions, to none if it mentions none. Numbers of the two are not comparable.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.data.benchmark import benchmark_file, complete_groups
from grobust.data.csv_table import CsvTable, numbered, read_csv
from grobust.data.places import Place
from grobust.data.tables import Texts
from grobust.errors import DataError
from grobust.groups import Groups, GroupScheme

__all__ = ["IDENTITIES", "identity_cells", "identity_scheme", "load_civilcomments", "load_civilcomments_wilds"]

FILE = "all_data_with_identities.csv"
SUBFOLDERS = ("civilcomments_v1.0", "civilcomments", "civilcomments/data", "jigsaw/data")
CLASS_NAMES = ("non-toxic", "toxic")
ATTRIBUTE_NAMES = ("no identity", "identity")
# Not identity_any, which counts further identities.
IDENTITIES = ("male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white")
NO_IDENTITY, JOINT = "none", "+"
THRESHOLD = 0.5


def load_civilcomments(folder: Place) -> Texts:
    """The four disjoint groups: y = toxicity ≥ 0.5, a = any of the eight identities ≥ 0.5.

    Raises
    ------
    DataError
        With file, row, column, what was seen and what is expected.
    """
    table, toxic, mentioned = _read(folder)
    groups = Groups.from_arrays(
        toxic, mentioned.any(axis=1).astype(np.int64), class_names=CLASS_NAMES, attribute_names=ATTRIBUTE_NAMES
    )
    complete_groups(groups, table.path, "'toxicity' and the eight identities")
    return _texts("civilcomments", table, groups)


def load_civilcomments_wilds(folder: Place) -> Texts:
    """The same comments with WILDS' groups.

    The attribute is the set of identities mentioned, such as ``male+muslim``; `identity_scheme` gives the 16
    overlapping groups that are reported.

    Raises
    ------
    DataError
        With file, row, column, what was seen and what is expected.
    """
    table, toxic, mentioned = _read(folder)
    sets = mentioned @ (1 << np.arange(len(IDENTITIES), dtype=np.int64))
    present, attributes = np.unique(sets, return_inverse=True)
    names = tuple(
        JOINT.join(name for bit, name in enumerate(IDENTITIES) if code >> bit & 1) or NO_IDENTITY
        for code in present.tolist()
    )
    groups = Groups.from_arrays(toxic, attributes, class_names=CLASS_NAMES, attribute_names=names)
    _, cells = identity_cells(groups.class_names, groups.attribute_names)
    empty = np.flatnonzero(groups.counts @ cells == 0)
    if empty.size:
        name = identity_cells(groups.class_names, groups.attribute_names)[0][int(empty[0])]
        raise DataError(
            f"{table.path}, columns 'toxicity' and the eight identities: no row is in the group '{name}', so this is "
            f"not the whole benchmark ({len(groups)} rows were read)."
        )
    return _texts("civilcomments-wilds", table, groups)


def identity_cells(
    class_names: Sequence[str], attribute_names: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
    """The overlapping groups as unions of the disjoint cells.

    Parameters
    ----------
    class_names, attribute_names : of `load_civilcomments_wilds`

    Returns
    -------
    16 names ``class / identity``, and (g, 16) bool: which cells a group is made of.
    """
    mentions = np.array(
        [[identity in name.split(JOINT) for identity in IDENTITIES] for name in attribute_names], dtype=bool
    ).reshape(len(attribute_names), len(IDENTITIES))
    names = tuple(f"{y} / {identity}" for y in class_names for identity in IDENTITIES)
    return names, np.kron(np.eye(len(class_names), dtype=bool), mentions)


def identity_scheme(groups: Groups) -> GroupScheme:
    """The 16 overlapping groups of the rows of `load_civilcomments_wilds`, for `grobust.group_metrics`."""
    names, cells = identity_cells(groups.class_names, groups.attribute_names)
    return GroupScheme(names, cells[groups.ids])


def _read(folder: Place) -> tuple[CsvTable, NDArray[Any], NDArray[Any]]:
    """The table, (n) int64 toxic or not, (n, 8) bool identities."""
    path = benchmark_file(folder, [FILE], SUBFOLDERS, "CivilComments")
    table = read_csv(path, ["comment_text", "split", "toxicity", *IDENTITIES])
    toxic = (table.numbers("toxicity") >= THRESHOLD).astype(np.int64)
    return table, toxic, np.stack([table.numbers(name) >= THRESHOLD for name in IDENTITIES], axis=1)


def _texts(name: str, table: CsvTable, groups: Groups) -> Texts:
    return Texts(
        name=name,
        groups=groups,
        split=table.splits("split")[0],
        sample_ids=numbered("row", len(table)),
        texts=table.strings("comment_text"),
    )
