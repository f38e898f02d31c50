"""`Backbone`: a frozen network that turns items into feature vectors, and what names it exactly."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from grobust.data.dataset import ItemKind

__all__ = ["Backbone", "Forward", "ImageInput", "MapLayout", "Pool"]


class Pool(StrEnum):
    """Which vector of the network is the feature (the classifier head is never part of it)."""

    MODEL = "model"
    GAP = "gap"
    CLS = "cls"
    MEAN = "mean"
    FLATTEN = "flatten"


@dataclass(frozen=True)
class ImageInput:
    """What a network for images takes, after any crop: size, and the shift and scale of values in 0 … 1.

    Parameters
    ----------
    size : height and width in pixels
    mean, sd : of the red, green and blue channel
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    sd: tuple[float, float, float]

    @classmethod
    def of(cls, size: Sequence[int], mean: Sequence[float], sd: Sequence[float]) -> "ImageInput":
        """From what libraries keep: lists, tuples or tensors."""
        height, width = (int(value) for value in size)
        return cls((height, width), _three(mean), _three(sd))


class Forward(Protocol):
    """A pass of a network in two steps, of which several poolings share the first."""

    def __call__(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """Both steps: features (b, d)."""
        ...

    def body(self, network: nn.Module, batch: dict[str, Tensor]) -> Any:
        """The network's own output."""
        ...

    def pooled(self, network: nn.Module, batch: dict[str, Tensor], body: Any) -> Tensor:
        """Features (b, d) of it."""
        ...


@dataclass(frozen=True)
class MapLayout:
    """How a network lays out what its layers give.

    Parameters
    ----------
    prefix : tokens before those of patches
    channels_last : whether maps are (b, h, w, c)
    """

    prefix: int = 0
    channels_last: bool = False


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network, its preprocessing, and its identity.

    Parameters
    ----------
    spec : canonical spec string, ``source:name[@weights]``
    kind : ``image`` or ``text``
    dim : d, the length of a feature vector
    network : module in evaluation mode; `encode` calls it through `forward`
    collate : list of b decoded items (PIL images or strings) → batch, a dict of tensors; runs in loader workers, so
        it must pickle and must not hold the network
    forward : (network, batch on the device) → (b, d) floating tensor; a `Forward` if there are several `poolings`
    pooling : `Pool` in effect
    preprocessing : description that differs whenever the preprocessing differs
    digest : hash of the weights, independent of file names and of the device
    image : for images, what other transforms than `collate` must end in; None for texts and where it is not known
    options : further settings that can change a feature (maximal token count)
    versions : versions of the libraries that the network comes from
    poolings : other forwards of the same network on the same batches, see `grobust.models.outputs`
    layout : of what the network's layers give
    count : items → (b) their lengths as the network sees them, in tokens; None where all cost the same, or for a
        data set's own lengths
    arguments : of the `load_backbone` call that gives this backbone again; empty for one built by hand
    """

    spec: str
    kind: ItemKind
    dim: int
    network: nn.Module
    collate: Callable[[Sequence[Any]], dict[str, Tensor]]
    forward: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    pooling: Pool
    preprocessing: str
    digest: str
    image: ImageInput | None = None
    options: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    poolings: Mapping[Pool, Forward] = field(default_factory=dict)
    layout: MapLayout = field(default_factory=MapLayout)
    count: Callable[[Sequence[Any]], NDArray[Any]] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)

    def encode(self, batch: dict[str, Tensor]) -> Tensor:
        """Features (b, d) of a collated batch that is on the network's device; no gradients."""
        with torch.inference_mode():
            return self.forward(self.network, batch)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
