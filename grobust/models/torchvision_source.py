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
from grobust.models.backbone import Backbone, ImageInput, MapLayout, Pool
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
    possible = [Pool.MODEL, *([Pool.GAP, Pool.FLATTEN] if has_map else [])]
    chosen = check_pool(spec, pool, possible)
    layout = MapLayout(channels_last=type(network).__name__ == "SwinTransformer")
    poolings = {each: _Forward(each, layout) for each in possible}
    forward = poolings[chosen]
    size = transform.crop_size[0]
    with torch.inference_mode():
        dim = forward(network, {"pixels": torch.zeros(1, 3, size, size)}).shape[1]
    described = " ".join(str(transform).split())
    return Backbone(
        spec=f"{spec.source}:{spec.name}@{name}", kind="image", dim=dim, network=network,
        collate=ImageCollate(transform), forward=forward, pooling=chosen,
        preprocessing=f"torchvision evaluation transform: {described}", digest=weights_digest(network),
        versions={"torchvision": torchvision.__version__, "torch": torch.__version__},
        image=ImageInput.of((size, size), transform.mean, transform.std), poolings=poolings, layout=layout,
    )  # fmt: skip


@dataclass(frozen=True)
class _Forward:
    pool: Pool
    layout: MapLayout

    def __call__(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self.pooled(network, batch, self.body(network, batch))

    def body(self, network: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What enters the classifier, and the map (b, c, h, w) before pooling and final norm; Swin's is (b, h, w, c).

        The networks have no method that ends at the map, so it is taken on its way.
        """
        maps: list[Tensor] = []
        last = getattr(network, "features", getattr(network, "layer4", None))
        if last is None:
            return network(batch["pixels"]).flatten(1), maps
        handle = last.register_forward_hook(lambda module, given, out: maps.append(out))
        try:
            return network(batch["pixels"]).flatten(1), maps
        finally:
            handle.remove()

    def pooled(self, network: nn.Module, batch: dict[str, Tensor], body: tuple[Tensor, list[Tensor]]) -> Tensor:
        vectors, maps = body
        if self.pool is Pool.MODEL:
            return vectors
        return pool_map(maps[0], self.pool, channels_last=self.layout.channels_last)


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
