"""Training inputs: the paper's random crops and flips of images, drawn for each sample alone.

The official transform is a random resized crop (area 0.7 to 1 of the image, aspect 3/4 to 4/3, bilinear) and a
horizontal flip with probability one half, then the network's own size, mean and standard deviation.

What happens to an image is a function of the seed and of numbers that name the draw. No global random state is read,
so any number of loader workers, another order, or a run that was killed and continued give the very same inputs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import InterpolationMode, resized_crop

from grobust.errors import BackboneError
from grobust.models.backbone import Backbone, ImageInput

__all__ = ["Crop", "ImageAugment", "TrainingCollate", "draw_crop", "training_collate"]

SCALE = (0.7, 1.0)
ASPECT = (3 / 4, 4 / 3)
# After so many crops that do not fit, the centre is taken, as torchvision does.
TRIES = 10
FLIP = 0.5


class TrainingCollate(Protocol):
    """Items and the draws they come from → batch, a dict of tensors. Pickles, and does not hold the network."""

    def __call__(self, items: Sequence[Any], draws: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """A batch of b items; `draws` names each by numbers of at least 0, such as (epoch, row) or (step, place).

        With replacement a row comes more than once in an epoch: name such draws by their place.
        """
        ...


def training_collate(backbone: Backbone, *, seed: int) -> TrainingCollate:
    """The training counterpart of ``backbone.collate``: random crops and flips for images, nothing else for texts.

    Raises
    ------
    BackboneError
        If a backbone for images does not say what input it takes.
    """
    if backbone.kind == "text":
        return _Unchanged(backbone.collate)
    if backbone.image is None:
        raise BackboneError(
            f"{backbone.spec} has no size, mean and sd of its images, so random crops cannot end in them. "
            "Give the Backbone an `image=ImageInput(...)`, or train without augmentation."
        )
    return ImageAugment(backbone.image, seed)


class Crop(NamedTuple):
    """A part of an image, in pixels from its upper left corner."""

    top: int
    left: int
    height: int
    width: int


def draw_crop(rng: np.random.Generator, height: int, width: int) -> Crop:
    """A crop of random area and aspect, as torchvision's `RandomResizedCrop` draws it.

    Area uniform in 0.7 … 1 of the image's, logarithm of the aspect uniform between those of 3/4 and 4/3, any place
    where it fits. If ten in a row do not fit: the largest centred crop whose aspect is allowed.
    """
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    for _ in range(TRIES):
        area = height * width * rng.uniform(*SCALE)
        aspect = math.exp(rng.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Crop(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)
    h, w = height, width
    if width / height < ASPECT[0]:
        h = min(height, round(width / ASPECT[0]))
    elif width / height > ASPECT[1]:
        w = min(width, round(height * ASPECT[1]))
    return Crop((height - h) // 2, (width - w) // 2, h, w)


@dataclass(frozen=True)
class ImageAugment:
    """PIL images → {"pixels": (b, 3, h, w) float32 in channels-last memory}, cropped, flipped and normalized."""

    image: ImageInput
    seed: int

    def __call__(self, items: Sequence[Any], draws: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        height, width = self.image.size
        pixels = np.empty((len(items), height, width, 3), np.float32)
        # Channels of a whole row of pixels: NumPy's loops run over the last axis, and three are too few for one.
        mean, sd = (np.tile(np.array(v, np.float32), width) for v in (self.image.mean, self.image.sd))
        for item, draw, out in zip(items, draws, pixels, strict=True):
            # In place, image by image: a batch would go through memory four times, and torch would start a second team
            # of threads in the loader's thread, which spins on the network's cores.
            rows = out.reshape(height, width * 3)
            np.divide(self._one(item, draw).reshape(rows.shape), np.float32(255), out=rows)
            rows -= mean
            rows /= sd
        return {"pixels": torch.from_numpy(pixels).permute(0, 3, 1, 2)}

    def _one(self, item: Any, draw: Sequence[int]) -> NDArray[np.uint8]:
        """(h, w, 3), cropped and flipped."""
        rng = np.random.default_rng([self.seed, *draw])
        rgb = item if item.mode == "RGB" else item.convert("RGB")
        crop = draw_crop(rng, rgb.height, rgb.width)
        part = resized_crop(rgb, *crop, size=list(self.image.size), interpolation=InterpolationMode.BILINEAR)
        pixels: NDArray[np.uint8] = np.asarray(part)
        return pixels[:, ::-1] if rng.random() < FLIP else pixels


@dataclass(frozen=True, eq=False)
class _Unchanged:
    """Items as the evaluation sees them."""

    collate: Any

    def __call__(self, items: Sequence[Any], draws: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        batch: dict[str, Tensor] = self.collate(items)
        return batch
