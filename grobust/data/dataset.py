"""What a data set is to grobust: items, their groups and splits, known without decoding anything."""

from typing import Any, Literal, Protocol, runtime_checkable

from numpy.typing import NDArray

from grobust.groups import Groups, Split

__all__ = ["GroupedDataset", "ItemKind", "Split"]

ItemKind = Literal["image", "text"]


@runtime_checkable
class GroupedDataset(Protocol):
    """Items with labels, spurious attributes and splits.

    `groups`, `split`, `sample_ids`, `digest` and `lengths` must not decode an item. `dataset[i]` decodes one: a
    `PIL.Image.Image` in RGB for ``kind == "image"``, a `str` or a pair of them for ``kind == "text"``; a missing or
    corrupt file is a `grobust.errors.DataError` naming it. Objects must pickle, so that loader processes can hold them.
    """

    @property
    def name(self) -> str:
        """Short name, with what distinguishes variants: ``digits:waterbirds``."""
        ...

    @property
    def kind(self) -> ItemKind:
        """Whether items are images or texts."""
        ...

    @property
    def groups(self) -> Groups:
        """Labels and attributes of all n rows."""
        ...

    @property
    def split(self) -> NDArray[Any]:
        """(n) int8 `Split` values."""
        ...

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """n distinct names, stable across machines (a relative path, a row number of the source file)."""
        ...

    @property
    def digest(self) -> str:
        """Hash of ids, labels, attributes, splits, names and row order (the manifest); texts are part of it."""
        ...

    def lengths(self) -> NDArray[Any] | None:
        """(n) int64 relative cost of items (characters of a text), to batch alike items; None if all are equal."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...
