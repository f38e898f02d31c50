"""Parquet and Arrow files, and Hugging Face `datasets` from a local folder (``save_to_disk`` or a download).

Read with pyarrow (extra ``arrow``); `datasets` itself is not needed. Columns of class labels keep their names. Images
stay in the files until they are asked for.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grobust.data.arrow_files import as_strings, cell_bytes, is_string, read_table
from grobust.data.columns import Columns
from grobust.data.csv_table import CsvTable, paths_inside, split_of_path
from grobust.data.dataset import GroupedDataset, ItemKind
from grobust.data.tables import ImageFiles, RowTable, TextPairs, Texts, decoded_image, take_rows
from grobust.errors import DataError
from grobust.groups import Groups

__all__ = ["ArrowImages", "load_arrow"]

SUFFIXES = (".parquet", ".arrow", ".feather")
IMAGE_COLUMN = "image"


@dataclass(frozen=True, eq=False)
class ArrowImages(RowTable):
    """Encoded images in a column of Parquet or Arrow files.

    Parameters
    ----------
    files : in the order of the rows
    column : of the images, ``{bytes, path}`` or bytes
    starts : (f + 1) number of the first row of every file, and of all rows
    """

    files: tuple[Path, ...]
    column: str
    starts: NDArray[Any]
    kind: ItemKind = "image"

    @cached_property
    def digest(self) -> str:
        """Hash of the manifest; images count by the name of their file and row, not by content."""
        return str(self.manifest().hexdigest())

    def lengths(self) -> None:
        """Images are resized to one size: all cost the same."""

    def __getitem__(self, index: int) -> Image.Image:
        number = int(np.searchsorted(self.starts, index, side="right")) - 1
        path, row = self.files[number], int(index - self.starts[number])
        what = f"{self.name}: image in {path}, row {row + 1}, column '{self.column}'"
        content = cell_bytes(path, self.column, row)
        if content is None:
            raise DataError(f"{what} has no bytes in it; expected the image itself, not its name.")
        return decoded_image(io.BytesIO(content), what)


@dataclass(frozen=True, eq=False)
class _Files(CsvTable):
    """Columns of several files in a row."""

    path: Path
    files: tuple[Path, ...] = ()
    starts: tuple[int, ...] = ()

    def place(self, row: int) -> str:
        number = int(np.searchsorted(self.starts, row, side="right")) - 1
        return f"{self.files[number]}, row {row - self.starts[number] + 1}"

    def first(self) -> str:
        return "the first row is 1."


def load_arrow(folder: Path, *, columns: Columns | None = None, needs_split: bool = True) -> GroupedDataset:
    """Read label, attribute and split of every file ``*.parquet`` and ``*.arrow`` below a folder (or of one file).

    Without the split column it is the one that the file's path names (``train/data-00000-of-00001.arrow``,
    ``data/test-00000-of-00001.parquet``). Items are the images of the column `file` (or ``image``), or the texts of
    `text`; a column of image *names* is looked up below the folder.

    Raises
    ------
    DataError
        If pyarrow is missing, a file is damaged or lacks a column, or a value does not fit; file, row and column are
        named.
    """
    columns = columns or Columns()
    files = _files(folder)
    tables = {path: read_table(path) for path in files}
    schema = next(iter(tables.values())).schema
    item = next((name for name in (columns.file, IMAGE_COLUMN, columns.text) if name in schema.names), columns.file)
    has_split = columns.split in schema.names
    pair = columns.pair if item == columns.text else None
    optional = [name for name in (columns.split if has_split else None, columns.id, pair) if name is not None]
    _check_columns(tables, [item, columns.label, columns.attribute, *optional])
    root = folder.parent if folder.is_file() else folder
    as_text = is_string(schema.field(item).type)
    content = _strings(tables, [columns.label, columns.attribute, *optional, *([item] if as_text else [])], root)
    labels, class_names = content.codes(columns.label, columns.class_names or _class_names(schema, columns.label))
    attributes, attribute_names = content.codes(
        columns.attribute, columns.attribute_names or _class_names(schema, columns.attribute)
    )
    groups = Groups.from_arrays(labels, attributes, class_names=class_names, attribute_names=attribute_names)
    kept = np.ones(len(content), dtype=bool)
    if has_split:
        named = _named(content, columns.split, _class_names(schema, columns.split))
        split, kept = named.splits(columns.split, columns.split_names)
    else:
        split = _splits_of_files(files, [table.num_rows for table in tables.values()], folder, needs_split)
    name = f"arrow:{folder.absolute().stem if folder.is_file() else folder.absolute().name}"
    whole = _dataset(content, RowTable(name, groups, split, _ids(content, columns.id)), item, columns, as_text)
    return whole if kept.all() else take_rows(whole, np.flatnonzero(kept), name=name)


def _dataset(content: _Files, rows: RowTable, item: str, columns: Columns, as_text: bool) -> GroupedDataset:
    """The rows with what stands in the column of items: texts, pairs, images, or names of image files."""
    name, groups, split, ids = rows.name, rows.groups, rows.split, rows.sample_ids
    if item == columns.text and as_text:
        texts = content.strings(item)
        if columns.pair is None:
            return Texts(name=name, groups=groups, split=split, sample_ids=ids, texts=texts)
        second = content.strings(columns.pair)
        return TextPairs(name=name, groups=groups, split=split, sample_ids=ids, first=texts, second=second)
    if as_text:
        names = paths_inside(content, item)
        return ImageFiles(name=name, groups=groups, split=split, sample_ids=names, root=content.path)
    starts = np.array([*content.starts, len(content)], dtype=np.int64)
    return ArrowImages(
        name=name, groups=groups, split=split, sample_ids=ids, files=content.files, column=item, starts=starts
    )


def _check_columns(tables: Mapping[Path, Any], needed: Sequence[str]) -> None:
    for path, table in tables.items():
        for name in needed:
            if name not in table.schema.names:
                raise DataError(f"{path} has no column '{name}'. Its columns: {', '.join(table.schema.names)}.")


def _ids(content: _Files, column: str | None) -> tuple[str, ...]:
    """Values of the column, or ``file#row``."""
    if column is not None:
        return content.strings(column)
    ends = [*content.starts[1:], len(content)]
    return tuple(
        f"{path.relative_to(content.path).as_posix()}#{row}"
        for path, start, end in zip(content.files, content.starts, ends, strict=True)
        for row in range(end - start)
    )


def _files(folder: Path) -> tuple[Path, ...]:
    if folder.is_file():
        return (folder,)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    # Results of `datasets.map` that are kept beside the data repeat its rows.
    kept = tuple(path for path in found if not path.name.startswith("cache-"))
    if not kept:
        raise DataError(
            f"{folder} has no files *.parquet or *.arrow. Expected a file or a folder with some: --data-dir."
        )
    return kept


def _strings(tables: Mapping[Path, Any], names: Sequence[str], folder: Path) -> _Files:
    """Columns of all files as strings."""
    files = tuple(tables)
    starts = np.cumsum([0, *(table.num_rows for table in tables.values())]).tolist()
    if starts[-1] == 0:
        raise DataError(f"{files[0]} has no rows.")
    columns = {
        name: np.concatenate([as_strings(table.column(name), path, name) for path, table in tables.items()])
        for name in names
    }
    return _Files(folder, columns, files=files, starts=tuple(starts[:-1]))


def _named(content: _Files, column: str, names: tuple[str, ...] | None) -> _Files:
    """The same, with the codes of a class label as names."""
    if names is None:
        return content
    codes, _ = content.codes(column, names)
    values = np.array(names, dtype=object)[codes]
    return _Files(content.path, {**content.columns, column: values}, files=content.files, starts=content.starts)


def _class_names(schema: Any, column: str) -> tuple[str, ...] | None:
    """Names that Hugging Face's class labels keep in the schema."""
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        feature = json.loads(raw)["info"]["features"][column] if raw else {}
        names = feature.get("names") if feature.get("_type") == "ClassLabel" else None
    except (ValueError, KeyError, TypeError, AttributeError):
        names = None
    usable = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if usable and names else None


def _splits_of_files(files: Sequence[Path], sizes: Sequence[int], folder: Path, needs_split: bool) -> NDArray[np.int8]:
    splits = []
    for path in files:
        split = split_of_path(path.name if path == folder else path.relative_to(folder).as_posix())
        if split is None and needs_split:
            raise DataError(
                f"{path}: neither a column nor the name of the file says a split. Expected a column 'split' "
                "(--column split=…), or train, val or test in the path; or give --split."
            )
        splits.append(0 if split is None else int(split))
    return np.repeat(np.array(splits, dtype=np.int8), sizes)
