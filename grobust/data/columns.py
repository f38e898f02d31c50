"""`Columns`: which columns of somebody's table hold what, for data sets that need no code."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from grobust.data.csv_table import SPLIT_NAMES
from grobust.errors import DataError
from grobust.groups import Split

__all__ = ["LEFT_OUT", "Columns"]

# In place of a split: rows that are not used.
LEFT_OUT = "none"
LISTS = ("class_names", "attribute_names")


@dataclass(frozen=True)
class Columns:
    """Names of the columns. Items are the images of `file`, or, where there is no such column, the texts of `text`.

    Parameters
    ----------
    file : image file below the folder, or the image itself (Parquet, Arrow)
    text : text
    pair : second text of a pair; None for single texts
    label, attribute, split : class, spurious attribute, split (0/1/2 or train/val/test)
    id : distinct row names of texts; None for the row number
    class_names, attribute_names : for integer codes, names in code order
    split_names : other values of the split column and their splits, ``id_val=none`` for rows to leave out
    csv : name of the table; None for ``metadata.csv``, or else the one ``metadata*.csv`` of the folder
    root : folder of the images below the folder of the data set; None for the folder itself
    encoding : of the table
    """

    file: str = "filename"
    text: str = "text"
    pair: str | None = None
    label: str = "y"
    attribute: str = "a"
    split: str = "split"
    id: str | None = None
    class_names: tuple[str, ...] | None = None
    attribute_names: tuple[str, ...] | None = None
    split_names: Mapping[str, Split | None] | None = None
    csv: str | None = None
    root: str | None = None
    encoding: str = "utf-8"

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> "Columns":
        """Columns from ``name=value`` options; lists are split at commas, ``split_names`` is ``VALUE:SPLIT,…``.

        Raises
        ------
        DataError
            If an option is unknown or `split_names` has another form.
        """
        known = [f.name for f in fields(cls)]
        unknown = sorted(set(options) - set(known))
        if unknown:
            close = get_close_matches(unknown[0], known, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise DataError(f"Unknown column option '{unknown[0]}'.{hint} Expected: {', '.join(known)}.")
        values: dict[str, Any] = dict(options)
        for key in LISTS:
            if key in values:
                values[key] = tuple(part.strip() for part in values[key].split(","))
        if "split_names" in values:
            values["split_names"] = _split_names(values["split_names"])
        return cls(**values)


def _split_names(text: str) -> dict[str, Split | None]:
    found: dict[str, Split | None] = {}
    for part in text.split(","):
        value, colon, name = (piece.strip().lower() for piece in part.rpartition(":"))
        if not (value and colon) or (name not in SPLIT_NAMES and name != LEFT_OUT):
            raise DataError(
                f"split_names: {part.strip()!r}; expected VALUE:SPLIT with SPLIT train, val, test or {LEFT_OUT}, "
                "such as split_names=train:train,id_val:val,val:none,test:test."
            )
        found[value] = SPLIT_NAMES.get(name)
    return found
