"""Labels, attributes, splits and names of a cache's rows: from the cache, from a CSV, or from both if they agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.data.columns import Columns
from grobust.data.csv_table import SPLIT_NAMES, CsvTable, numbered, read_csv, read_header
from grobust.errors import DataError
from grobust.groups import Groups, Split
from grobust.importing.arrays import codes_of
from grobust.importing.layouts import Piece

__all__ = ["RowTable", "read_table"]

Names = tuple[str, ...] | None
Codes = tuple[NDArray[Any], Names]


@dataclass(frozen=True, eq=False)
class RowTable:
    """What is known of the n rows of all pieces, in their order.

    Parameters
    ----------
    groups : labels and attributes
    split : (n) int8
    sample_ids : n distinct names
    notes : what was guessed, and what nobody says
    """

    groups: Groups
    split: NDArray[Any]
    sample_ids: tuple[str, ...]
    notes: tuple[str, ...]


def read_table(
    pieces: Sequence[Piece],
    *,
    csv: Path | None,
    options: Mapping[str, str],
    split: Split | None,
    renamed: Mapping[Split, Split],
) -> RowTable:
    """Labels, attributes and splits of all pieces.

    Parameters
    ----------
    csv : table with what the cache does not say; rows are found by name, else in the order of each split
    options : its columns by name, see `grobust.data.columns.Columns`; also class_names and attribute_names
    split : of rows whose split neither cache nor CSV says
    renamed : splits to be called otherwise in the end

    Raises
    ------
    DataError
        With file, array or column, and row.
    """
    columns = Columns.from_options(options)
    reading = _Reading(tuple(pieces), columns)
    found = reading.of_cache()
    if csv is not None:
        found = reading.with_csv(found, csv, options)
    if found.labels is None:
        raise DataError(
            "The cache has no labels, and there is no CSV that has them. Give one: --csv FILE --column label=NAME."
        )
    splits = np.where(found.split < 0, -1 if split is None else int(split), found.split)
    if (splits < 0).any():
        raise DataError(
            f"{int((splits < 0).sum())} row(s) have no split: neither names nor arrays of the cache say it.\n"
            "Give a CSV with a column for it (--csv, --column split=NAME), or say it for all of them: --split train."
        )
    table = np.array([int(renamed.get(value, value)) for value in Split])
    if found.attributes is None:
        reading.notes.append("nobody says attributes: groups are the classes")
    labels, class_names = found.labels
    attributes, attribute_names = found.attributes or (None, None)
    groups = Groups.from_arrays(
        labels, attributes, class_names=columns.class_names or class_names,
        attribute_names=(columns.attribute_names or attribute_names) if attributes is not None else None,
    )  # fmt: skip
    return RowTable(groups, table[splits].astype(np.int8), reading.names(found.names), tuple(reading.notes))


@dataclass(frozen=True, eq=False)
class _Known:
    """Columns of all rows; None for what nobody says, -1 for an unknown split."""

    labels: Codes | None
    attributes: Codes | None
    split: NDArray[Any]
    names: Names


class _Reading:
    """Pieces, and the columns of a CSV beside them."""

    def __init__(self, pieces: tuple[Piece, ...], columns: Columns) -> None:
        self.pieces, self.columns = pieces, columns
        self.sizes = [len(piece.features) for piece in pieces]
        self.n = sum(self.sizes)
        self.notes: list[str] = []

    def of_cache(self) -> _Known:
        """What the cache itself says."""
        labels = self._codes("labels")
        attributes, groups = self._codes("attributes"), self._codes("groups")
        if attributes is None and groups is not None and labels is not None:
            attributes = self._attributes(labels[0], groups[0]), None
        elif attributes is not None and groups is not None and labels is not None:
            size = int(attributes[0].max(initial=0)) + 1
            if not np.array_equal(groups[0], labels[0] * size + attributes[0]):
                self.notes.append("groups of the cache are not label * A + attribute; labels and attributes are used")
        named = [piece.names for piece in self.pieces]
        names = tuple(name for part in named if part for name in part) if all(named) else None
        return _Known(labels, attributes, self._splits(), names)

    def names(self, names: Names) -> tuple[str, ...]:
        """Names of all rows, made from split-independent places where there are none."""
        return names or numbered("row", self.n)

    def _codes(self, what: str) -> Codes | None:
        """One column of all pieces; None if no piece has it, an error if only some have."""
        columns = [getattr(piece, what) for piece in self.pieces]
        if all(column is None for column in columns):
            return None
        if any(column is None for column in columns):
            lacking = next(p for p, column in zip(self.pieces, columns, strict=True) if column is None)
            raise DataError(f"{lacking.features.where} has no {what} beside it; other parts of the cache have.")
        read = [codes_of(column, size, what) for column, size in zip(columns, self.sizes, strict=True)]
        if all(names is None for _, names in read):
            return np.concatenate([codes for codes, _ in read]), None
        if any(names is None for _, names in read):
            raise DataError(f"{what} are names in some parts of the cache and numbers in others.")
        levels = sorted({name for _, names in read for name in names or ()})
        place = [np.array([levels.index(name) for name in names or ()], dtype=np.int64) for _, names in read]
        return np.concatenate([at[codes] for at, (codes, _) in zip(place, read, strict=True)]), tuple(levels)

    def _attributes(self, labels: NDArray[Any], groups: NDArray[Any]) -> NDArray[Any]:
        """Attributes of groups that are label * A + attribute, and A found from them."""
        low = int((groups // (labels + 1)).max(initial=0)) + 1
        some = labels > 0
        high = int((groups[some] // labels[some]).min(initial=low)) if some.any() else low
        if low > high:
            raise DataError(
                "The cache's groups are not label * A + attribute for any number A of attributes, so attributes cannot "
                "be told from them. Give them in a CSV: --csv FILE --column attribute=NAME."
            )
        self.notes.append(f"attributes were told from groups, as group - label * {low}")
        attributes: NDArray[Any] = groups - labels * low
        return attributes

    def _splits(self) -> NDArray[Any]:
        found = []
        for piece, size in zip(self.pieces, self.sizes, strict=True):
            if piece.splits is None:
                found.append(np.full(size, -1 if piece.split is None else int(piece.split), dtype=np.int64))
                continue
            codes, names = codes_of(piece.splits, size, "splits")
            known = [str(i) for i in range(3)] if names is None else [name.strip().lower() for name in names]
            for code in np.unique(codes).tolist():
                if code >= len(known) or known[code] not in SPLIT_NAMES:
                    row = int(np.argmax(codes == code))
                    seen = code if names is None else names[code]
                    raise DataError(f"{piece.splits.where}, row {row}: {seen!r}; expected 0/1/2 or train/val/test.")
            found.append(np.array([int(SPLIT_NAMES[name]) if name in SPLIT_NAMES else -1 for name in known])[codes])
        return np.concatenate(found)

    def with_csv(self, known: _Known, path: Path, options: Mapping[str, str]) -> _Known:
        """What the CSV says over what the cache says; where both do, they must agree."""
        header = read_header(path, encoding=self.columns.encoding)
        wanted = {key: getattr(self.columns, key) for key in ("label", "attribute", "split", "id", "file")}
        # A column that the user names must be there; others count where they are.
        used = {key: name for key, name in wanted.items() if name is not None and (key in options or name in header)}
        identity = used.pop("id", None) or used.pop("file", None)
        used.pop("file", None)
        if not used:
            raise DataError(
                f"{path} has no column for label, attribute or split; its columns: {', '.join(header)}.\n"
                "Name them: --column label=NAME."
            )
        needed = [*used.values(), *([identity] if identity else [])]
        table = read_csv(path, needed, encoding=self.columns.encoding)
        split, kept = (None, None) if "split" not in used else table.splits(used["split"], self.columns.split_names)
        splits = None if split is None or kept is None else np.where(kept, split, -1).astype(np.int64)
        rows = self._rows(table, known, splits, identity)
        labels = self._column(table, rows, known.labels, used.get("label"), self.columns.class_names, "label")
        attributes = known.attributes
        if "attribute" in used:
            codes, names = table.codes(used["attribute"], self.columns.attribute_names)
            attributes = codes[rows], names
        found_names = known.names
        if found_names is None and identity is not None:
            found_names = tuple(table.columns[identity][rows].tolist())
        known_split = known.split if splits is None else splits[rows]
        return replace(known, labels=labels, attributes=attributes, split=known_split, names=found_names)

    def _column(
        self, table: CsvTable, rows: NDArray[Any], known: Codes | None, column: str | None, names: Names, what: str
    ) -> Codes | None:
        """A column of the CSV, held against the cache's: rows in another order would give every row a wrong label."""
        if column is None:
            return known
        codes, levels = table.codes(column, names)
        codes = codes[rows]
        numbered_levels = levels == tuple(f"{column}={i}" for i in range(len(levels))) or names is not None
        if known is not None:
            same = known[1] == levels or (known[1] is None and numbered_levels)
            wrong = codes != known[0] if same else _not_one_to_one(codes, known[0])
            if wrong.any():
                row = int(np.argmax(wrong))
                raise DataError(
                    f"{table.place(int(rows[row]))}, column '{column}': {levels[int(codes[row])]!r}, the cache has "
                    f"{what} {int(known[0][row])} for this row ({int(wrong.sum())} row(s) contradict): the rows are "
                    "not in the same order.\nA training loader that shuffles does this; such a cache cannot be matched "
                    "to a table. Leave out the CSV, or extract again in order."
                )
        return codes, levels

    def _rows(self, table: CsvTable, known: _Known, split: NDArray[Any] | None, identity: str | None) -> NDArray[Any]:
        """(n) row of the CSV for every row of the cache: by name, by place within the split, or by place."""
        if known.names is not None and identity is not None:
            return self._by_name(table, known.names, identity)
        if split is not None and (known.split >= 0).all() and len(table) != self.n:
            return self._by_split(table, known.split, split)
        if split is not None and (known.split >= 0).all() and not np.array_equal(split, known.split):
            return self._by_split(table, known.split, split)
        if len(table) != self.n:
            raise DataError(
                f"{table.path} has {len(table)} rows for {self.n} rows of features; expected equally many, or a split "
                "column beside a cache whose splits are known, or names in both."
            )
        return np.arange(self.n)

    def _by_name(self, table: CsvTable, names: tuple[str, ...], column: str) -> NDArray[Any]:
        place: dict[str, int] = {}
        for row, name in enumerate(table.strings(column)):
            if place.setdefault(name, row) != row:
                raise table.error(row, column, "names that stand once")
        missing = [name for name in names if name not in place]
        if missing:
            raise DataError(
                f"{table.path}, column '{column}': {len(missing)} of the cache's {len(names)} rows have no row there, "
                f"the first is {missing[0]!r}; the column holds names like {table.columns[column][0]!r}."
            )
        return np.array([place[name] for name in names], dtype=np.int64)

    def _by_split(self, table: CsvTable, known: NDArray[Any], split: NDArray[Any]) -> NDArray[Any]:
        rows = np.empty(self.n, dtype=np.int64)
        for value in np.unique(known):
            there, here = np.flatnonzero(split == value), np.flatnonzero(known == value)
            if there.size != here.size:
                raise DataError(
                    f"{table.path} has {there.size} rows of the split '{Split(value).name.lower()}' for {here.size} "
                    "rows of features; expected equally many."
                )
            rows[here] = there
        return rows


def _not_one_to_one(codes: NDArray[Any], known: NDArray[Any]) -> NDArray[Any]:
    """(n) bool: rows that do not follow what most rows of their code say of the other code."""
    counts = np.zeros((int(codes.max()) + 1, int(known.max()) + 1), dtype=np.int64)
    np.add.at(counts, (codes, known), 1)
    wrong: NDArray[Any] = (counts.argmax(axis=1)[codes] != known) | (counts.argmax(axis=0)[known] != codes)
    return wrong
