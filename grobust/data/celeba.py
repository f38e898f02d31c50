"""CelebA (Liu et al. 2015): blond hair as the label, man or woman as the attribute.

Two layouts: ``celeba_metadata.csv`` of the group-robustness line (img_filename, y, split, place), or the originals
``list_attr_celeba`` and ``list_eval_partition``, as .txt (the first with two header lines) or as .csv; images in
``img_align_celeba``.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from grobust.data.benchmark import complete_groups, missing_file
from grobust.data.csv_table import CsvTable, find_file, paths_inside, read_csv, read_header
from grobust.data.places import Place, readable
from grobust.data.tables import ImageFiles
from grobust.errors import DataError
from grobust.groups import Groups

__all__ = ["load_celeba"]

CLASS_NAMES = ("not blond", "blond")
ATTRIBUTE_NAMES = ("woman", "man")
LABEL, ATTRIBUTE = "Blond_Hair", "Male"
SUBFOLDERS = (
    "celeba",
    "celebA",
    "CelebA",
    "celebA/data",
    "celebA_v1.0",
    "celeba_v1.0",
    "celebA/celebA",
    "Anno",
    "Eval",
)
IMAGES = ("img_align_celeba/img_align_celeba", "img_align_celeba")
PREPARED = "celeba_metadata.csv"
ATTRIBUTE_FILES = ("list_attr_celeba.txt", "list_attr_celeba.csv")
PARTITION_FILES = ("list_eval_partition.txt", "list_eval_partition.csv")


def load_celeba(folder: Place) -> ImageFiles:
    """Labels (not blond, blond), attributes (woman, man) and splits of either layout; no image is opened.

    Raises
    ------
    DataError
        With file, row, column, what was seen and what is expected.
    """
    prepared = find_file(folder, [PREPARED], SUBFOLDERS, "CelebA")
    if prepared is not None:
        table = read_csv(prepared, ["img_filename", "y", "split", "place"])
        labels, _ = table.codes("y", CLASS_NAMES)
        attributes, _ = table.codes("place", ATTRIBUTE_NAMES)
        names, split = paths_inside(table, "img_filename"), table.splits("split")[0]
        columns = "'y' and 'place'"
    else:
        path = find_file(folder, ATTRIBUTE_FILES, SUBFOLDERS, "CelebA")
        partition_path = find_file(folder, PARTITION_FILES, SUBFOLDERS, "CelebA")
        if path is None or partition_path is None:
            wanted = [PREPARED, f"{ATTRIBUTE_FILES[0]} with {PARTITION_FILES[0]}"]
            raise missing_file(folder, wanted, SUBFOLDERS, "CelebA")
        table = _attributes(path)
        labels, attributes = _signed(table, LABEL), _signed(table, ATTRIBUTE)
        names, columns = paths_inside(table, "image_id"), f"'{LABEL}' and '{ATTRIBUTE}'"
        split = _partition(partition_path, table)
    groups = Groups.from_arrays(labels, attributes, class_names=CLASS_NAMES, attribute_names=ATTRIBUTE_NAMES)
    return ImageFiles(
        name="celeba",
        groups=complete_groups(groups, table.path, columns),
        split=split,
        sample_ids=names,
        root=_image_root(folder, table.path.parent),
    )


def _attributes(path: Place) -> CsvTable:
    """Name, label and attribute of every image; a .txt names the 40 attributes in its second line."""
    if path.suffix == ".csv":
        return read_csv(path, ["image_id", LABEL, ATTRIBUTE])
    try:
        with path.open("rb") as file:
            file.readline()
            attributes = file.readline().decode("utf-8").split()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error}.") from None
    for column in (LABEL, ATTRIBUTE):
        if column not in attributes:
            raise DataError(
                f"{path}, row 2: there is no '{column}' among the names of attributes; expected the 40 names of CelebA."
            )
    return _words(path, ["image_id", *attributes], skip=2, keep=["image_id", LABEL, ATTRIBUTE])


def _partition(path: Place, table: CsvTable) -> NDArray[np.int8]:
    """Split of every image of the table, whatever the order of the partition's rows."""
    if path.suffix == ".csv":
        header = read_header(path)
        column = "split" if "split" in header else "partition"
        partition = read_csv(path, ["image_id", column])
    else:
        column = "partition"
        partition = _words(path, ["image_id", column], skip=0, keep=["image_id", column])
    split, _ = partition.splits(column)
    names, wanted = partition.columns["image_id"], table.columns["image_id"]
    if names.shape == wanted.shape and bool((names == wanted).all()):
        return split.astype(np.int8)
    # -1 where an image has no row; a name that stands twice takes the first.
    first = ~pd.Index(names).duplicated()
    position = pd.Index(names[first]).get_indexer(wanted)
    table.refuse_first(position < 0, "image_id", f"a name that has a row in {path.name}")
    found: NDArray[np.int8] = split[first][position].astype(np.int8)
    return found


def _words(path: Place, names: list[str], *, skip: int, keep: list[str]) -> CsvTable:
    """Columns of a text file whose values are separated by spaces."""
    try:
        with readable(path) as source:
            frame = pd.read_csv(
                source, sep=r"\s+", names=names, skiprows=skip, dtype=object, na_filter=False, index_col=False,
                keep_default_na=False, encoding="utf-8",
            )  # fmt: skip
    except (pd.errors.ParserError, pd.errors.EmptyDataError, pd.errors.ParserWarning, UnicodeError) as error:
        reason = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        raise DataError(f"{path}: {reason}; expected {len(names)} values a row, separated by spaces.") from None
    if len(frame) == 0:
        raise DataError(f"{path} has no rows.")
    return CsvTable(path, {name: frame[name].to_numpy() for name in keep}, first_row=skip + 1)


def _signed(table: CsvTable, column: str) -> NDArray[np.int64]:
    """0 for -1 and 1 for 1; some copies hold 0 and 1."""
    values = {str(value).strip() for value in np.unique(table.columns[column].astype(str))}
    found: NDArray[np.int64] = table.binary(column, negative="0" if values <= {"0", "1"} and "0" in values else "-1")
    return found


def _image_root(folder: Place, beside: Place) -> Place:
    places: list[Place] = [beside, beside.parent, folder]
    found = (place / name for place in places for name in IMAGES if (place / name).is_dir())
    # Without the folder every image is reported missing by its path; labels and splits are known all the same.
    return next(found, beside / IMAGES[-1])
