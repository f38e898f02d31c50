"""Append-only records: one JSON line per finished run, with all that a table or figure needs.

Several processes may append to the same file: each line is written under a lock, in one call, and flushed to disk. A
line that a killed writer left half-written is reported by `read_records` and kept apart from the next one.
"""

import json
import math
import os
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from grobust.errors import DataError
from grobust.ledger import LabelLedger
from grobust.report.record_shape import RecordLine, check_record
from grobust.typing import PathLike

__all__ = ["RECORD_SCHEMA", "LabelLedger", "Record", "append_records", "jsonable", "read_records"]

RECORD_SCHEMA = 1


@dataclass(frozen=True)
class Record:
    """One finished run.

    Parameters
    ----------
    command : ``probe``, ``spectrum``, …
    config : full configuration, JSON-able
    provenance : of the features that the run read
    versions : library versions of the run
    device : ``cpu`` or ``cuda``
    seed : of the run; None where nothing is random
    label_ledger : which labels were touched
    results : JSON-able
    time : when the run finished, UTC, ISO 8601
    """

    command: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    versions: dict[str, str]
    device: str
    seed: int | None
    label_ledger: dict[str, Any]
    results: dict[str, Any]
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    schema: int = RECORD_SCHEMA


def append_records(path: PathLike, records: list[Record]) -> None:
    """Append records as JSON lines, under a lock beside the file, and flush them to disk.

    Raises
    ------
    DataError
        If a value is not JSON (NaN included: results carry None for what is undefined).
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        lines = [json.dumps(asdict(record), allow_nan=False, sort_keys=True) for record in records]
    except (TypeError, ValueError) as error:
        raise DataError(f"A record for {target} is not JSON: {error}.") from error
    with FileLock(f"{target}.lock"), target.open("ab") as file:
        # A writer that was killed may have left a line without its end; start on a line of our own.
        start = b"" if _ends_with_newline(target) else b"\n"
        file.write(start + "".join(line + "\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())


def read_records(path: PathLike, *, command: str | None = None) -> list[dict[str, Any]]:
    """Records of a file in the order they were written, optionally of one command.

    Raises
    ------
    DataError
        If the file is missing, or a line is not a record of a known schema; the line is named, and the key.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"No records at {source}. Expected a records.jsonl that grobust wrote.")
    records: list[dict[str, Any]] = []
    # By bytes: text may hold other characters that end a line.
    for number, line in enumerate(source.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        record = RecordLine(_parsed(line, f"{source}, line {number}"), f"{source}, line {number}")
        try:
            check_record(record)
        except DataError as error:
            raise DataError(f"{record.place}: {error}. Delete the line, and run it again with this grobust.") from None
        if command is None or record["command"] == command:
            records.append(record)
    return records


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    """The object of a line, in strict JSON."""

    def refuse(text: str) -> float:
        raise ValueError(f"{text[:40]} is no number of JSON")

    def finite(text: str) -> float:
        value = float(text)
        return value if math.isfinite(value) else refuse(text)

    try:
        record = json.loads(line.decode("utf-8"), parse_constant=refuse, parse_float=finite)
    except (ValueError, RecursionError) as error:
        what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(
            f"{place} is not JSON ({what}); a writer may have been killed. Delete the line, and run it again."
        ) from None
    if not isinstance(record, dict) or record.get("schema") != RECORD_SCHEMA:
        raise DataError(f"{place}: not a record of schema {RECORD_SCHEMA}.")
    return record


def jsonable(value: Any) -> Any:
    """Dataclasses as dicts, tuples as lists, and None for every float that JSON cannot hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {name: jsonable(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, dict):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _ends_with_newline(path: Path) -> bool:
    if path.stat().st_size == 0:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
