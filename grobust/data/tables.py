"""The data sets that grobust builds: a checked table of rows with texts, image files or pixel arrays behind it."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image

from grobust.data.dataset import GroupedDataset, ItemKind
from grobust.data.places import CloudPath, Place
from grobust.errors import DataError
from grobust.groups import Groups, Split

__all__ = [
    "ImageFiles",
    "ImagePixels",
    "RowTable",
    "TextPairs",
    "Texts",
    "apportion",
    "decoded_image",
    "smallest_side",
    "stratified_subset",
    "take_rows",
]

Color = tuple[int, int, int]

_SIDE: ContextVar[int | None] = ContextVar("smallest_side", default=None)


@dataclass(frozen=True, eq=False)
class RowTable:
    """What every data set here knows of its rows without decoding one."""

    name: str
    groups: Groups
    split: NDArray[Any]
    sample_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.groups)
        if self.split.shape != (n,) or len(self.sample_ids) != n:
            raise DataError(f"{self.name}: {n} labels, {self.split.size} splits and {len(self.sample_ids)} ids.")
        if len(set(self.sample_ids)) != n:
            seen: set[str] = set()
            first = next(i for i in self.sample_ids if i in seen or seen.add(i))  # type: ignore[func-returns-value]
            raise DataError(f"{self.name}: the id '{first}' stands in several rows; every row needs its own.")

    def __len__(self) -> int:
        return len(self.groups)

    def manifest(self) -> "xxhash.xxh3_128":
        """Hash state of what every data set has: ids, labels, attributes, splits, names."""
        state = xxhash.xxh3_128(np.ascontiguousarray(self.groups.labels).tobytes())
        state.update(np.ascontiguousarray(self.groups.attributes).tobytes())
        state.update(np.ascontiguousarray(self.split.astype(np.int8)).tobytes())
        state.update("\0".join((*self.groups.class_names, "", *self.groups.attribute_names, "")).encode())
        state.update("\0".join(self.sample_ids).encode())
        return state


@dataclass(frozen=True, eq=False)
class Texts(RowTable):
    """Texts in memory."""

    texts: tuple[str, ...]
    kind: ItemKind = "text"

    @cached_property
    def digest(self) -> str:
        """Hash of the manifest, texts included."""
        state = self.manifest()
        state.update("\0".join(self.texts).encode())
        return str(state.hexdigest())

    def lengths(self) -> NDArray[Any]:
        """(n) characters per text."""
        return np.fromiter((len(text) for text in self.texts), dtype=np.int64, count=len(self))

    def __getitem__(self, index: int) -> str:
        return self.texts[index]


@dataclass(frozen=True, eq=False)
class TextPairs(RowTable):
    """Pairs of texts in memory; a backbone sees both, in this order, as its tokenizer joins them."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    kind: ItemKind = "text"

    @cached_property
    def digest(self) -> str:
        """Hash of the manifest, texts included."""
        state = self.manifest()
        for texts in (self.first, self.second):
            state.update("\0".join((*texts, "")).encode())
        return str(state.hexdigest())

    def lengths(self) -> NDArray[Any]:
        """(n) characters of both texts."""
        pairs = zip(self.first, self.second, strict=True)
        return np.fromiter((len(a) + len(b) for a, b in pairs), dtype=np.int64, count=len(self))

    def __getitem__(self, index: int) -> tuple[str, str]:
        return self.first[index], self.second[index]


@dataclass(frozen=True, eq=False)
class ImageFiles(RowTable):
    """Image files below a folder; `sample_ids` are their paths relative to it."""

    root: Place
    kind: ItemKind = "image"

    @cached_property
    def digest(self) -> str:
        """Hash of the manifest; files count by name, not by content."""
        return str(self.manifest().hexdigest())

    def lengths(self) -> None:
        """Images are resized to one size: all cost the same."""

    def __getitem__(self, index: int) -> Image.Image:
        if isinstance(self.root, CloudPath):
            return self._from_cloud(self.root / self.sample_ids[index])
        path = self.root / self.sample_ids[index]
        # Checked when opened, links resolved: a name in a table must not lead out of the folder.
        if not path.resolve().is_relative_to(self.root.resolve()):
            raise DataError(f"{self.name}: '{self.sample_ids[index]}' leads out of {self.root}; refused.")
        return decoded_image(path, f"{self.name}: image {path}")

    def _from_cloud(self, path: CloudPath) -> Image.Image:
        what = f"{self.name}: image {path}"
        try:
            # Whole, since a decoder's many small reads would each be a request.
            content = io.BytesIO(path.read_bytes())
        except FileNotFoundError:
            raise DataError(f"{what} does not exist.") from None
        except OSError as error:
            raise DataError(f"{what} cannot be read: {error}.") from None
        return decoded_image(content, what)


def decoded_image(source: Path | BinaryIO, what: str) -> Image.Image:
    """An image file in RGB; a `DataError` that begins with `what` if it is missing or no whole image."""
    try:
        with Image.open(source) as image:
            side = _SIDE.get()
            if side is not None:
                # Does nothing to other formats.
                image.draft("RGB", (side, side))
            return image.convert("RGB")
    except FileNotFoundError:
        raise DataError(f"{what} does not exist.") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{what} cannot be read: {str(error).rstrip('.')}.") from None


@contextmanager
def smallest_side(pixels: int | None) -> Iterator[None]:
    """Decode JPEG files at a half, a quarter or an eighth of their size, if no side gets smaller than this; None does
    nothing.

    The decoder leaves out the frequencies that the smaller image would not show, and the work of them. What comes out
    differs slightly from the whole image made smaller.
    """
    token = _SIDE.set(pixels)
    try:
        yield
    finally:
        _SIDE.reset(token)


@dataclass(frozen=True, eq=False)
class ImagePixels(RowTable):
    """Grey images in memory, tinted by their attribute."""

    pixels: NDArray[Any]
    tints: tuple[Color, ...]
    kind: ItemKind = "image"

    @cached_property
    def digest(self) -> str:
        """Hash of the manifest, pixels and tints included."""
        state = self.manifest()
        state.update(np.ascontiguousarray(self.pixels).tobytes())
        state.update(str(self.tints).encode())
        return str(state.hexdigest())

    def lengths(self) -> None:
        """Images of one size: all cost the same."""

    def __getitem__(self, index: int) -> Image.Image:
        grey = self.pixels[index].astype(np.float32) / 255
        tint = np.array(self.tints[int(self.groups.attributes[index])], dtype=np.float32)
        return Image.fromarray(np.rint(grey[:, :, None] * tint).astype(np.uint8))


@dataclass(frozen=True, eq=False)
class _Rows:
    """Some rows of another data set, in a given order."""

    parent: GroupedDataset
    rows: NDArray[Any]
    name: str
    split: NDArray[Any]

    @property
    def kind(self) -> ItemKind:
        return self.parent.kind

    @cached_property
    def groups(self) -> Groups:
        return self.parent.groups.take(self.rows)

    @cached_property
    def sample_ids(self) -> tuple[str, ...]:
        return tuple(self.parent.sample_ids[row] for row in self.rows)

    @cached_property
    def digest(self) -> str:
        state = xxhash.xxh3_128(self.parent.digest.encode())
        state.update(np.ascontiguousarray(self.rows, dtype=np.int64).tobytes())
        if not np.array_equal(self.split, self.parent.split[self.rows]):
            state.update(np.ascontiguousarray(self.split, dtype=np.int8).tobytes())
        return str(state.hexdigest())

    def lengths(self) -> NDArray[Any] | None:
        lengths = self.parent.lengths()
        return None if lengths is None else np.asarray(lengths[self.rows])

    def __len__(self) -> int:
        return int(self.rows.size)

    def __getitem__(self, index: int) -> Any:
        return self.parent[int(self.rows[index])]


def take_rows(
    dataset: GroupedDataset,
    rows: Sequence[int] | NDArray[Any],
    *,
    name: str | None = None,
    split: NDArray[Any] | None = None,
) -> GroupedDataset:
    """A data set of the given rows, with the same classes and attributes, and their own splits unless others are given.

    Its digest depends on the rows, and on the splits where they are others.
    """
    numbers = np.asarray(rows, dtype=np.int64)
    chosen = np.asarray(dataset.split[numbers]) if split is None else split
    return _Rows(dataset, numbers, name or f"{dataset.name}[{numbers.size} rows]", chosen)


def stratified_subset(dataset: GroupedDataset, n: int, *, seed: int) -> GroupedDataset:
    """About n rows with the split and group shares of the whole, in the original order.

    Cells (split and group) get their share by largest remainder, and at least one row each where they have any.

    Raises
    ------
    DataError
        If n is not between the number of non-empty cells and the number of rows.
    """
    cells = dataset.split.astype(np.int64) * dataset.groups.n_groups + dataset.groups.ids
    counts = np.bincount(cells, minlength=len(Split) * dataset.groups.n_groups)
    n_cells = int((counts > 0).sum())
    if not n_cells <= n <= len(dataset):
        raise DataError(
            f"{dataset.name}: a subset of {n} rows was asked for; possible are {n_cells} to {len(dataset)}."
        )
    take = apportion(counts, n)
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(cells == cell))[: take[cell]] for cell in np.flatnonzero(counts)]
    return take_rows(dataset, np.sort(np.concatenate(rows)), name=f"{dataset.name}[{n} rows, seed {seed}]")


def apportion(weights: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Whole numbers in proportion to `weights` that sum to n, by largest remainder; positive weights get at least 1."""
    weights = np.asarray(weights, dtype=np.float64)
    positive = weights > 0
    exact = weights / weights.sum() * n
    whole: NDArray[np.int64] = np.maximum(np.floor(exact), positive).astype(np.int64)
    while whole.sum() != n:
        short = whole.sum() < n
        error = np.where(positive & (short | (whole > 1)), exact - whole, -np.inf if short else np.inf)
        whole[np.argmax(error) if short else np.argmin(error)] += 1 if short else -1
    return whole
