"""Any data set: a CSV with label, attribute and split columns, and a folder of images or a column of texts.

The layout of Waterbirds (``img_filename, y, split, place``) is one instance: `WATERBIRDS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from grobust.data.dataset import GroupedDataset
from grobust.data.tables import ImageFiles, Texts
from grobust.errors import DataError
from grobust.groups import Groups, Split

__all__ = ["WATERBIRDS", "Columns", "load_metadata_csv"]

SPLIT_NAMES = {
    "0": Split.TRAIN, "train": Split.TRAIN, "training": Split.TRAIN,
    "1": Split.VAL, "val": Split.VAL, "valid": Split.VAL, "validation": Split.VAL, "dev": Split.VAL,
    "2": Split.TEST, "test": Split.TEST,
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """Names of the columns. Items are the images of `file`, or, where there is no such column, the texts of `text`.

    Parameters
    ----------
    file : image file below the folder
    text : text
    label, attribute, split : class, spurious attribute, split (0/1/2 or train/val/test)
    id : distinct row names of texts; None for the row number
    class_names, attribute_names : for integer codes, names in code order
    """

    file: str = "filename"
    text: str = "text"
    label: str = "y"
    attribute: str = "a"
    split: str = "split"
    id: str | None = None
    class_names: tuple[str, ...] | None = None
    attribute_names: tuple[str, ...] | None = None

    @classmethod
    def from_options(cls, options: dict[str, str]) -> "Columns":
        """Columns from ``name=value`` options; lists of names are split at commas.

        Raises
        ------
        DataError
            If an option is unknown.
        """
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise DataError(f"Unknown column option '{unknown[0]}'. Expected: {', '.join(known)}.")
        values: dict[str, Any] = dict(options)
        for key in ("class_names", "attribute_names"):
            if key in values:
                values[key] = tuple(part.strip() for part in values[key].split(","))
        return cls(**values)


WATERBIRDS = Columns(
    file="img_filename",
    attribute="place",
    class_names=("landbird", "waterbird"),
    attribute_names=("land", "water"),
)


def load_metadata_csv(
    folder: Path, *, columns: Columns | None = None, file_name: str = "metadata.csv", name: str | None = None
) -> GroupedDataset:
    """Read the CSV of a folder; no image is opened.

    Labels and attributes may be integers 0, 1, … or strings (numbered in sorted order). Paths are taken relative to
    `folder` and must stay inside it.

    Raises
    ------
    DataError
        With file, row, column, what was seen and what is expected.
    """
    columns = columns or Columns()
    path = folder / file_name
    if not path.is_file():
        raise DataError(f"{path} does not exist. Expected a CSV there with columns for label, attribute and split.")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable CSV: {error}.") from None
    item = columns.text if columns.text in table.columns and columns.file not in table.columns else columns.file
    for column in (item, columns.label, columns.attribute, columns.split, *([columns.id] if columns.id else [])):
        if column not in table.columns:
            raise DataError(f"{path} has no column '{column}'. Its columns: {', '.join(table.columns)}.")
    if len(table) == 0:
        raise DataError(f"{path} has no rows.")
    labels, class_names = _codes(table[columns.label], path, columns.class_names)
    attributes, attribute_names = _codes(table[columns.attribute], path, columns.attribute_names)
    groups = Groups.from_arrays(labels, attributes, class_names=class_names, attribute_names=attribute_names)
    split = _splits(table[columns.split], path)
    title = name or f"metadata_csv:{folder.name}"
    if item == columns.text:
        ids = tuple(table[columns.id]) if columns.id else tuple(f"row-{i}" for i in range(len(table)))
        return Texts(name=title, groups=groups, split=split, sample_ids=ids, texts=tuple(table[item]))
    _check_paths(table[item], path)
    return ImageFiles(name=title, groups=groups, split=split, sample_ids=tuple(table[item]), root=folder)


def _codes(column: "pd.Series[str]", path: Path, names: Sequence[str] | None) -> tuple[NDArray[Any], tuple[str, ...]]:
    stripped = column.str.strip()
    _refuse_first(stripped == "", stripped, path, "a value")
    if stripped.str.fullmatch(r"-?\d+").all():
        codes = stripped.astype(np.int64).to_numpy()
        # Some tables code a binary attribute as -1 and 1; which is which is not for us to guess.
        _refuse_first(stripped.str.startswith("-"), stripped, path, "0, 1, 2, … or names")
        largest = int(codes.max())
        if names is not None:
            _refuse_first(pd.Series(codes >= len(names)), stripped, path, f"0 to {len(names) - 1} ({', '.join(names)})")
            return codes, tuple(names)
        return codes, tuple(f"{column.name}={code}" for code in range(largest + 1))
    levels = tuple(names) if names is not None else tuple(sorted(stripped.unique()))
    codes = pd.Categorical(stripped, categories=list(levels)).codes.astype(np.int64)
    _refuse_first(pd.Series(codes < 0), stripped, path, f"one of {', '.join(levels)}")
    return codes, levels


def _splits(column: "pd.Series[str]", path: Path) -> NDArray[Any]:
    codes = column.str.strip().str.lower().map(SPLIT_NAMES)
    _refuse_first(codes.isna(), column, path, "0/1/2 or train/val/test")
    split: NDArray[Any] = codes.to_numpy().astype(np.int8)
    return split


def _check_paths(column: "pd.Series[str]", path: Path) -> None:
    def leads_out(name: str) -> bool:
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        return name == "" or posix.is_absolute() or windows.is_absolute() or ".." in {*posix.parts, *windows.parts}

    _refuse_first(column.map(leads_out), column, path, "a path inside the folder")


def _refuse_first(bad: Any, column: "pd.Series[str]", path: Path, expected: str) -> None:
    mask = np.asarray(bad, dtype=bool)
    if mask.any():
        row = int(np.argmax(mask))
        raise DataError(
            f"{path}, row {row + 2}, column '{column.name}': {column.iloc[row]!r}; expected {expected}. "
            f"({int(mask.sum())} such row(s); the header is row 1.)"
        )
