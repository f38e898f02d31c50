"""Items to batches: picklable, without the network, so that loader workers can hold them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["ImageCollate", "ProcessorCollate", "TextCollate"]


@dataclass(frozen=True, eq=False)
class ImageCollate:
    """PIL images → {"pixels": (b, 3, h, w) float32} by a library's evaluation transform."""

    transform: Callable[[Any], Any]

    def __call__(self, items: Sequence[Any]) -> dict[str, Tensor]:
        return {"pixels": torch.stack([self.transform(item.convert("RGB")) for item in items])}


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
        pairs = [item for item in items if not isinstance(item, str)]
        texts = [list(part) for part in zip(*pairs, strict=True)] if pairs else [list(items)]
        batch = self.tokenizer(
            *texts,
            padding="max_length" if self.pad_to_max else "longest",
            truncation=True,
            max_length=self.max_tokens,
            return_tensors="pt",
        )
        return dict(batch)
