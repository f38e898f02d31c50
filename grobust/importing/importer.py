"""`import_features`: somebody's cache, read in blocks, into a feature store that says where it came from."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from grobust.data.fetch.space import require_space
from grobust.errors import ConfigError, DataError
from grobust.features._schema import IMPORTED, Provenance
from grobust.features.parts import PartsWriter, StorePlan
from grobust.features.store import FeatureStore
from grobust.groups import Split
from grobust.importing.arrays import NUMBERS
from grobust.importing.files import files_of, open_files
from grobust.importing.layouts import CacheFormat, Piece, pieces_of
from grobust.importing.table import RowTable, read_table
from grobust.typing import PathLike

__all__ = ["ImportResult", "ImportSettings", "import_features"]

BLOCK_BYTES = 32 << 20
HASH_BYTES = 1 << 22
DTYPES = ("auto", "float32", "float16")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ImportSettings:
    """How a cache is read.

    Parameters
    ----------
    layout : who wrote it
    keys : names of arrays, see `grobust.importing.layouts.pieces_of`
    csv, columns : table with what the cache does not say, and its columns
    split : of rows whose split nobody says
    renamed : splits to be called otherwise, ``{VAL: TRAIN}`` for the protocol of DFR
    name : of the data set; None for that of the first file
    backbone : what the user says made the features; recorded as said
    dtype : of the stored features; ``auto`` keeps float16 and stores all else as float32
    flatten : features of more than two dimensions become one vector a row
    skip_bad : leave out rows that are not finite, and list them, instead of stopping
    """

    layout: CacheFormat = CacheFormat.AUTO
    keys: Mapping[str, str] = field(default_factory=dict)
    csv: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    split: Split | None = None
    renamed: Mapping[Split, Split] = field(default_factory=dict)
    name: str | None = None
    backbone: str | None = None
    dtype: str = "auto"
    flatten: bool = False
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}; got {self.dtype!r}.")
        for what in ("name", "backbone"):
            text = getattr(self, what)
            if text is not None and (not text.strip() or len(text) > 500 or not text.isprintable()):
                raise ConfigError(f"{what} must be one printable line; got {text!r}.")


@dataclass(frozen=True)
class ImportResult:
    """What an import did.

    Parameters
    ----------
    path : the finished store
    layout : that was found
    files : that were read
    n, dim, dtype : of the store
    skipped : (sample id, reason) of rows left out
    reused : a finished store of the same files and settings was there already
    notes : what was guessed, and what nobody says
    """

    path: Path
    layout: CacheFormat
    files: tuple[Path, ...]
    n: int
    dim: int
    dtype: str
    skipped: tuple[tuple[str, str], ...]
    reused: bool
    notes: tuple[str, ...]


def import_features(
    paths: Sequence[PathLike],
    out: PathLike,
    *,
    settings: ImportSettings | None = None,
    resume: bool = True,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> ImportResult:
    """Read a cache and write a feature store.

    The provenance says ``imported``, names the files by a digest of their content, and leaves unknown what is unknown.

    Parameters
    ----------
    paths : files of one cache, or folders of them
    out : store to write
    settings : see `ImportSettings`
    resume, overwrite : see `grobust.features.parts.PartsWriter`
    on_progress : called with rows done and rows in all

    Raises
    ------
    DataError
        If a file is damaged, holds pickled objects, is of no known layout, lacks labels or splits, or holds a feature
        that is not finite; file, array and row are named.
    StoreError
        And its subclasses, as of `PartsWriter`.
    """
    settings, target = settings or ImportSettings(), Path(out)
    files = files_of([Path(path) for path in paths])
    with ExitStack() as stack:
        layout, pieces = pieces_of(open_files(files, stack), settings.layout, settings.keys)
        dim, dtype = _checked(pieces, settings)
        table = read_table(
            pieces, csv=settings.csv, options=settings.columns, split=settings.split, renamed=settings.renamed
        )
        provenance = _provenance(files, layout, dtype, table, settings)
        notes = (*table.notes, *_notes(pieces, dtype))
        if target.is_file() and not overwrite:
            with FeatureStore(target, expect=provenance) as store:
                return ImportResult(target, layout, files, store.n, dim, dtype, store.skipped, True, notes)
        plan = StorePlan(provenance, table.groups, table.split, _distinct(table.sample_ids), dim)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Parts, and the store that is assembled from them.
        require_space(target.parent, 2 * len(table.groups) * dim * np.dtype(dtype).itemsize, f"{target}")
        with PartsWriter(target, plan, resume=resume, overwrite=overwrite) as writer:
            skipped = _write(writer, pieces, settings, on_progress)
            writer.finish()
            notes = (*notes, *writer.notes)
    n = len(table.groups) - len(skipped)
    return ImportResult(target, layout, files, n, dim, dtype, tuple(skipped), False, notes)


def _checked(pieces: Sequence[Piece], settings: ImportSettings) -> tuple[int, str]:
    """Dimension and stored type of all features."""
    widths = {}
    for piece in pieces:
        rows = piece.features
        if len(rows.shape) < 2 or rows.dtype.kind not in NUMBERS or 0 in rows.shape[1:]:
            raise DataError(f"{rows.where} is {rows.dtype} {rows.shape}; expected features, numbers of shape (n, d).")
        if len(rows.shape) > 2 and not settings.flatten:
            raise DataError(
                f"{rows.where} has shape {rows.shape}; features are (n, d). Pool them before, or make one vector of "
                "each row: --flatten."
            )
        widths[rows.where] = math.prod(rows.shape[1:])
    if len(set(widths.values())) > 1:
        listed = "\n".join(f"  {where}: {width}" for where, width in widths.items())
        raise DataError(f"The parts of the cache have features of different dimension:\n{listed}")
    if sum(len(piece.features) for piece in pieces) == 0:
        raise DataError(f"{pieces[0].features.where} has no rows.")
    short = all(piece.features.dtype == np.float16 for piece in pieces)
    dtype = ("float16" if short else "float32") if settings.dtype == "auto" else settings.dtype
    return next(iter(widths.values())), dtype


def _provenance(
    files: Sequence[Path], layout: CacheFormat, dtype: str, table: RowTable, settings: ImportSettings
) -> Provenance:
    content = xxhash.xxh3_128()
    for path in files:
        content.update(f"{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(HASH_BYTES):
                content.update(block)
    files_digest = content.hexdigest()
    rows = xxhash.xxh3_128(files_digest.encode())
    rows.update(table.groups.ids.tobytes())
    rows.update(table.split.tobytes())
    names = (*table.groups.class_names, "", *table.groups.attribute_names, "", *table.sample_ids)
    rows.update("\0".join(names).encode())
    return Provenance.imported(
        settings.backbone or str(layout),
        dtype=dtype,
        dataset=settings.name or f"{IMPORTED}:{files[0].stem}",
        dataset_digest=rows.hexdigest(),
        files_digest=files_digest,
        options={"layout": str(layout), "files": ", ".join(path.name for path in files)},
    )


def _notes(pieces: Sequence[Piece], dtype: str) -> tuple[str, ...]:
    unknown = "backbone weights, preprocessing, pooling and precision are unknown"
    kinds = {str(piece.features.dtype) for piece in pieces} - {dtype}
    return (unknown, *(f"{kind} features are stored as {dtype}" for kind in sorted(kinds)))


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        seen: set[str] = set()
        for row, name in enumerate(names):
            if name in seen:
                raise DataError(
                    f"Row {row} of the cache has the name {name!r}, as a row before; expected distinct names."
                )
            seen.add(name)
    return names


def _write(
    writer: PartsWriter, pieces: Sequence[Piece], settings: ImportSettings, on_progress: Progress | None
) -> list[tuple[str, str]]:
    """Block by block, those that an earlier run wrote left out."""
    skipped: list[tuple[str, str]] = []
    step = max(1, BLOCK_BYTES // (writer.plan.dim * 4))
    total, first = len(writer.plan.groups), 0
    for piece in pieces:
        n = len(piece.features)
        for start in range(0, n, step):
            stop = min(start + step, n)
            numbers = np.arange(first + start, first + stop)
            pending = ~writer.done[numbers]
            if pending.any():
                values = piece.features.read(start, stop).reshape(stop - start, writer.plan.dim)
                bad = _bad(values, np.dtype(writer.plan.provenance.dtype)) & pending
                skipped += [
                    _skip(writer, piece, start + row, first + start + row, settings)
                    for row in np.flatnonzero(bad).tolist()
                ]
                good = pending & ~bad
                if good.any():
                    writer.write(numbers[good], values[good])
            if on_progress is not None:
                on_progress(first + stop, total)
        first += n
    return skipped


def _bad(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Rows with a value that is not finite, or is not once it is stored."""
    with np.errstate(over="ignore", invalid="ignore"):
        bad: NDArray[Any] = ~np.isfinite(values.astype(dtype, copy=False)).all(axis=1)
    return bad


def _skip(writer: PartsWriter, piece: Piece, row: int, number: int, settings: ImportSettings) -> tuple[str, str]:
    name, dtype = writer.plan.sample_ids[number], writer.plan.provenance.dtype
    reason = f"a feature is not finite, or beyond {dtype}"
    if not settings.skip_bad:
        raise DataError(
            f"{piece.features.where}, row {row} ({name}): {reason} (rows count from 0).\n"
            "Mend the cache, store float32, or leave such rows out: --on-error skip."
        )
    writer.skip(number, reason)
    return name, reason
