"""Webdataset shards: tar files read in place, never unpacked.

A sample is the run of members that share a key (the path up to the first dot of its last part): an image or a ``txt``,
and ``json``, ``cls`` or other short text members for label, attribute and split.
"""

import io
import json
import tarfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from grobust.data.columns import Columns
from grobust.data.csv_table import CsvTable, leads_out, split_of_path
from grobust.data.dataset import GroupedDataset, ItemKind
from grobust.data.image_folder import IMAGE_SUFFIXES
from grobust.data.tables import RowTable, Texts, decoded_image, take_rows
from grobust.errors import DataError
from grobust.groups import Groups

__all__ = ["TarImages", "load_webdataset"]

TEXT = "txt"
# A label or a comment; what is longer is not read into memory.
LARGEST_TEXT = 1 << 20
BLOCK = 512


@dataclass(frozen=True, eq=False)
class TarImages(RowTable):
    """Images inside uncompressed tar files: (n) number of the file, and where the image lies in it."""

    shards: tuple[Path, ...]
    shard: NDArray[Any]
    offset: NDArray[Any]
    size: NDArray[Any]
    kind: ItemKind = "image"

    @cached_property
    def digest(self) -> str:
        """Hash of the manifest and of the sizes; images count by name, not by content."""
        state = self.manifest()
        state.update(np.ascontiguousarray(self.size, dtype=np.int64).tobytes())
        return str(state.hexdigest())

    def lengths(self) -> None:
        """Images are resized to one size: all cost the same."""

    def __getitem__(self, index: int) -> Image.Image:
        path, size = self.shards[int(self.shard[index])], int(self.size[index])
        what = f"{self.name}: image {self.sample_ids[index]} in {path}"
        try:
            with path.open("rb") as file:
                file.seek(int(self.offset[index]))
                content = file.read(size)
        except OSError as error:
            raise DataError(f"{what} cannot be read: {error}.") from None
        return decoded_image(io.BytesIO(content), what)


@dataclass(eq=False)
class _Sample:
    """What the members of one key hold; `place` names it in messages."""

    key: str
    place: str
    shard: int
    fields: dict[str, str] = field(default_factory=dict)
    image: tuple[str, int, int] | None = None
    endings: set[str] = field(default_factory=set)


@dataclass(frozen=True, eq=False)
class _Samples(CsvTable):
    """Fields of samples as columns."""

    places: tuple[str, ...] = ()

    def place(self, row: int) -> str:
        return self.places[row]

    def first(self) -> str:
        return "named by shard and key."


def load_webdataset(folder: Path, *, columns: Columns | None = None, needs_split: bool = True) -> GroupedDataset:
    """Index the shards ``*.tar`` of a folder (or one file); no image is decoded.

    Label, attribute and split are keys of a sample's ``json``, or endings of its text members (``label=cls``). Without
    the split among them it is the one that the shard's path names (``train-000000.tar``, ``val/0.tar``).

    Parameters
    ----------
    columns : names of label, attribute, split and text
    needs_split : whether a missing split is an error; else all rows are training rows

    Raises
    ------
    DataError
        If a shard is compressed, cut short or has members that are no plain files, or a sample lacks something.
    """
    columns = columns or Columns()
    shards = (folder,) if folder.is_file() else tuple(sorted(folder.rglob("*.tar")))
    if not shards:
        compressed = sorted([*folder.rglob("*.tar.*"), *folder.rglob("*.tgz")]) if folder.is_dir() else []
        why = f" {compressed[0]} is compressed: its images cannot be reached in place." if compressed else ""
        raise DataError(f"{folder} has no shards *.tar.{why} Expected uncompressed tar files: --data-dir DIR.")
    samples = [sample for number, shard in enumerate(shards) for sample in _samples(shard, number)]
    images = samples[0].image is not None
    for sample in samples:
        if images and sample.image is None:
            raise DataError(f"{sample.place}: has no image; members of others have. It has: {_has(sample)}.")
    text = columns.text if columns.text in samples[0].fields else TEXT
    has_split = columns.split in samples[0].fields
    optional = [*([] if images else [text]), *([columns.split] if has_split else [])]
    table = _columns(samples, [columns.label, columns.attribute, *optional], folder)
    labels, class_names = table.codes(columns.label, columns.class_names)
    attributes, attribute_names = table.codes(columns.attribute, columns.attribute_names)
    groups = Groups.from_arrays(labels, attributes, class_names=class_names, attribute_names=attribute_names)
    kept = np.ones(len(samples), dtype=bool)
    if has_split:
        split, kept = table.splits(columns.split, columns.split_names)
    else:
        split = _splits_of_shards(shards, folder, needs_split)[[sample.shard for sample in samples]]
    name = f"webdataset:{folder.resolve().name}"
    whole: GroupedDataset
    if images:
        whole = _images(name, groups, split, samples, shards)
    else:
        ids = _ids([sample.key for sample in samples], samples, shards)
        whole = Texts(name=name, groups=groups, split=split, sample_ids=ids, texts=table.strings(text))
    return whole if kept.all() else take_rows(whole, np.flatnonzero(kept), name=name)


def _images(
    name: str, groups: Groups, split: NDArray[Any], samples: list[_Sample], shards: tuple[Path, ...]
) -> TarImages:
    found = [sample.image for sample in samples if sample.image is not None]
    return TarImages(
        name=name,
        groups=groups,
        split=split,
        sample_ids=_ids([member for member, _, _ in found], samples, shards),
        shards=shards,
        shard=np.array([sample.shard for sample in samples], dtype=np.int64),
        offset=np.array([offset for _, offset, _ in found], dtype=np.int64),
        size=np.array([size for _, _, size in found], dtype=np.int64),
    )


def _samples(path: Path, number: int) -> list[_Sample]:
    samples: list[_Sample] = []
    try:
        # A mode that names no compression: an offset is then a place in the file.
        with tarfile.open(path, mode="r:") as archive:
            for member in archive:
                key, ending = _checked_name(member, path)
                if not ending or member.isdir():
                    continue
                if not samples or samples[-1].key != key:
                    samples.append(_Sample(key, f"{path}, sample '{key}'", number))
                _add(samples[-1], member, ending, archive)
            end = max((m.offset_data + -(-m.size // BLOCK) * BLOCK for m in archive.getmembers()), default=0)
    except (tarfile.TarError, EOFError, UnicodeError) as error:
        raise DataError(f"{path} is no readable, uncompressed tar file: {error}.") from None
    with path.open("rb") as file:
        file.seek(end)
        # A header that was cut ends the iteration as the mark does that ends a whole archive.
        if file.read(BLOCK) != bytes(BLOCK):
            raise DataError(f"{path} was cut short after byte {end}: there is no mark of its end. Get it again.")
    if not samples:
        raise DataError(f"{path} has no samples.")
    return samples


def _checked_name(member: tarfile.TarInfo, path: Path) -> tuple[str, str]:
    """Key and ending of a member that is a plain file or a folder."""
    if member.isdir():
        return "", ""
    if not member.isreg() or member.issparse():
        raise DataError(f"{path}: the member {member.name!r} is a link or a device; expected plain files. Refused.")
    if leads_out(member.name.removeprefix("./")):
        raise DataError(f"{path}: the member {member.name!r} leads out of the archive. Refused.")
    folder, slash, last = member.name.removeprefix("./").rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}{slash}{stem}", ending.lower() if stem else ""


def _add(sample: _Sample, member: tarfile.TarInfo, ending: str, archive: tarfile.TarFile) -> None:
    if ending in sample.endings:
        raise DataError(f"{sample.place}: two members end in .{ending}; every sample needs a key of its own.")
    sample.endings.add(ending)
    if f".{ending.rpartition('.')[2]}" in IMAGE_SUFFIXES:
        sample.image = (member.name.removeprefix("./"), member.offset_data, member.size)
        return
    if member.size > LARGEST_TEXT:
        return
    file = archive.extractfile(member)
    raw = b"" if file is None else file.read()
    try:
        text = raw.decode("utf-8-sig")
        if ending != "json":
            sample.fields[ending] = text if ending == TEXT else text.strip()
            return
        content = json.loads(text)
    except UnicodeDecodeError as error:
        if ending in (TEXT, "json"):
            raise DataError(f"{sample.place}, member {member.name!r}: not UTF-8 text ({error}).") from None
        # Endings of other modalities (npy, mp3) are nobody's column here.
        return
    except (ValueError, RecursionError) as error:
        raise DataError(f"{sample.place}, member {member.name!r} is no JSON: {error}.") from None
    if not isinstance(content, dict):
        raise DataError(f"{sample.place}, member {member.name!r}: expected a JSON object.")
    for key, value in content.items():
        if isinstance(value, str | int | float | bool):
            sample.fields[key] = str(int(value)) if isinstance(value, bool) else str(value)


def _columns(samples: list[_Sample], needed: list[str], folder: Path) -> _Samples:
    for sample in samples:
        for name in needed:
            if name not in sample.fields:
                raise DataError(f"{sample.place}: there is no '{name}'. It has: {_has(sample)}. See --column.")
    columns: dict[str, NDArray[Any]] = {}
    for name in needed:
        columns[name] = np.array([sample.fields[name] for sample in samples], dtype=object)
    return _Samples(folder, columns, places=tuple(sample.place for sample in samples))


def _has(sample: _Sample) -> str:
    image = [f"an image ({sample.image[0]})"] if sample.image is not None else []
    return ", ".join([*sorted(sample.fields), *image]) or "nothing"


def _splits_of_shards(shards: tuple[Path, ...], folder: Path, needs_split: bool) -> NDArray[np.int8]:
    splits = []
    for shard in shards:
        split = split_of_path(shard.name if shard == folder else shard.relative_to(folder).as_posix())
        if split is None and needs_split:
            raise DataError(
                f"{shard}: neither its samples nor its name say a split. Expected a field 'split' (--column split=…), "
                "or train, val or test in the path; or give --split."
            )
        splits.append(0 if split is None else int(split))
    return np.array(splits, dtype=np.int8)


def _ids(names: list[str], samples: list[_Sample], shards: tuple[Path, ...]) -> tuple[str, ...]:
    """Names of members, with their shard's where several shards use one name."""
    if len(set(names)) == len(names):
        return tuple(names)
    return tuple(f"{shards[s.shard].name}/{name}" for name, s in zip(names, samples, strict=True))
