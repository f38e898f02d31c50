"""Results to stdout as tables or JSON; progress, notes and errors to stderr."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = [
    "fail",
    "interval",
    "note",
    "number",
    "percent",
    "progress_bar",
    "show_json",
    "show_table",
    "show_text",
    "span",
    "with_interval",
]

_NO_VALUE = "–"
PIPE_COLUMNS = 200


def fail(title: str, message: str, notes: Sequence[str] = ()) -> None:
    """Print an error: its type, what happened and what to do next."""
    console = Console(stderr=True)
    console.print(f"[bold red]{escape(title)}[/]: {escape(message)}", highlight=False, soft_wrap=True)
    for line in notes:
        console.print(escape(line), highlight=False, soft_wrap=True)


def note(*lines: str) -> None:
    """Print notes to stderr."""
    console = Console(stderr=True)
    for line in lines:
        console.print(f"[dim]note:[/] {escape(line)}", highlight=False, soft_wrap=True)


def show_json(value: Any) -> None:
    """Print JSON to stdout, and nothing else."""
    Console(soft_wrap=True).print_json(json.dumps(value, allow_nan=False), highlight=False)


def show_text(text: str) -> None:
    """Print text to stdout as it stands."""
    Console(soft_wrap=True).print(text, end="", markup=False, highlight=False, emoji=False)


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    text_columns: int = 1,
    bold: Sequence[Sequence[bool]] | None = None,
) -> None:
    """Print a table to stdout; the first `text_columns` columns are text, the others numbers.

    Cells that `bold` marks are printed so, with a star, since a file or pipe has no bold type.
    """
    table = Table(title=escape(title), title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD)
    for i, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if i < text_columns else "right", overflow="fold")
    for i, row in enumerate(rows):
        marked = [False] * len(row) if bold is None else bold[i]
        table.add_row(*(f"[bold]{escape(c)} *[/]" if m else escape(c) for c, m in zip(row, marked, strict=True)))
    console = Console()
    # Off a terminal rich assumes 80 columns and folds numbers; a file or pipe has no width.
    (console if console.is_terminal else Console(width=PIPE_COLUMNS)).print(table)


def percent(value: float | None, digits: int = 1) -> str:
    """A proportion in percent, a dash where it is undefined."""
    if value is None or not math.isfinite(value):
        return _NO_VALUE
    return f"{100 * value:.{digits}f}"


def interval(low: float, high: float) -> str:
    """An interval in percent, a dash where it is undefined."""
    return _NO_VALUE if math.isnan(low) else f"[{percent(low)}, {percent(high)}]"


def with_interval(value: float, low: float, high: float) -> str:
    """A value in percent with its interval, if it has one."""
    return percent(value) if math.isnan(low) else f"{percent(value)} {interval(low, high)}"


def span(values: Sequence[int]) -> str:
    """One number where all are equal, else the least and the largest."""
    return str(values[0]) if len(set(values)) == 1 else f"{min(values)} … {max(values)}"


def number(value: float | None) -> str:
    """A number to four digits, a dash where it is undefined."""
    return _NO_VALUE if value is None or not math.isfinite(value) else f"{value:.4g}"


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar with rate and time left on stderr, silent when stderr is not a terminal: ``advance(done, total, rate)``."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=None, rate="")
        yield lambda done, total, rate: progress.update(task, completed=done, total=total, rate=rate)
