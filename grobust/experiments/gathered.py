"""Runs of several records files: each once, and only those asked for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grobust.errors import DataError
from grobust.experiments.records import read_records
from grobust.report.fields import Condition, distinct_runs, filtered

__all__ = ["gather_runs"]

DEFAULT_NAME = "records.jsonl"


def gather_runs(
    paths: Sequence[Path], *, where: Sequence[str] = (), commands: Sequence[str] | None = None
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Read, filter, and keep of each run its last record.

    Parameters
    ----------
    paths : files, or folders with a ``records.jsonl``
    where : conditions, ``field=value``
    commands : kinds of runs to keep; None for all

    Returns
    -------
    The records in order, and notes on what was left out.

    Raises
    ------
    DataError
        If a file is missing or damaged, or there are no records.
    ConfigError
        If a condition is malformed, names an unknown field or leaves nothing.
    """
    conditions = [Condition.parse(text) for text in where]
    files = [path / DEFAULT_NAME if path.is_dir() else path for path in paths]
    records = [record for file in dict.fromkeys(files) for record in read_records(file)]
    wanted = [r for r in records if commands is None or r.get("command") in commands]
    if not wanted:
        there = ", ".join(sorted({str(r.get("command")) for r in records})) or "nothing"
        names = ", ".join(map(str, files))
        what = "any run" if commands is None else f"runs of {' or '.join(f'`grobust {c}`' for c in commands)}"
        raise DataError(f"{names}: expected {what}, found {there}. Record some with --records {files[0]}.")
    runs, repeated = distinct_runs(filtered(wanted, conditions))
    notes = (f"{repeated} record(s) repeat a run; the last record of each counts",) if repeated else ()
    return runs, notes
