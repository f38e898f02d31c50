"""Items to batches: picklable, without the network, so that loader workers can hold them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional
from torchvision.transforms._presets import ImageClassification

__all__ = ["Ending", "ImageCollate", "ProcessorCollate", "TextCollate", "ending_of", "filled_with_pixels"]


@dataclass(frozen=True, eq=False)
class ImageCollate:
    """PIL images → {"pixels": (b, 3, h, w) float32 in channels-last memory} by a library's evaluation transform.

    A transform that ends in "to a tensor, less the mean, over the deviation", as the libraries' do, has this end done
    in place, image by image: the same arithmetic, bit for bit, without the copies.
    """

    transform: Callable[[Any], Any]

    def __call__(self, items: Sequence[Any]) -> dict[str, Tensor]:
        return self.joined([self.prepared(item) for item in items])

    def prepared(self, item: Any) -> Any:
        """The image in its final size (h, w, 3) uint8; as it came, in RGB, for a transform of another make."""
        image = item if item.mode == "RGB" else item.convert("RGB")
        return image if self._ending is None else np.asarray(self._ending.resize(image))

    def joined(self, prepared: Sequence[Any]) -> dict[str, Tensor]:
        """The batch of prepared images."""
        ending = self._ending
        if ending is None:
            return {"pixels": torch.stack([self.transform(image) for image in prepared])}
        return {"pixels": filled_with_pixels(prepared, ending.mean, ending.sd)}

    @cached_property
    def _ending(self) -> "Ending | None":
        return ending_of(self.transform)


def filled_with_pixels(images: Sequence[NDArray[np.uint8]], mean: Sequence[float], sd: Sequence[float]) -> Tensor:
    """Images (h, w, 3) of one size → (b, 3, h, w) float32 in channels-last memory, value / 255 less mean over sd."""
    height, width = images[0].shape[:2]
    pixels = np.empty((len(images), height, width, 3), np.float32)
    # Channels of a whole row of pixels: NumPy's loops run over the last axis, and three are too few for one.
    shift, scale = (np.tile(np.array(v, np.float32), width) for v in (mean, sd))
    for image, out in zip(images, pixels, strict=True):
        # In place, image by image: a batch would go through memory four times, and torch would start a second team
        # of threads in the loader's thread, which spins on the network's cores.
        rows = out.reshape(height, width * 3)
        np.divide(image.reshape(rows.shape), np.float32(255), out=rows)
        rows -= shift
        rows /= scale
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


class Ending(NamedTuple):
    """A transform taken apart: PIL image to PIL image of the final size, and the normalization after it."""

    resize: transforms.Compose
    mean: tuple[float, ...]
    sd: tuple[float, ...]


def ending_of(transform: Any) -> Ending | None:
    """None for a transform of another make."""
    if isinstance(transform, ImageClassification):
        steps = transforms.Compose([_Resized(transform), transforms.CenterCrop(transform.crop_size)])
        return Ending(steps, tuple(transform.mean), tuple(transform.std))
    if not isinstance(transform, transforms.Compose) or len(transform.transforms) < 2:
        return None
    *first, to_tensor, normalize = transform.transforms
    if not isinstance(to_tensor, transforms.ToTensor) or not isinstance(normalize, transforms.Normalize):
        return None
    mean, sd = (tuple(float(value) for value in values) for values in (normalize.mean, normalize.std))
    return Ending(transforms.Compose(first), mean, sd) if len(mean) == 3 else None


@dataclass(frozen=True, eq=False)
class _Resized:
    """What torchvision's preset does before its crop."""

    preset: Any

    def __call__(self, image: Any) -> Any:
        of = self.preset
        return functional.resize(image, of.resize_size, interpolation=of.interpolation, antialias=of.antialias)


@dataclass(frozen=True, eq=False)
class ProcessorCollate:
    """PIL images → {"pixels": (b, 3, h, w) float32} by a transformers image processor."""

    processor: Any

    def __call__(self, items: Sequence[Any]) -> dict[str, Tensor]:
        batch = self.processor(images=[item.convert("RGB") for item in items], return_tensors="pt")
        pixels: Tensor = batch["pixel_values"]
        return {"pixels": pixels}


@dataclass(frozen=True, eq=False)
class TextCollate:
    """Strings, or pairs of strings, → token ids and attention mask (b, t).

    Padded to the longest, or to `max_tokens` if `pad_to_max`.
    """

    tokenizer: Any
    max_tokens: int
    pad_to_max: bool = False

    def __call__(self, items: Sequence[str | tuple[str, str]]) -> dict[str, Tensor]:
        batch = self._tokenized(items, padding="max_length" if self.pad_to_max else "longest", return_tensors="pt")
        return dict(batch)

    def count(self, items: Sequence[str | tuple[str, str]]) -> NDArray[np.int64]:
        """(b) tokens of each item, less what is cut off."""
        ids = self._tokenized(items, return_attention_mask=False, return_token_type_ids=False)["input_ids"]
        return np.fromiter((len(each) for each in ids), dtype=np.int64, count=len(items))

    def _tokenized(self, items: Sequence[str | tuple[str, str]], **how: Any) -> Any:
        pairs = [item for item in items if not isinstance(item, str)]
        texts = [list(part) for part in zip(*pairs, strict=True)] if pairs else [list(items)]
        return self.tokenizer(*texts, truncation=True, max_length=self.max_tokens, **how)
