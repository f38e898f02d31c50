"""Backbones of timm."""

from dataclasses import dataclass
from typing import Any

import timm
import timm.data
import torch
from torch import Tensor, nn

from grobust.models.backbone import Backbone, ImageInput, MapLayout, Pool
from grobust.models.collate import ImageCollate
from grobust.models.pooling import check_pool, pool_map, pool_tokens
from grobust.models.spec import BackboneSpec
from grobust.models.weights import fixed_initialization, loading, weights_digest

__all__ = ["from_network", "load_timm"]


def load_timm(spec: BackboneSpec, *, pool: Pool | None, image_size: int | None) -> Backbone:
    """``timm:architecture[.tag]``: weights from timm's cache, or ``@random``."""
    with loading(spec, f"the timm model '{spec.name}' and its weights in the Hugging Face hub cache"):
        if spec.weights not in (None, "random"):
            raise ValueError(f"timm names weights in the architecture's tag, not as '@{spec.weights}'")
        with fixed_initialization():
            network = timm.create_model(spec.name, pretrained=not spec.random, num_classes=0)
    return from_network(spec, network, pool=pool, image_size=image_size)


def from_network(spec: BackboneSpec, network: nn.Module, *, pool: Pool | None, image_size: int | None) -> Backbone:
    """A backbone of a timm network without a classifier, with timm's own evaluation transform."""
    config: dict[str, Any] = timm.data.resolve_model_data_config(network)
    if image_size is not None:
        config["input_size"] = (config["input_size"][0], image_size, image_size)
    height, width = config["input_size"][1:]
    network = network.eval().to(memory_format=torch.channels_last)
    with torch.inference_mode(), loading(spec, f"an input of {height} × {width} pixels that it accepts"):
        shape = network.forward_features(torch.zeros(1, 3, height, width))  # type: ignore[operator]
    tokens = shape.ndim == 3
    possible = [Pool.MODEL, Pool.GAP, Pool.FLATTEN, *([Pool.CLS] if tokens and _prefix(network) else [])]
    chosen = check_pool(spec, pool, possible)
    layout = MapLayout(_prefix(network), getattr(network, "output_fmt", "NCHW") == "NHWC")
    poolings = {each: _Forward(each, layout) for each in possible}
    forward = poolings[chosen]
    with torch.inference_mode():
        dim = forward(network, {"pixels": torch.zeros(1, 3, height, width)}).shape[1]
    described = ", ".join(f"{key}={config[key]}" for key in sorted(config))
    return Backbone(
        spec=str(spec), kind="image", dim=dim, network=network,
        collate=ImageCollate(timm.data.create_transform(**config, is_training=False)), forward=forward,
        pooling=chosen, preprocessing=f"timm evaluation transform: {described}", digest=weights_digest(network),
        versions={"timm": timm.__version__, "torch": torch.__version__},
        image=ImageInput.of((height, width), config["mean"], config["std"]), poolings=poolings, layout=layout,
    )  # fmt: skip


@dataclass(frozen=True)
class _Forward:
    pool: Pool
    layout: MapLayout

    def __call__(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self.pooled(network, batch, self.body(network, batch))

    def body(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        features: Tensor = network.forward_features(batch["pixels"])  # type: ignore[operator]
        return features

    def pooled(self, network: nn.Module, batch: dict[str, Tensor], body: Tensor) -> Tensor:
        if self.pool is Pool.MODEL:
            pooled: Tensor = network.forward_head(body, pre_logits=True)  # type: ignore[operator]
            return pooled
        if body.ndim == 3:
            return pool_tokens(body, self.pool, prefix=self.layout.prefix)
        return pool_map(body, self.pool, channels_last=self.layout.channels_last)


def _prefix(network: nn.Module) -> int:
    return int(getattr(network, "num_prefix_tokens", 0))
