"""Backbones of torchvision."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, get_model_weights
from torchvision.transforms._presets import ImageClassification

from grobust.errors import BackboneError
from grobust.models.backbone import Backbone, ImageInput, Pool
from grobust.models.collate import ImageCollate
from grobust.models.pooling import check_pool, pool_map
from grobust.models.spec import BackboneSpec
from grobust.models.weights import fixed_initialization, loading, offline, weights_digest

__all__ = ["load_torchvision"]

# Where torchvision's families keep the last linear layer.
HEADS = ("fc", "classifier", "heads", "head")
DEFAULT_SIZE = 224


def load_torchvision(spec: BackboneSpec, *, pool: Pool | None, image_size: int | None) -> Backbone:
    """``torchvision:name[@WEIGHTS]``: weights from torch's hub cache (default ``DEFAULT``), or ``@random``."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    with loading(spec, f"the torchvision model '{spec.name}' and its weights in {cache}"):
        with fixed_initialization():
            network: nn.Module = get_model(spec.name, weights=None)
        if spec.random:
            size = image_size or DEFAULT_SIZE
            transform: Any = ImageClassification(crop_size=size, resize_size=round(size * 256 / 224))
            name = "random"
        else:
            weights = get_model_weights(spec.name)[spec.weights or "DEFAULT"]
            file = cache / Path(weights.url).name
            if offline() and not file.is_file():
                raise FileNotFoundError(f"{file} is not there, and downloads are switched off")
            network.load_state_dict(weights.get_state_dict(progress=False, check_hash=True, weights_only=True))
            size_option = {} if image_size is None else {"crop_size": image_size, "resize_size": image_size}
            transform = weights.transforms(**size_option)
            name = weights.name
    _drop_head(spec, network)
    network = network.eval().to(memory_format=torch.channels_last)
    has_map = hasattr(network, "layer4") or hasattr(network, "features")
    chosen = check_pool(spec, pool, [Pool.MODEL, *([Pool.GAP, Pool.FLATTEN] if has_map else [])])
    forward = _Forward(chosen)
    size = transform.crop_size[0]
    with torch.inference_mode():
        dim = forward(network, {"pixels": torch.zeros(1, 3, size, size)}).shape[1]
    described = " ".join(str(transform).split())
    return Backbone(
        spec=f"{spec.source}:{spec.name}@{name}", kind="image", dim=dim, network=network,
        collate=ImageCollate(transform), forward=forward, pooling=chosen,
        preprocessing=f"torchvision evaluation transform: {described}", digest=weights_digest(network),
        versions={"torchvision": torchvision.__version__, "torch": torch.__version__},
        image=ImageInput.of((size, size), transform.mean, transform.std),
    )  # fmt: skip


@dataclass(frozen=True)
class _Forward:
    pool: Pool

    def __call__(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        if self.pool is Pool.MODEL:
            pooled: Tensor = network(batch["pixels"])
            return pooled.flatten(1)
        swin = type(network).__name__ == "SwinTransformer"
        return pool_map(_feature_map(network, batch["pixels"]), self.pool, channels_last=swin)


def _feature_map(network: Any, pixels: Tensor) -> Tensor:
    """Map (b, c, h, w) before pooling and final norm; Swin's is (b, h, w, c)."""
    if hasattr(network, "features"):
        features: Tensor = network.features(pixels)
        return features
    x = network.maxpool(network.relu(network.bn1(network.conv1(pixels))))
    stages: Tensor = network.layer4(network.layer3(network.layer2(network.layer1(x))))
    return stages


def _drop_head(spec: BackboneSpec, network: nn.Module) -> None:
    """Replace the last linear layer by the identity, so that the network returns what enters it."""
    for attribute in HEADS:
        head = getattr(network, attribute, None)
        if isinstance(head, nn.Linear):
            setattr(network, attribute, nn.Identity())
            return
        if isinstance(head, nn.Sequential) and isinstance(head[-1], nn.Linear):
            head[-1] = nn.Identity()
            return
    raise BackboneError(f"{spec}: this torchvision model has no linear classifier head to remove.")
