"""The four corners of a resized image beside its centre, cut where a library's preprocessing cuts the centre.

Each image is decoded and resized once. Whether a preprocessing can be taken apart like this is tried out: its centre
must come out bit for bit as it does whole.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional

from grobust.errors import BackboneError
from grobust.models.collate import ImageCollate, ProcessorCollate, ending_of, filled_with_pixels

__all__ = ["CENTRE", "CORNERS", "CropsCollate", "with_corners"]

# Names of the tensors in a batch. The corners are in the order of torchvision's FiveCrop.
CENTRE = "pixels"
CORNERS = ("pixels_top_left", "pixels_top_right", "pixels_bottom_left", "pixels_bottom_right")
# Width and height of the images that a preprocessing is tried out on: wide and high, margins even and odd.
TRIED = ((157, 100), (100, 150))


class Cutter(Protocol):
    """A preprocessing in three steps."""

    def resized(self, items: Sequence[Any]) -> list[Any]:
        """Images as they are before the crop."""
        ...

    def cuts(self, image: Any) -> dict[str, Any]:
        """The centre and the corners of one of them; BackboneError if it is smaller than they are."""
        ...

    def finished(self, images: Sequence[Any]) -> Tensor:
        """Crops as the network takes them, (b, 3, h, w)."""
        ...


@dataclass(frozen=True, eq=False)
class CropsCollate:
    """PIL images → {"pixels": (b, 3, h, w), "pixels_top_left": (b, 3, h, w), …}, float32."""

    cutter: Cutter

    def __call__(self, items: Sequence[Any]) -> dict[str, Tensor]:
        cuts = [self.cutter.cuts(image) for image in self.cutter.resized(items)]
        return {name: self.cutter.finished([each[name] for each in cuts]) for name in (CENTRE, *CORNERS)}


def with_corners(spec: str, collate: Callable[[Sequence[Any]], dict[str, Tensor]]) -> CropsCollate:
    """The collate of a backbone that also gives the corners.

    Raises
    ------
    BackboneError
        If it does not resize an image and cut out the centre, or resizes to what it would cut.
    """
    refused = BackboneError(
        f"{spec} has no corners to cut: its preprocessing is not a resizing and then a crop of the centre. Leave "
        "out the views of several crops."
    )
    cutter = _cutter(collate)
    if cutter is None:
        raise refused
    found, images = CropsCollate(cutter), [_noise(size) for size in TRIED]
    try:
        same = all(torch.equal(found([image])[CENTRE], collate([image])[CENTRE]) for image in images)
        sizes = [(_size(before), _size(cutter.cuts(before)[CENTRE])) for before in cutter.resized(images)]
    except (BackboneError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise refused from error
    if not same or all(before == after for before, after in sizes):
        raise refused
    return found


def _cutter(collate: Any) -> Cutter | None:
    if isinstance(collate, ProcessorCollate):
        return _ProcessorCutter(collate.processor)
    if not isinstance(collate, ImageCollate):
        return None
    ending = ending_of(collate.transform)
    steps = [] if ending is None else list(ending.resize.transforms)
    crops = [i for i, step in enumerate(steps) if isinstance(step, transforms.CenterCrop)]
    if ending is None or len(crops) != 1:
        return None
    before, crop, after = steps[: crops[0]], steps[crops[0]], steps[crops[0] + 1 :]
    return _Cutter(
        transforms.Compose(before), tuple(crop.size), transforms.Compose(after), tuple(ending.mean), tuple(ending.sd)
    )


@dataclass(frozen=True, eq=False)
class _Cutter:
    """Of a torchvision preset, or of transforms with a `CenterCrop` as timm and open_clip make them.

    Parameters
    ----------
    resize : PIL image → PIL image before the crop
    size : height and width of the crop
    after : PIL image → PIL image, between crop and tensor
    mean, sd : of the normalization
    """

    resize: Callable[[Any], Any]
    size: tuple[int, int]
    after: Callable[[Any], Any]
    mean: tuple[float, ...]
    sd: tuple[float, ...]

    def resized(self, items: Sequence[Any]) -> list[Any]:
        return [self.resize(item if item.mode == "RGB" else item.convert("RGB")) for item in items]

    def cuts(self, image: Any) -> dict[str, Any]:
        # Pillow's order.
        width, height = image.size
        corners = {
            name: functional.crop(image, top, left, *self.size)
            for name, (top, left) in zip(CORNERS, _corners((height, width), self.size), strict=True)
        }
        return {CENTRE: functional.center_crop(image, list(self.size))} | corners

    def finished(self, images: Sequence[Any]) -> Tensor:
        return filled_with_pixels([np.asarray(self.after(image)) for image in images], self.mean, self.sd)


class _ProcessorCutter:
    """Of a transformers image processor, whose crop is a method of its own."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        whole = processor(images=[_noise(TRIED[0])], return_tensors="pt")["pixel_values"]
        self._size = (int(whole.shape[-2]), int(whole.shape[-1]))
        # Some crop within their resizing, where no switch is.
        self._uncropped = copy.deepcopy(processor)
        self._uncropped.center_crop = _unchanged

    def resized(self, items: Sequence[Any]) -> list[Any]:
        images = [item.convert("RGB") for item in items]
        return list(self._uncropped(images=images, do_rescale=False, do_normalize=False)["pixel_values"])

    def cuts(self, image: Any) -> dict[str, Any]:
        (height, width), (h, w) = image.shape[-2:], self._size
        places = dict(zip(CORNERS, _corners((height, width), self._size), strict=True))
        places[CENTRE] = ((height - h) // 2, (width - w) // 2)
        return {name: image[..., top : top + h, left : left + w] for name, (top, left) in places.items()}

    def finished(self, images: Sequence[Any]) -> Tensor:
        batch = self._processor(
            images=list(images), do_resize=False, do_center_crop=False, input_data_format="channels_first",
            return_tensors="pt",
        )  # fmt: skip
        pixels: Tensor = batch["pixel_values"]
        return pixels


def _corners(image: tuple[int, int], crop: tuple[int, int]) -> list[tuple[int, int]]:
    """Top and left edge of each corner."""
    (height, width), (h, w) = image, crop
    if h > height or w > width:
        raise BackboneError(
            f"An image resized to {height} × {width} is smaller than its crop of {h} × {w}, so it has no corners. "
            "Leave out the views of several crops."
        )
    return [(0, 0), (0, width - w), (height - h, 0), (height - h, width - w)]


def _unchanged(image: Any, *_: Any, **__: Any) -> Any:
    return image


def _size(image: Any) -> tuple[int, int]:
    """Height and width."""
    return (image.height, image.width) if isinstance(image, Image.Image) else tuple(image.shape[-2:])


def _noise(size: tuple[int, int]) -> Image.Image:
    width, height = size
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
