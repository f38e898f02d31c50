"""Backbones of open_clip: the image tower, whose feature is the image embedding before normalization."""

from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from grobust.errors import BackboneError
from grobust.models.backbone import Backbone, ImageInput, Pool
from grobust.models.collate import ImageCollate
from grobust.models.pooling import check_pool
from grobust.models.spec import BackboneSpec
from grobust.models.weights import fixed_initialization, loading, weights_digest

__all__ = ["load_open_clip"]


def load_open_clip(spec: BackboneSpec, *, pool: Pool | None, image_size: int | None) -> Backbone:
    """``open_clip:ARCHITECTURE@TAG``: weights from open_clip's cache, or ``@random``."""
    if spec.name not in open_clip.list_models():
        raise BackboneError(f"{spec}: open_clip has no architecture '{spec.name}'. See open_clip.list_models().")
    tags = open_clip.list_pretrained_tags_by_model(spec.name)
    if not spec.random and spec.weights not in tags:
        raise BackboneError(f"{spec}: name pretrained weights after an @. open_clip has: {', '.join(tags) or 'none'}.")
    with (
        loading(spec, f"the weights '{spec.weights}' of '{spec.name}' in the Hugging Face hub cache"),
        fixed_initialization(),
    ):
        model, _, transform = open_clip.create_model_and_transforms(
            spec.name, pretrained=None if spec.random else spec.weights, force_image_size=image_size
        )
    network: nn.Module = model.visual.eval().to(memory_format=torch.channels_last)
    chosen = check_pool(spec, pool, [Pool.MODEL])
    size = model.visual.image_size
    height, width = size if isinstance(size, tuple | list) else (size, size)
    with torch.inference_mode():
        dim = _Forward()(network, {"pixels": torch.zeros(1, 3, height, width)}).shape[1]
    described = " ".join(str(transform).split())
    return Backbone(
        spec=str(spec), kind="image", dim=dim, network=network, collate=ImageCollate(transform), forward=_Forward(),
        pooling=chosen, preprocessing=f"open_clip evaluation transform: {described}", digest=weights_digest(network),
        versions={"open_clip_torch": open_clip.__version__, "torch": torch.__version__},
        image=ImageInput.of((height, width), transform.transforms[-1].mean, transform.transforms[-1].std),
    )  # fmt: skip


@dataclass(frozen=True)
class _Forward:
    def __call__(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self.body(network, batch)

    def body(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        out: Any = network(batch["pixels"])
        # With output_tokens a tower returns (embedding, tokens).
        embedding: Tensor = out[0] if isinstance(out, tuple) else out
        return embedding

    def pooled(self, network: nn.Module, batch: dict[str, Tensor], body: Tensor) -> Tensor:
        return body
