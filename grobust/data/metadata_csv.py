"""Any data set: a CSV with label, attribute and split columns, and a folder of images or a column of texts.

Tables of WILDS, SpuCo and SubpopBench (``metadata.csv``, ``metadata_NAME.csv``) are instances.
"""

from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from grobust.data.columns import Columns
from grobust.data.csv_table import CsvTable, numbered, paths_inside, read_csv, read_header
from grobust.data.dataset import GroupedDataset
from grobust.data.places import Place
from grobust.data.tables import ImageFiles, TextPairs, Texts, take_rows
from grobust.errors import DataError
from grobust.groups import Groups

__all__ = ["Columns", "load_metadata_csv"]

TABLE = "metadata.csv"
OTHER_TABLES = "*metadata*.csv"


def load_metadata_csv(
    folder: Place, *, columns: Columns | None = None, name: str | None = None, needs_split: bool = True
) -> GroupedDataset:
    """Read the CSV of a folder; no image is opened.

    Labels and attributes may be integers 0, 1, … or strings (numbered in sorted order). Paths are taken relative to
    `folder` and must stay inside it.

    Parameters
    ----------
    folder : with the table, or the table itself
    columns : names of its columns, and of the table
    name : of the data set; by default of the folder
    needs_split : whether a missing split column is an error; else all rows are training rows

    Raises
    ------
    DataError
        With file, row, column, what was seen and what is expected.
    """
    columns = columns or Columns()
    is_table = folder.is_file()
    path = folder if is_table else _table(folder, columns.csv)
    folder = path.parent if is_table else folder
    header = read_header(path, encoding=columns.encoding)
    has_split = needs_split or columns.split in header
    texts = columns.text in header and columns.file not in header
    item = columns.text if texts else columns.file
    optional = [column for column in (columns.id, columns.pair if texts else None) if column is not None]
    needed = [item, columns.label, columns.attribute, *([columns.split] if has_split else []), *optional]
    table = read_csv(path, needed, encoding=columns.encoding)
    labels, class_names = table.codes(columns.label, columns.class_names)
    attributes, attribute_names = table.codes(columns.attribute, columns.attribute_names)
    groups = Groups.from_arrays(labels, attributes, class_names=class_names, attribute_names=attribute_names)
    split: NDArray[np.int8] = np.zeros(len(table), dtype=np.int8)
    kept = np.ones(len(table), dtype=bool)
    if has_split:
        split, kept = table.splits(columns.split, columns.split_names)
    whole = _dataset(table, groups, split, item, columns, folder, name or f"metadata_csv:{folder.absolute().name}")
    return whole if kept.all() else take_rows(whole, np.flatnonzero(kept), name=whole.name)


def _dataset(
    table: CsvTable, groups: Groups, split: NDArray[np.int8], item: str, columns: Columns, folder: Place, name: str
) -> GroupedDataset:
    if item == columns.file:
        root = folder if columns.root is None else folder / columns.root
        return ImageFiles(name=name, groups=groups, split=split, sample_ids=paths_inside(table, item), root=root)
    ids = table.strings(columns.id) if columns.id is not None else numbered("row", len(table))
    if columns.pair is None:
        return Texts(name=name, groups=groups, split=split, sample_ids=ids, texts=table.strings(item))
    first, second = table.strings(item), table.strings(columns.pair)
    return TextPairs(name=name, groups=groups, split=split, sample_ids=ids, first=first, second=second)


def _table(folder: Place, name: str | None) -> Place:
    """The table of a folder: as named, ``metadata.csv``, or the only file that looks like one."""
    if name is not None:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"csv={name}: expected a file inside {folder}.")
        return folder / name
    if (folder / TABLE).is_file() or not folder.is_dir():
        return folder / TABLE
    others: list[Place] = sorted(folder.glob(OTHER_TABLES), key=str)
    if len(others) > 1:
        listed = ", ".join(path.name for path in others)
        raise DataError(f"{folder} has several tables: {listed}. Name one: --column csv={others[0].name}.")
    return others[0] if others else folder / TABLE
