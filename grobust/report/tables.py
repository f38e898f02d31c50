"""Tables of records: any field by any two others, mean ± sd over runs, the best marked where that is safe to say."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from grobust.errors import ConfigError
from grobust.report.choices import BestIn
from grobust.report.fields import Found, having, lookup, require, text_of
from grobust.report.labels import differences

__all__ = ["Cell", "PivotTable", "mean_cell", "pivot", "to_csv", "to_latex", "to_markdown"]

CONFIDENCE = 0.95
MOST_NAMED = 5
_NO_VALUE = "–"
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
         ">": r"\textgreater{}", "|": r"\textbar{}", **{c: f"\\{c}" for c in "&%$#_{}"}}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One entry.

    Parameters
    ----------
    mean, sd : over the runs; sd is NaN for one run with ddof = 1
    n : runs
    low, high : 95% interval of the mean; NaN where neither several runs nor an interval of each run give one
    is_best : see `pivot`
    """

    mean: float
    sd: float
    n: int
    low: float
    high: float
    is_best: bool = False


@dataclass(frozen=True)
class PivotTable:
    """A table as numbers: cells by (row, column); None where no run falls.

    Parameters
    ----------
    rows, columns, value : names of the fields
    row_names, column_names : their values, in order
    cells : R × C
    percent : whether cells are proportions that are printed in %
    ddof : 0 divides the variance over runs by n, 1 by n − 1
    notes : how to read it, and what was left out
    """

    rows: str
    columns: str
    value: str
    row_names: tuple[str, ...]
    column_names: tuple[str, ...]
    cells: tuple[tuple[Cell | None, ...], ...]
    percent: bool
    ddof: int
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """What the cells are."""
        return f"{self.value}{' in %' if self.percent else ''}: mean ± sd over runs"

    def text(self, cell: Cell | None) -> str:
        """A cell as plain text: ``78.8 ± 0.6 (3)``."""
        if cell is None:
            return _NO_VALUE
        number = self._percent if self.percent else _short
        spread = "" if cell.n == 1 else f" ± {number(cell.sd)}"
        return f"{number(cell.mean)}{spread} ({cell.n})"

    def as_dict(self) -> dict[str, Any]:
        """JSON-able table; NaN becomes None."""
        return {
            "rows": self.rows,
            "columns": self.columns,
            "value": self.value,
            "ddof": self.ddof,
            "cells": [
                {"row": r, "column": c, **{k: _json(getattr(cell, k)) for k in ("mean", "sd", "n", "low", "high")},
                 "best": cell.is_best}
                for r, c, cell in self.filled()
            ],
            "notes": list(self.notes),
        }  # fmt: skip

    def filled(self) -> list[tuple[str, str, Cell]]:
        """Row name, column name and cell of all that have runs."""
        return [
            (row, column, cell)
            for row, cells in zip(self.row_names, self.cells, strict=True)
            for column, cell in zip(self.column_names, cells, strict=True)
            if cell is not None
        ]

    @staticmethod
    def _percent(value: float) -> str:
        return f"{100 * value:.1f}"


def pivot(
    records: Sequence[dict[str, Any]],
    *,
    rows: str,
    columns: str,
    value: str,
    ddof: int = 0,
    best_in: BestIn = BestIn.COLUMN,
    lower_is_better: bool = False,
) -> PivotTable:
    """Gather one field of records by two others.

    A cell is best when its mean is, and its 95% interval lies apart from that of every other cell it is compared with.
    The interval is that of the mean over runs by Student's t (two or more runs), widened where needed to the mean of
    the runs' own intervals (what the size of the test set leaves open); a cell without either is never best.

    Parameters
    ----------
    records : runs, each once; see `grobust.report.fields.distinct_runs`
    rows, columns, value : fields, see `grobust.report.fields`
    ddof : 0 for the population sd (the paper's), 1 for the sample sd
    best_in : cells that are compared
    lower_is_better : for losses, gaps and the like

    Raises
    ------
    ConfigError
        If a field is in no record, no record has all three, or the value is not a number.
    """
    for name, option in ((rows, "--rows"), (columns, "--columns"), (value, "--value")):
        require(records, name, option=option)
    used = having(records, (rows, columns, value))
    if not used:
        raise ConfigError(f"No record has all of {rows!r}, {columns!r} and {value!r}.")
    found: dict[tuple[str, str], list[Found]] = {}
    pooled: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in used:
        r, c, v = (_found(record, name) for name in (rows, columns, value))
        at = text_of(r.value), text_of(c.value)
        found.setdefault(at, []).append(_checked(v, value))
        pooled.setdefault(at, []).append(record)
    row_names, column_names = (_ordered([_found(record, name) for record in used]) for name in (rows, columns))
    cells = [[_cell_of(found.get((r, c)), ddof) for c in column_names] for r in row_names]
    percent = all(v.is_estimate for own in found.values() for v in own)
    notes = [_sd_note(ddof), *_best_note(best_in, lower_is_better)]
    differing = sorted({name for own in pooled.values() for name in differences(own)})
    if differing:
        shown = ", ".join(differing[:MOST_NAMED]) + (", …" if len(differing) > MOST_NAMED else "")
        notes.append(f"cells pool runs that differ in more than the seed ({shown}); --where keeps one kind")
    if len(used) < len(records):
        notes.append(f"{len(records) - len(used)} of {len(records)} runs left out: they lack one of the three fields")
    return PivotTable(
        rows=rows, columns=columns, value=value, row_names=row_names, column_names=column_names,
        cells=_marked(cells, best_in, lower_is_better), percent=percent, ddof=ddof,
        notes=tuple(notes),
    )  # fmt: skip


def mean_cell(values: Sequence[float], intervals: Sequence[tuple[float, float]] = (), *, ddof: int = 0) -> Cell:
    """Mean and sd of runs, and a 95% interval of the mean.

    Parameters
    ----------
    values : one or more, float64 sums
    intervals : of the runs' own test rows, one per value, or none; with them the values are proportions

    Returns
    -------
    A cell; its interval is Student's over two or more runs, widened to hold the mean of the runs' own.
    """
    array = np.asarray(values, dtype=np.float64)
    # Equal values have no spread; the rounding of their mean must not give them one.
    n, mean = array.size, float(array.mean() if np.ptp(array) else array[0])
    squares = float(np.sum((array - mean) ** 2))
    sd = math.sqrt(squares / (n - ddof)) if n > ddof else math.nan
    low = high = math.nan
    if n > 1:
        half = float(student_t.ppf(0.5 + CONFIDENCE / 2, n - 1)) * math.sqrt(squares / (n - 1) / n)
        low, high = mean - half, mean + half
    if intervals:
        # Values with intervals are proportions; Student's interval of two or three runs can leave 0 to 1.
        low = max(0.0, float(np.fmin(low, fmean(a for a, _ in intervals))))
        high = min(1.0, float(np.fmax(high, fmean(b for _, b in intervals))))
    return Cell(mean, sd, n, low, high)


def to_markdown(table: PivotTable) -> str:
    """A Markdown table, with the notes below."""

    def escaped(text: str) -> str:
        return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#" else c for c in text).replace("\n", " ")

    lines = [[escaped(table.rows), *map(escaped, table.column_names)], ["---", *["---:"] * len(table.column_names)]]
    lines += _lines(table, escaped, lambda cell: f"**{table.text(cell)}**" if cell.is_best else table.text(cell))
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {escaped(note)}" for note in table.notes)
    return f"{escaped(table.title)}\n\n{body}\n\n{notes}\n"


def to_latex(table: PivotTable) -> str:
    """A LaTeX tabular with rules of the booktabs package; the notes are comments."""

    def escaped(text: str) -> str:
        return "".join(LATEX.get(c, c) for c in text)

    def cell_text(cell: Cell) -> str:
        text = table.text(cell).replace(" ± ", r" $\pm$ ").replace("-", "$-$")
        return rf"\textbf{{{text}}}" if cell.is_best else text

    head = " & ".join([escaped(table.rows), *map(escaped, table.column_names)])
    body = " \\\\\n".join(" & ".join(line).replace(_NO_VALUE, "--") for line in _lines(table, escaped, cell_text))
    notes = "\n".join(f"% {note}" for note in (table.title, *table.notes))
    columns = "l" + "r" * len(table.column_names)
    return (
        f"{notes}\n\\begin{{tabular}}{{{columns}}}\n\\toprule\n{head} \\\\\n\\midrule\n{body} \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


def to_csv(table: PivotTable) -> str:
    """One line per cell in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [table.rows, table.columns, f"mean {table.value}", f"sd (ddof {table.ddof})", "n", "low", "high", "best"]
    )
    for row, column, cell in table.filled():
        numbers = ["" if math.isnan(v) else repr(v) for v in (cell.mean, cell.sd)]
        interval = ["" if math.isnan(v) else repr(v) for v in (cell.low, cell.high)]
        writer.writerow([row, column, *numbers, cell.n, *interval, int(cell.is_best)])
    return text.getvalue()


def _lines(
    table: PivotTable, escaped: Callable[[str], str], cell_text: Callable[[Cell], str]
) -> list[list[str]]:  # fmt: skip
    return [
        [escaped(name), *(_NO_VALUE if cell is None else cell_text(cell) for cell in cells)]
        for name, cells in zip(table.row_names, table.cells, strict=True)
    ]


def _found(record: dict[str, Any], field: str) -> Found:
    found = lookup(record, field)
    assert found is not None
    return found


def _checked(found: Found, field: str) -> Found:
    if isinstance(found.value, bool) or not isinstance(found.value, int | float):
        raise ConfigError(
            f"--value: {field!r} is not a number: a record has {text_of(found.value)!r}. Use it as --rows or "
            "--columns, and a metric such as test.wga as --value."
        )
    return found


def _ordered(found: Sequence[Found]) -> tuple[str, ...]:
    """Numbers ascending, anything else in the order of appearance."""
    values = {text_of(f.value): f.value for f in found}
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values.values()):
        return tuple(sorted(values, key=lambda text: float(values[text])))
    return tuple(values)


def _cell_of(found: Sequence[Found] | None, ddof: int) -> Cell | None:
    if not found:
        return None
    own = [(f.low, f.high) for f in found if f.low is not None and f.high is not None]
    return mean_cell([f.value for f in found], own if len(own) == len(found) else (), ddof=ddof)


def _marked(cells: list[list[Cell | None]], best_in: BestIn, lower: bool) -> tuple[tuple[Cell | None, ...], ...]:
    keys = {BestIn.COLUMN: (0, 1), BestIn.ROW: (1, 0), BestIn.TABLE: (0, 0)}
    compared: dict[tuple[int, int], dict[tuple[int, int], Cell]] = {}
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            if cell is not None and best_in in keys:
                by_row, by_column = keys[best_in]
                compared.setdefault((by_row * i, by_column * j), {})[i, j] = cell
    best = {_winner(own, lower) for own in compared.values()}
    return tuple(
        tuple(cell if cell is None else replace(cell, is_best=(i, j) in best) for j, cell in enumerate(row))
        for i, row in enumerate(cells)
    )


def _winner(compared: dict[tuple[int, int], Cell], lower: bool) -> tuple[int, int] | None:
    """The position of the best cell, if its interval lies apart from all others."""
    if len(compared) < 2:
        return None
    sign = -1 if lower else 1
    first = max(compared, key=lambda at: sign * compared[at].mean)
    own = compared[first]
    others = [cell for at, cell in compared.items() if at != first]
    # A cell without an interval has NaN ends, and no comparison with NaN holds.
    apart = all(own.high < cell.low if lower else own.low > cell.high for cell in others)
    return first if apart else None


def _sd_note(ddof: int) -> str:
    divisor = "n (population, as in the paper)" if ddof == 0 else "n - 1 (sample)"
    return f"mean ± sd over runs (n): the sd divides by {divisor}"


def _best_note(best_in: BestIn, lower: bool) -> list[str]:
    if best_in is BestIn.NONE:
        return []
    where = {BestIn.COLUMN: "its column", BestIn.ROW: "its row", BestIn.TABLE: "the table"}[best_in]
    extreme = "smallest" if lower else "largest"
    rule = (
        f"bold: the {extreme} mean of {where}, where its 95% interval (over runs by Student's t, and of the runs' own "
        "test rows) lies apart from all others there; where nothing is bold, the best cannot be told from the next"
    )
    return [rule]


def _short(value: float) -> str:
    return f"{value:.4g}"


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None
