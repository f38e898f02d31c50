"""What the loaders of the four benchmarks share: finding the table, and refusing one that lacks a whole group."""

from collections.abc import Sequence

import numpy as np

from grobust.data.csv_table import find_file
from grobust.data.places import Place
from grobust.errors import DataError
from grobust.groups import Groups

__all__ = ["benchmark_file", "complete_groups"]

LISTED = 12


def benchmark_file(folder: Place, names: Sequence[str], subfolders: Sequence[str], what: str) -> Place:
    """The first of `names` in the folder or in one of the usual subfolders.

    Raises
    ------
    DataError
        If there is none; what was looked for and what the folder holds is said.
    """
    found = find_file(folder, names, subfolders, what)
    if found is None:
        raise missing_file(folder, names, subfolders, what)
    return found


def missing_file(folder: Place, names: Sequence[str], subfolders: Sequence[str], what: str) -> DataError:
    """The error of a folder without the table."""
    content: list[Place] = sorted(folder.iterdir(), key=lambda path: path.name)
    # Each look at what is a folder may be a request.
    listed = [path.name + "/" * path.is_dir() for path in content[:LISTED]]
    more = f", … ({len(content)} in all)" if len(content) > LISTED else ""
    return DataError(
        f"{folder} does not look like the folder of {what}: there is no {' or '.join(names)}, neither there nor in "
        f"{', '.join(f'{name}/' for name in subfolders)}.\n"
        f"It holds: {', '.join(listed) or 'nothing'}{more}."
    )


def complete_groups(groups: Groups, path: Place, columns: str) -> Groups:
    """The same groups, if every one has rows.

    Raises
    ------
    DataError
        If a group of the benchmark has no row in the whole table: then it is not that benchmark.
    """
    if (groups.counts == 0).any():
        empty = groups.names[int(np.argmin(groups.counts))]
        raise DataError(
            f"{path}, columns {columns}: no row is in the group '{empty}', so this is not the whole benchmark "
            f"({len(groups)} rows were read).\nGet the whole table, or read a part of it with --dataset metadata_csv."
        )
    return groups
