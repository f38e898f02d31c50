"""CSV files as columns of strings, and their values as labels, attributes, splits and paths.

What does not fit is a `DataError` with file, row, column, what was seen and what is expected. Rows count records, the
header is row 1; a record may take several lines.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from grobust.data.places import Place, readable
from grobust.errors import DataError
from grobust.groups import Split

__all__ = [
    "SPLIT_NAMES",
    "CsvTable",
    "find_file",
    "leads_out",
    "numbered",
    "paths_inside",
    "read_csv",
    "read_header",
    "split_of_path",
]

SPLIT_NAMES = {
    "0": Split.TRAIN, "train": Split.TRAIN, "training": Split.TRAIN,
    "1": Split.VAL, "val": Split.VAL, "valid": Split.VAL, "validation": Split.VAL, "dev": Split.VAL,
    "2": Split.TEST, "test": Split.TEST, "testing": Split.TEST,
}  # fmt: skip
# A column of codes beyond this is an identifier, not a label.
LARGEST_CODE = 99_999
LISTED = 12
_LEADS_OUT = re.compile(r"[/\\]|[A-Za-z]:|$|(?:.*[/\\])?\.\.(?:[/\\]|$)", re.DOTALL)


@dataclass(frozen=True, eq=False)
class CsvTable:
    """Columns of a table file, every value a string as it stands there.

    Parameters
    ----------
    path : file, for messages
    columns : name → (n) strings
    first_row : number of the first record in messages: 2 where row 1 is a header
    """

    path: Place
    columns: Mapping[str, NDArray[Any]]
    first_row: int = 2

    def __len__(self) -> int:
        return int(next(iter(self.columns.values())).size)

    def strings(self, column: str) -> tuple[str, ...]:
        """(n) values of a column."""
        return tuple(self.columns[column].tolist())

    def refuse_first(self, bad: NDArray[Any], column: str, expected: str) -> None:
        """Raise for the first of the bad rows, (n) bool, if there is one."""
        if bad.any():
            row = int(np.argmax(bad))
            raise self.error(row, column, expected, f" ({int(bad.sum())} such row(s); {self.first()})")

    def error(self, row: int, column: str, expected: str, more: str = "") -> DataError:
        """The error of one value."""
        seen = _short(self.columns[column][row])
        return DataError(f"{self.place(row)}, column '{column}': {seen}; expected {expected}.{more}")

    def place(self, row: int) -> str:
        """File and row of a record, as messages name it."""
        return f"{self.path}, row {row + self.first_row}"

    def codes(self, column: str, names: Sequence[str] | None = None) -> tuple[NDArray[Any], tuple[str, ...]]:
        """Integers 0, 1, … (named by `names` in code order) or strings (numbered in sorted order, or that of `names`).

        Returns
        -------
        (n) int64 codes, and their names.
        """
        position, levels = self._levels(column)
        self.refuse_first(np.isin(position, _where(levels, lambda v: v == "")), column, "a value")
        if all(re.fullmatch(r"[+-]?\d{1,18}(?:\.0+)?", level) for level in levels):
            return self._integers(column, position, levels, names)
        ordered = tuple(names) if names is not None else tuple(sorted(set(levels)))
        if len(ordered) > LARGEST_CODE:
            raise self.error(0, column, f"a label or attribute; the column has {len(ordered)} different values")
        place = {name: code for code, name in enumerate(ordered)}
        close = f"one of {', '.join(ordered[:LISTED])}{', …' if len(ordered) > LISTED else ''}"
        self.refuse_first(np.isin(position, _where(levels, lambda v: v not in place)), column, close)
        return np.array([place[level] for level in levels], dtype=np.int64)[position], ordered

    def _integers(
        self, column: str, position: NDArray[Any], levels: list[str], names: Sequence[str] | None
    ) -> tuple[NDArray[Any], tuple[str, ...]]:
        values = np.array([int(level.partition(".")[0]) for level in levels], dtype=np.int64)
        codes: NDArray[Any] = values[position]
        # Some tables code a binary attribute as -1 and 1; which is which is not for us to guess.
        self.refuse_first(codes < 0, column, "0, 1, 2, … or names")
        if names is not None:
            self.refuse_first(codes >= len(names), column, f"0 to {len(names) - 1} ({', '.join(names)})")
            return codes, tuple(names)
        self.refuse_first(codes > LARGEST_CODE, column, f"a code of at most {LARGEST_CODE}, or a name")
        return codes, tuple(f"{column}={code}" for code in range(int(codes.max()) + 1))

    def binary(self, column: str, *, negative: str = "0", positive: str = "1") -> NDArray[Any]:
        """(n) int64 of a column that holds two values, `negative` for 0 and `positive` for 1."""
        position, levels = self._levels(column)
        known = {negative: 0, positive: 1}
        wrong = _where(levels, lambda v: v not in known)
        self.refuse_first(np.isin(position, wrong), column, f"{negative} or {positive}")
        codes: NDArray[Any] = np.array([known[level] for level in levels], dtype=np.int64)[position]
        return codes

    def numbers(self, column: str) -> NDArray[Any]:
        """(n) float64 of a column of finite numbers."""
        position, levels = self._levels(column)
        values = pd.to_numeric(pd.Series(levels, dtype=object), errors="coerce").to_numpy(dtype=np.float64)
        found: NDArray[Any] = values[position]
        self.refuse_first(~np.isfinite(found), column, "a number")
        return found

    def splits(self, column: str, names: Mapping[str, Split | None] | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Splits, and which rows have one.

        Parameters
        ----------
        names : values of the column (in lower case) and their splits, None for rows to leave out; by default 0/1/2
            and the usual names

        Returns
        -------
        (n) int8 `Split` values, and (n) bool.
        """
        known: Mapping[str, Split | None] = SPLIT_NAMES if names is None else names
        position, levels = self._levels(column)
        lowered = [level.lower() for level in levels]
        expected = "0/1/2 or train/val/test" if names is None else f"one of {', '.join(known)}"
        self.refuse_first(np.isin(position, _where(lowered, lambda v: v not in known)), column, expected)
        values = [known[level] for level in lowered]
        codes = np.array([0 if value is None else int(value) for value in values], dtype=np.int8)
        kept = np.array([value is not None for value in values], dtype=bool)
        return codes[position], kept[position]

    def _levels(self, column: str) -> tuple[NDArray[Any], list[str]]:
        """(n) number of the value among the distinct ones, and these, stripped of spaces around them."""
        position, levels = pd.factorize(self.columns[column])
        return position, [str(level).strip() for level in levels]

    def first(self) -> str:
        """How rows are counted."""
        return "the header is row 1." if self.first_row == 2 else f"row {self.first_row} is the first."


def read_header(path: Place, *, encoding: str = "utf-8") -> tuple[str, ...]:
    """Names of the columns of a CSV file; a byte-order mark is not part of them."""
    return tuple(_parsed(path, encoding=encoding, nrows=0).columns)


def read_csv(path: Place, needed: Sequence[str], *, encoding: str = "utf-8") -> CsvTable:
    """Read the needed columns of a CSV file (of a TSV, where the name says so).

    Raises
    ------
    DataError
        If the file is not there or no table, a column is missing, a row has too many fields, a value is not text in
        that encoding, or there are no rows.
    """
    header = read_header(path, encoding=encoding)
    for column in needed:
        if column not in header:
            close = get_close_matches(column, header, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            listed = ", ".join(header[: LISTED * 4])
            raise DataError(f"{path} has no column '{column}'.{hint} Its columns: {listed}.")
    frame = _parsed(path, encoding=encoding)
    if len(frame) == 0:
        raise DataError(f"{path} has no rows.")
    table = CsvTable(path, {column: frame[column].to_numpy() for column in dict.fromkeys(needed)})
    for column, values in table.columns.items():
        # Undecodable bytes come in as lone surrogates; only they fail to encode.
        try:
            "".join(values).encode()
        except UnicodeEncodeError:
            bad = np.array([re.search(r"[\ud800-\udfff]", value) is not None for value in values])
            expected = f"text in {encoding.upper()} (save the file as UTF-8, or name its encoding: --column encoding=…)"
            table.refuse_first(bad, column, expected)
    return table


def _parsed(path: Place, *, encoding: str, nrows: int | None = None) -> Any:
    if not path.is_file():
        raise DataError(f"{path} does not exist. Expected a CSV there with columns for label, attribute and split.")
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    try:
        with warnings.catch_warnings(), readable(path) as source:
            # Rows longer than the header would otherwise lose or shift their values.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(
                source, dtype=object, keep_default_na=False, na_filter=False, index_col=False, nrows=nrows,
                encoding=encoding, encoding_errors="surrogateescape", sep=separator,
            )  # fmt: skip
    except pd.errors.ParserWarning:
        raise DataError(f"{path}: rows have more fields than the header has columns; expected equally many.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, LookupError) as error:
        reason = str(error).strip().removeprefix("Error tokenizing data. C error: ")
        raise DataError(f"{path} is not a readable CSV: {reason}.") from None


def paths_inside(table: CsvTable, column: str) -> tuple[str, ...]:
    """File names of a column, `/` between folders; each a relative path that stays inside its folder."""
    names = table.strings(column)
    # Nearly every table has none of the signs of a bad name, and finding none takes no look at single names.
    joined = "\0".join(("", *names, ""))
    if not any(sign in joined for sign in ("..", "\0/", "\0\\", "\0\0", ":")):
        return names
    bad = np.fromiter((leads_out(name) for name in names), dtype=bool, count=len(names))
    table.refuse_first(bad, column, "a path inside the folder")
    return names


def leads_out(name: str) -> bool:
    """Whether a file name is empty, absolute (on any system) or has a part ``..``."""
    return _LEADS_OUT.match(name) is not None


def split_of_path(path: str) -> Split | None:
    """The split that a path below the data set's folder names: ``train/0.parquet``, ``data/test-00000-of-3.tar``."""
    words = re.split(r"[^a-z0-9]+", path.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES and not word.isdigit()), None)


def numbered(prefix: str, n: int) -> tuple[str, ...]:
    """n distinct row names ``prefix-0``, ``prefix-1``, …"""
    return tuple(f"{prefix}-{i}" for i in range(n))


def find_file(folder: Place, names: Sequence[str], subfolders: Sequence[str], what: str) -> Place | None:
    """The first of `names` in the folder or in one of the subfolders; None if there is none.

    Raises
    ------
    DataError
        If there is no such folder.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {kind}. Expected the folder of {what}: --data-dir DIR.")
    places = [folder, *(folder / name for name in subfolders)]
    return next((place / name for place in places for name in names if (place / name).is_file()), None)


def _where(levels: Sequence[str], wrong: Any) -> list[int]:
    return [i for i, level in enumerate(levels) if wrong(level)]


def _short(value: str) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}…{text[0]}"
