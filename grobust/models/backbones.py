"""`load_backbone`: spec string → `Backbone`."""

from collections.abc import Sequence
from dataclasses import replace

from grobust.errors import BackboneError
from grobust.models.backbone import Backbone, Pool
from grobust.models.open_clip_source import load_open_clip
from grobust.models.outputs import outputs_of
from grobust.models.packaged import load_packaged
from grobust.models.run_source import load_run
from grobust.models.spec import parse_spec
from grobust.models.timm_source import load_timm
from grobust.models.torchvision_source import load_torchvision
from grobust.models.transformers_source import load_transformers
from grobust.models.views import View

__all__ = ["load_backbone", "load_backbones"]


def load_backbone(
    spec: str,
    *,
    pool: Pool | None = None,
    device: str = "cpu",
    max_tokens: int | None = None,
    image_size: int | None = None,
    layer: str | None = None,
) -> Backbone:
    """Load a network and its preprocessing, each from its own library.

    Parameters
    ----------
    spec : ``source:name[@weights]`` with source timm, transformers, open_clip, torchvision, packaged or run
    pool : which vector is the feature; None for the one that enters the network's classifier
    device : torch device
    max_tokens : truncate texts to this many tokens; None for 220 or the network's limit
    image_size : square input size in pixels; None for the network's own
    layer : name of a module whose output is the feature, pooled; None for what enters the classifier

    Raises
    ------
    BackboneError
        If the spec, the weights, the pooling or the layer do not exist; the message says what was looked for.
    """
    if layer is not None:
        loaded = load_backbone(spec, device=device, max_tokens=max_tokens, image_size=image_size)
        return outputs_of(loaded, [pool], [layer])[0]
    parsed = parse_spec(spec)
    for name, value in (("max_tokens", max_tokens), ("image_size", image_size)):
        if value is not None and value < 1:
            raise BackboneError(f"{name} must be at least 1, got {value}.")
    match parsed.source:
        case "timm":
            backbone = load_timm(parsed, pool=pool, image_size=image_size)
        case "torchvision":
            backbone = load_torchvision(parsed, pool=pool, image_size=image_size)
        case "open_clip":
            backbone = load_open_clip(parsed, pool=pool, image_size=image_size)
        case "transformers":
            backbone = load_transformers(parsed, pool=pool, image_size=image_size, max_tokens=max_tokens)
        case "run":
            backbone = load_run(parsed, pool=pool, image_size=image_size, max_tokens=max_tokens, load=load_backbone)
        case _:
            backbone = load_packaged(parsed, pool=pool, image_size=image_size, max_tokens=max_tokens)
    backbone.network.to(device)
    arguments = {
        "spec": spec, "pool": None if pool is None else str(pool), "max_tokens": max_tokens, "image_size": image_size
    }  # fmt: skip
    return replace(backbone, arguments=arguments)


def load_backbones(
    spec: str,
    *,
    pools: Sequence[Pool] = (),
    layers: Sequence[str] = (),
    views: Sequence[View] = (),
    device: str = "cpu",
    max_tokens: int | None = None,
    image_size: int | None = None,
) -> tuple[Backbone, ...]:
    """One network with several outputs, which `extract_together` computes in one pass: each view, layer and pooling.

    Parameters
    ----------
    pools : of each layer; empty for the network's own
    layers : names of modules; empty for what enters the classifier
    views : of images, such as their mirror image or the mean over five crops; empty for the image as it is

    Raises
    ------
    BackboneError
        As for `load_backbone`.
    """
    first = pools[0] if pools and not layers else None
    loaded = load_backbone(spec, pool=first, device=device, max_tokens=max_tokens, image_size=image_size)
    return outputs_of(loaded, pools or [None], layers or [None], views or [View.PLAIN])
