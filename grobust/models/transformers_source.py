"""Backbones of transformers: texts and images, from the hub's cache or a local folder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
import xxhash
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from grobust.models.backbone import Backbone, ImageInput, MapLayout, Pool
from grobust.models.collate import ProcessorCollate, TextCollate
from grobust.models.pooling import check_pool, mean_over_tokens, pool_map, pool_tokens
from grobust.models.spec import BackboneSpec
from grobust.models.weights import fixed_initialization, loading, weights_digest

__all__ = ["load_transformers", "text_backbone"]

# The paper's longest input (CivilComments); longer ones are truncated, and the provenance says so.
DEFAULT_MAX_TOKENS = 220
TEXT_POOLS = (Pool.MODEL, Pool.CLS, Pool.MEAN, Pool.FLATTEN)


def load_transformers(
    spec: BackboneSpec, *, pool: Pool | None, image_size: int | None, max_tokens: int | None
) -> Backbone:
    """``transformers:hub/name`` or ``transformers:FOLDER``; ``@random`` takes the architecture alone."""
    where = "that folder" if Path(spec.name).is_dir() else "the Hugging Face hub cache"
    with loading(spec, f"config, {'' if spec.random else 'weights '}and preprocessing of '{spec.name}' in {where}"):
        config = AutoConfig.from_pretrained(spec.name, trust_remote_code=False)
        network = _network(spec, config)
        if config.model_type in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
            processor = AutoImageProcessor.from_pretrained(spec.name, trust_remote_code=False)
            return _image_backbone(spec, network, processor, pool, image_size)
        tokenizer = AutoTokenizer.from_pretrained(spec.name, trust_remote_code=False)
    possible = [p for p in TEXT_POOLS if p is not Pool.MODEL or getattr(network, "pooler", None) is not None]
    chosen = check_pool(spec, pool, possible)
    return text_backbone(spec, network, tokenizer, pool=chosen, max_tokens=max_tokens)


def text_backbone(
    spec: BackboneSpec,
    network: nn.Module,
    tokenizer: Any,
    *,
    pool: Pool,
    max_tokens: int | None,
    model_pool_is_mean: bool = False,
) -> Backbone:
    """A backbone of a transformers text encoder; `model_pool_is_mean` for sentence encoders trained with the mean."""
    network = network.eval()
    longest = int(getattr(network.config, "max_position_embeddings", DEFAULT_MAX_TOKENS))
    tokens = min(max_tokens or DEFAULT_MAX_TOKENS, longest)
    collate = TextCollate(tokenizer, tokens, pad_to_max=pool is Pool.FLATTEN)
    poolings = {
        each: _TextForward(Pool.MEAN if each is Pool.MODEL and model_pool_is_mean else each)
        # One that is padded in another way is no other pooling of the same batches.
        for each in TEXT_POOLS if (each is Pool.FLATTEN) == (pool is Pool.FLATTEN)
    }  # fmt: skip
    if not model_pool_is_mean and getattr(network, "pooler", None) is None:
        poolings.pop(Pool.MODEL, None)
    forward = poolings[pool]
    with torch.inference_mode():
        dim = forward(network, collate(["a"])).shape[1]
    vocabulary = xxhash.xxh3_64_hexdigest(repr(sorted(tokenizer.get_vocab().items())).encode())
    padding = "to max tokens" if collate.pad_to_max else "to the longest of the batch"
    return Backbone(
        spec=str(spec), kind="text", dim=dim, network=network, collate=collate, forward=forward, pooling=pool,
        preprocessing=f"{type(tokenizer).__name__}, vocabulary {vocabulary}, truncated to {tokens} tokens, "
        f"padded {padding}",
        digest=weights_digest(network), options={"max_tokens": str(tokens)},
        versions={"transformers": transformers.__version__, "torch": torch.__version__},
        poolings=poolings, count=None if collate.pad_to_max else collate.count,
    )  # fmt: skip


def _network(spec: BackboneSpec, config: Any) -> nn.Module:
    with fixed_initialization():
        network: nn.Module = (
            AutoModel.from_config(config, trust_remote_code=False)
            if spec.random
            else AutoModel.from_pretrained(spec.name, config=config, trust_remote_code=False, dtype=torch.float32)
        )
    return network.eval()


def _image_backbone(
    spec: BackboneSpec, network: nn.Module, processor: Any, pool: Pool | None, image_size: int | None
) -> Backbone:
    if image_size is not None:
        raise ValueError("the size of a transformers image processor comes from its config; leave out --image-size")
    network = network.to(memory_format=torch.channels_last)
    collate = ProcessorCollate(processor)
    pixels = collate([Image.new("RGB", (64, 64))])["pixels"]
    with torch.inference_mode():
        out = network(pixel_values=pixels)
    hidden = out.last_hidden_state
    has_pooler = getattr(out, "pooler_output", None) is not None
    has_class_token = hidden.ndim == 3 and hasattr(getattr(network, "embeddings", None), "cls_token")
    possible = [
        *([Pool.MODEL] if has_pooler else []), Pool.GAP, *([Pool.CLS] if has_class_token else []), Pool.FLATTEN,
    ]  # fmt: skip
    chosen = check_pool(spec, pool, possible)
    layout = MapLayout(prefix=1 if has_class_token else 0)
    poolings = {each: _ImageForward(each, layout) for each in possible}
    forward = poolings[chosen]
    with torch.inference_mode():
        dim = forward(network, {"pixels": pixels}).shape[1]
    described = ", ".join(f"{k}={v}" for k, v in sorted(processor.to_dict().items()))
    return Backbone(
        spec=str(spec), kind="image", dim=dim, network=network, collate=collate, forward=forward, pooling=chosen,
        preprocessing=f"transformers image processor: {described}", digest=weights_digest(network),
        versions={"transformers": transformers.__version__, "torch": torch.__version__},
        image=_image_input(processor, pixels), poolings=poolings, layout=layout,
    )  # fmt: skip


def _image_input(processor: Any, pixels: Tensor) -> ImageInput:
    """Size of an input, and the processor's shift and scale as they act on values in 0 … 1."""
    normalizes = getattr(processor, "do_normalize", True)
    mean = processor.image_mean if normalizes else (0.0, 0.0, 0.0)
    sd = processor.image_std if normalizes else (1.0, 1.0, 1.0)
    white = 255 * (processor.rescale_factor if getattr(processor, "do_rescale", True) else 1.0)
    return ImageInput.of(pixels.shape[2:], [m / white for m in mean], [s / white for s in sd])


@dataclass(frozen=True)
class _TextForward:
    pool: Pool

    def __call__(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self.pooled(network, batch, self.body(network, batch))

    def body(self, network: nn.Module, batch: dict[str, Tensor]) -> Any:
        return network(**batch)

    def pooled(self, network: nn.Module, batch: dict[str, Tensor], body: Any) -> Tensor:
        if self.pool is Pool.MODEL:
            pooled: Tensor = body.pooler_output
            return pooled
        hidden: Tensor = body.last_hidden_state
        if self.pool is Pool.CLS:
            return hidden[:, 0]
        if self.pool is Pool.MEAN:
            return mean_over_tokens(hidden, batch["attention_mask"])
        return hidden.flatten(1)


@dataclass(frozen=True)
class _ImageForward:
    pool: Pool
    layout: MapLayout

    def __call__(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self.pooled(network, batch, self.body(network, batch))

    def body(self, network: nn.Module, batch: dict[str, Tensor]) -> Any:
        return network(pixel_values=batch["pixels"])

    def pooled(self, network: nn.Module, batch: dict[str, Tensor], body: Any) -> Tensor:
        if self.pool is Pool.MODEL:
            pooled: Tensor = body.pooler_output
            return pooled.flatten(1)
        hidden: Tensor = body.last_hidden_state
        if hidden.ndim == 4:
            return pool_map(hidden, self.pool)
        return pool_tokens(hidden, self.pool, prefix=self.layout.prefix)
