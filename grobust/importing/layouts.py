"""Which array of a cache is what: the layouts that five projects write, and arrays named by the user.

- ``dfr`` (deep_feature_reweighting, ``imagenet_extract_embeddings.py``): npz ``embeddings``, ``labels``; the split
  stands in the file's name.
- ``spurious_feature_learning`` (``--save_embeddings``): npz ``embeddings_S``, ``y_S``, ``p_S`` (attributes), ``g_S``.
- ``clip_benchmark``: ``features_S.pt``, ``targets_S.pt``.
- ``afr``: a dict with ``e``, ``y``, ``g``, for other splits ``val_e``, …; or its pickle saved anew as a tuple of train,
  test and validation, each of embeddings, predictions, groups, labels.
- ``thingsvision``: ``features`` in npy, pt or hdf5, whole or cut into pieces, and ``file_names.txt``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum

from grobust.data.csv_table import split_of_path
from grobust.errors import DataError
from grobust.groups import Split
from grobust.importing.arrays import Rows
from grobust.importing.files import ArrayFile

__all__ = ["KEYS", "CacheFormat", "Piece", "pieces_of"]

# What a user may name: --key features=NAME.
KEYS = ("features", "labels", "attributes", "groups", "split")
S = r"(train|val|test)"
FILE_NAMES = "file_names.txt"
LISTED = 12


class CacheFormat(StrEnum):
    """Who wrote a cache; ``auto`` looks at the names, ``arrays`` are those that the user names."""

    AUTO = "auto"
    DFR = "dfr"
    SPURIOUS_FEATURE_LEARNING = "spurious_feature_learning"
    CLIP_BENCHMARK = "clip_benchmark"
    AFR = "afr"
    THINGSVISION = "thingsvision"
    ARRAYS = "arrays"


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows that lie together: features (n, …) and what the cache says of them; None for what it does not say.

    Parameters
    ----------
    features : (n, …)
    labels, attributes, groups, splits : (n) codes, not yet read
    split : of all rows
    names : n names of the rows
    """

    features: Rows
    labels: Rows | None = None
    attributes: Rows | None = None
    groups: Rows | None = None
    splits: Rows | None = None
    split: Split | None = None
    names: tuple[str, ...] | None = None


def pieces_of(
    files: Sequence[ArrayFile], layout: CacheFormat, keys: Mapping[str, str]
) -> tuple[CacheFormat, tuple[Piece, ...]]:
    """Find the layout where it is ``auto``, and its pieces.

    Parameters
    ----------
    keys : for ``arrays``, which array holds what, by the names in `KEYS`

    Raises
    ------
    DataError
        If the arrays are not of that layout, or of none; the message lists them.
    """
    if keys and layout not in (CacheFormat.AUTO, CacheFormat.ARRAYS):
        raise DataError(f"--key names arrays of --format arrays; {layout} has names of its own.")
    if keys or layout is CacheFormat.ARRAYS:
        return CacheFormat.ARRAYS, _named(files, keys)
    if layout is not CacheFormat.AUTO:
        found = READERS[layout](files)
        if not found:
            raise DataError(f"This is no cache of {layout}: {EXPECTED[layout]}.\n{_listing(files)}")
        return layout, found
    for candidate, reader in READERS.items():
        if found := reader(files):
            return candidate, found
    known = "\n".join(f"  {name}: {what}" for name, what in EXPECTED.items())
    raise DataError(
        f"The layout of the cache is not known.\n{_listing(files)}\nKnown layouts expect:\n{known}\n"
        "Name the arrays: --key features=NAME --key labels=NAME."
    )


def _named(files: Sequence[ArrayFile], keys: Mapping[str, str]) -> tuple[Piece, ...]:
    unknown = sorted(set(keys) - set(KEYS))
    if unknown:
        raise DataError(f"Unknown key '{unknown[0]}'. Expected: {', '.join(KEYS)}.")
    if "features" not in keys:
        raise DataError(f"Say which array holds the features: --key features=NAME.\n{_listing(files)}")
    found = []
    for file in files:
        got = {}
        for key, name in keys.items():
            if name not in file.arrays:
                close = get_close_matches(name, file.arrays, n=1)
                hint = f" Did you mean '{close[0]}'?" if close else ""
                raise DataError(f"{file.path} has no array '{name}'.{hint}\n{_listing([file])}")
            got[key] = file.arrays[name]
        found.append(
            Piece(got["features"], got.get("labels"), got.get("attributes"), got.get("groups"), got.get("split"),
                  split_of_path(file.path.stem))
        )  # fmt: skip
    return tuple(found)


def _spurious_feature_learning(files: Sequence[ArrayFile]) -> tuple[Piece, ...]:
    return tuple(
        Piece(rows, file.arrays.get(f"y_{split}"), file.arrays.get(f"p_{split}"), file.arrays.get(f"g_{split}"),
              split=_split(split))
        for file in files
        for split in ("train", "val", "test")
        if (rows := file.arrays.get(f"embeddings_{split}")) is not None
    )  # fmt: skip


def _dfr(files: Sequence[ArrayFile]) -> tuple[Piece, ...]:
    return tuple(
        Piece(file.arrays["embeddings"], file.arrays["labels"], split=split_of_path(file.path.stem))
        for file in files
        if {"embeddings", "labels"} <= file.arrays.keys()
    )


def _clip_benchmark(files: Sequence[ArrayFile]) -> tuple[Piece, ...]:
    by_name = {name: rows for file in files for name, rows in file.arrays.items() if name == file.path.stem}
    found = []
    for file in files:
        name = file.path.stem
        unfinished = re.fullmatch(rf"(?:features|targets)_{S}_cache_\d+", name)
        if unfinished:
            raise DataError(f"{file.path} is a shard of a cache that was not finished; let clip_benchmark run again.")
        match = re.fullmatch(rf"features_{S}", name)
        if match and name in by_name and any(other.startswith("targets_") for other in by_name):
            targets = by_name.get(f"targets_{match[1]}")
            if targets is None:
                raise DataError(f"There is no targets_{match[1]} beside {file.path}; give the folder of both.")
            found.append(Piece(by_name[name], targets, split=_split(match[1])))
    return tuple(found)


def _afr(files: Sequence[ArrayFile]) -> tuple[Piece, ...]:
    found = []
    for file in files:
        arrays = file.arrays
        for prefix, split in (("", Split.TRAIN), ("val_", Split.VAL), ("test_", Split.TEST)):
            if {f"{prefix}e", f"{prefix}y"} <= arrays.keys():
                groups = arrays.get(f"{prefix}g", arrays.get(f"{prefix}m"))
                # Metadata of several columns is no group; a CSV has to say.
                if groups is not None and len(groups.shape) != 1:
                    groups = None
                found.append(Piece(arrays[f"{prefix}e"], arrays[f"{prefix}y"], groups=groups, split=split))
        if arrays.keys() == {f"{i}.{j}" for i in range(3) for j in range(4)}:
            for i, split in enumerate((Split.TRAIN, Split.TEST, Split.VAL)):
                found.append(Piece(arrays[f"{i}.0"], arrays[f"{i}.3"], groups=arrays[f"{i}.2"], split=split))
    return tuple(found)


def _thingsvision(files: Sequence[ArrayFile]) -> tuple[Piece, ...]:
    """Whole, or cut: ``features_01`` …, ``features_0-1000`` …, in files or datasets."""
    found: dict[tuple[Split | None, int], Piece] = {}
    for file in files:
        for name, rows in file.arrays.items():
            match = re.fullmatch(rf"features(?:_{S})?(?:_(\d+)(?:-\d+)?)?", name)
            if match is None:
                continue
            split, place = _split(match[1]), int(match[2] or 0)
            if (split, place) in found:
                raise DataError(
                    f"{rows.where}: the same part of the features stands in {found[split, place].features.where}."
                )
            found[split, place] = Piece(rows, split=split)
    pieces = [found[key] for key in sorted(found, key=lambda key: (-1 if key[0] is None else int(key[0]), key[1]))]
    names = _file_names(files)
    if names is None or not pieces:
        return tuple(pieces)
    total = sum(len(piece.features) for piece in pieces)
    if total != len(names):
        raise DataError(f"{FILE_NAMES} has {len(names)} names for {total} rows of features; expected equally many.")
    starts = [sum(len(piece.features) for piece in pieces[:i]) for i in range(len(pieces))]
    return tuple(
        Piece(piece.features, split=piece.split, names=names[start : start + len(piece.features)])
        for piece, start in zip(pieces, starts, strict=True)
    )


def _file_names(files: Sequence[ArrayFile]) -> tuple[str, ...] | None:
    lists = sorted({file.path.parent / FILE_NAMES for file in files})
    if len(lists) != 1 or not lists[0].is_file():
        return None
    try:
        return tuple(line for line in lists[0].read_text(encoding="utf-8").splitlines() if line.strip())
    except UnicodeDecodeError as error:
        raise DataError(f"{lists[0]} is not UTF-8 text: {error}.") from None


READERS = {
    CacheFormat.SPURIOUS_FEATURE_LEARNING: _spurious_feature_learning,
    CacheFormat.DFR: _dfr,
    CacheFormat.CLIP_BENCHMARK: _clip_benchmark,
    CacheFormat.AFR: _afr,
    CacheFormat.THINGSVISION: _thingsvision,
}
EXPECTED = {
    CacheFormat.SPURIOUS_FEATURE_LEARNING: "arrays embeddings_S, y_S, p_S and g_S for S of train, val, test",
    CacheFormat.DFR: "arrays embeddings and labels, and the split in the file's name",
    CacheFormat.CLIP_BENCHMARK: "files features_S.pt and targets_S.pt for S of train, val, test",
    CacheFormat.AFR: "a dict with e, y, g, and val_e, …, test_e, …, or a tuple of three splits of four tensors",
    CacheFormat.THINGSVISION: "an array features, or features_01, features_02, …",
}


def _split(name: str | None) -> Split | None:
    return None if name is None else Split[name.upper()]


def _listing(files: Sequence[ArrayFile]) -> str:
    rows = [rows for file in files for rows in file.arrays.values()]
    more = [f"  … and {len(rows) - LISTED} more"] if len(rows) > LISTED else []
    return "\n".join(["Found:", *(f"  {r.where}: {r.dtype} {r.shape}" for r in rows[:LISTED]), *more])
