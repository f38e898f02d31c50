"""The one door to pyarrow: Parquet and Arrow files as tables, single cells of them, and types of columns."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.errors import DataError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    # An extra: whoever has no such file needs no pyarrow.
    pa = pq = None

__all__ = ["as_strings", "cell_bytes", "is_string", "read_table", "write_table"]

# Row groups with images that a process keeps in memory.
KEPT_BATCHES = 2


def read_table(path: Path) -> Any:
    """A `pyarrow.Table`. Arrow files are mapped; of a Parquet file, columns of bytes and structs are left empty.

    Raises
    ------
    DataError
        If pyarrow is missing or the file is damaged.
    """
    if pa is None:
        raise DataError(
            f"{path}: Parquet and Arrow files are read with pyarrow, which is not installed.\n"
            "Install the extra: pip install 'grobust[arrow]'."
        )
    try:
        if path.suffix.lower() != ".parquet":
            return _ipc(path).read_all()
        file = pq.ParquetFile(path, memory_map=True)
        schema = file.schema_arrow
        table = file.read(columns=[field.name for field in schema if _is_small(field.type)])
        for i, field in enumerate(schema):
            if not _is_small(field.type):
                table = table.add_column(i, field, pa.nulls(file.metadata.num_rows, field.type))
        return table.replace_schema_metadata(schema.metadata)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def write_table(path: Path, columns: Mapping[str, Sequence[Any]], *, class_names: Mapping[str, Sequence[str]]) -> None:
    """Write a Parquet file, or an Arrow stream as `datasets` does, with the names of class labels in its schema."""
    if pa is None:
        raise DataError(f"{path}: writing it needs pyarrow. Install the extra: pip install 'grobust[arrow]'.")
    features = {name: {"names": list(names), "_type": "ClassLabel"} for name, names in class_names.items()}
    table = pa.table(dict(columns))
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    if path.suffix.lower() == ".parquet":
        pq.write_table(table, path, row_group_size=7)
        return
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def as_strings(values: Any, path: Path, name: str) -> NDArray[Any]:
    """(n) strings of a column of text, integers or booleans (as 0 and 1).

    Raises
    ------
    DataError
        If a value is missing, or the column is of another type.
    """
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy()))
        raise DataError(f"{path}, row {row + 1}, column '{name}': no value; expected one in every row.")
    try:
        if pa.types.is_boolean(values.type):
            values = values.cast(pa.int8())
        found: NDArray[Any] = values.cast(pa.string()).to_numpy().astype(object)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path}, column '{name}' of type {values.type}: expected text or integers ({reason})."
        ) from None
    return found


def cell_bytes(path: Path, column: str, row: int) -> bytes | None:
    """Bytes in one cell of a column of bytes or of Hugging Face images; None if there are none."""
    # Kept batches are of the file as it is now.
    stamp = path.stat().st_mtime_ns
    ends = _batch_ends(path, stamp)
    number = int(np.searchsorted(ends, row, side="right"))
    value = _batch(path, stamp, column, number)[row - (int(ends[number - 1]) if number else 0)].as_py()
    found = value.get("bytes") if isinstance(value, dict) else value
    return found if isinstance(found, bytes) else None


@lru_cache(maxsize=64)
def _batch_ends(path: Path, stamp: int) -> NDArray[Any]:
    """Rows up to and with every row group of a Parquet file; an Arrow file is one batch."""
    if path.suffix.lower() != ".parquet":
        return np.array([_ipc_table(path, stamp).num_rows], dtype=np.int64)
    metadata = pq.ParquetFile(path).metadata
    return np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])


@lru_cache(maxsize=KEPT_BATCHES)
def _batch(path: Path, stamp: int, column: str, number: int) -> Any:
    """Values of one row group."""
    if path.suffix.lower() != ".parquet":
        return _ipc_table(path, stamp).column(column)
    try:
        return pq.ParquetFile(path).read_row_group(number, columns=[column]).column(column)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


@lru_cache(maxsize=64)
def _ipc_table(path: Path, stamp: int) -> Any:
    """A mapped table; nothing of it is in memory before it is touched."""
    return _ipc(path).read_all()


def _ipc(path: Path) -> Any:
    """Reader of an Arrow file, or of an Arrow stream as `datasets` writes it."""
    source = pa.memory_map(str(path))
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def is_string(kind: Any) -> bool:
    """Whether a type is text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_small(kind: Any) -> bool:
    types = pa.types
    return not (types.is_struct(kind) or types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind))


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} cannot be read: {str(error).strip().splitlines()[0]}. Get the file again.")
