"""Several features from one pass over the data: other poolings, layers by their module's name, views of images."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, cast

import torch
from torch import Tensor, nn

from grobust.errors import BackboneError
from grobust.models.backbone import Backbone, Forward, MapLayout, Pool
from grobust.models.pooling import mean_over_tokens, pool_map, pool_tokens
from grobust.models.views import Look, View, ViewForward, look_of, looks_at, mean_of, with_view

__all__ = ["LayerForward", "encode_together", "output_name", "outputs_of"]

SHOWN_NAMES = 12


@dataclass(frozen=True)
class LayerForward:
    """What a module inside the network gives, pooled.

    Parameters
    ----------
    layer : the module's name, as in ``named_modules()``
    pool : ``gap``, ``cls``, ``mean`` or ``flatten``; an output (b, d) is taken as it is
    run : forward of the network's last layer, whose body runs the network
    """

    layer: str
    pool: Pool
    run: Forward
    layout: MapLayout
    spec: str

    def __call__(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        with _captured(network, [self.layer]) as seen:
            self.run.body(network, batch)
        return self.read(seen, batch)

    def body(self, network: nn.Module, batch: dict[str, Tensor]) -> Any:
        """See `Forward`."""
        return self.run.body(network, batch)

    def pooled(self, network: nn.Module, batch: dict[str, Tensor], body: Any) -> Tensor:
        """See `Forward`; what an inner module gives is not in the body, so the network runs again."""
        return self(network, batch)

    def read(self, seen: dict[str, Any], batch: dict[str, Tensor]) -> Tensor:
        """Features (b, d) of what the network's modules gave.

        Raises
        ------
        BackboneError
            If the module had no part in the pass, or gives no tensor that can be pooled.
        """
        out = seen.get(self.layer)
        while isinstance(out, tuple | list) and out:
            out = out[0]
        if not isinstance(out, Tensor) or not 2 <= out.ndim <= 4:
            what = "had no part in the pass" if out is None else f"gives no vectors, tokens or map ({_about(out)})"
            raise BackboneError(f"{self.spec}: the module '{self.layer}' {what}. Choose another --layer.")
        if out.ndim == 2:
            return out
        if out.ndim == 4:
            if self.pool not in (Pool.GAP, Pool.FLATTEN):
                raise BackboneError(f"{self.spec}: '{self.layer}' gives a map; pool it with gap or flatten.")
            return pool_map(out, self.pool, channels_last=self.layout.channels_last)
        if "attention_mask" in batch and self.pool in (Pool.MEAN, Pool.GAP):
            return mean_over_tokens(out, batch["attention_mask"])
        return pool_tokens(out, Pool.GAP if self.pool is Pool.MEAN else self.pool, prefix=self.layout.prefix)


def outputs_of(
    backbone: Backbone,
    pools: Sequence[Pool | None],
    layers: Sequence[str | None],
    views: Sequence[View] = (View.PLAIN,),
) -> tuple[Backbone, ...]:
    """A backbone for every view, layer and pooling, all of one network, so that one pass gives all of them.

    Parameters
    ----------
    pools : None for the network's own: what enters its classifier, or for inner layers the mean over places
    layers : names of modules; None for the last layer
    views : of images

    Raises
    ------
    BackboneError
        If the network has no such pooling, module or view, or they repeat.
    """
    asked = [(view, layer, pool) for view in views for layer in layers for pool in pools]
    if len(set(asked)) != len(asked):
        raise BackboneError(f"{backbone.spec}: a pooling, layer or view is asked for twice.")
    made = [_pooled(backbone, pool) if layer is None else _layer(backbone, layer, pool) for _, layer, pool in asked]
    return tuple(with_view(made, [view for view, _, _ in asked]))


def output_name(backbone: Backbone) -> str:
    """What tells it from other outputs of its network, in a file name: ``gap``, ``layer3.gap``, ``cls.five-crop``."""
    about = (backbone.options.get("layer"), str(backbone.pooling), backbone.options.get("view"))
    return ".".join(text for text in about if text is not None)


def encode_together(backbones: Sequence[Backbone], batch: dict[str, Tensor]) -> list[Tensor]:
    """Features (b, d) of each, in one pass per crop or mirror image if they are several outputs of a network."""
    first = backbones[0]
    if len(backbones) == 1:
        return [first.forward(first.network, batch)]
    looks = [looks_at(backbone) for backbone in backbones]
    found: list[dict[Look, Tensor]] = [{} for _ in backbones]
    for look in dict.fromkeys(look for each in looks for look in each):
        mine = [i for i, each in enumerate(looks) if look in each]
        forwards = [cast(Forward, backbones[i].forward) for i in mine]
        inner = [forward.run if isinstance(forward, ViewForward) else forward for forward in forwards]
        for i, features in zip(mine, _one_pass(first.network, inner, look_of(batch, look)), strict=True):
            found[i][look] = features
    return [mean_of([there[look] for look in each]) for there, each in zip(found, looks, strict=True)]


def _one_pass(network: nn.Module, forwards: Sequence[Forward], batch: dict[str, Tensor]) -> list[Tensor]:
    inner = [forward.layer for forward in forwards if isinstance(forward, LayerForward)]
    with _captured(network, inner) as seen:
        body = forwards[0].body(network, batch)
    return [
        forward.read(seen, batch) if isinstance(forward, LayerForward) else forward.pooled(network, batch, body)
        for forward in forwards
    ]


def _pooled(backbone: Backbone, pool: Pool | None) -> Backbone:
    if pool is None or pool is backbone.pooling:
        return backbone
    forward = backbone.poolings.get(pool)
    if forward is None:
        possible = ", ".join(dict.fromkeys((backbone.pooling, *backbone.poolings)))
        raise BackboneError(
            f"{backbone.spec} has no pooling '{pool}' in the same pass as '{backbone.pooling}'. Possible: {possible}. "
            "What pads its inputs in another way is extracted by itself."
        )
    return _sized(replace(backbone, forward=forward, pooling=pool, arguments=backbone.arguments | {"pool": str(pool)}))


def _layer(backbone: Backbone, layer: str, pool: Pool | None) -> Backbone:
    names = [name for name, _ in backbone.network.named_modules() if name]
    if layer not in names:
        close = get_close_matches(layer, names, n=SHOWN_NAMES) or [name for name in names if "." not in name]
        raise BackboneError(
            f"{backbone.spec} has no module '{layer}'. Names like it: {', '.join(close[:SHOWN_NAMES])}.\n"
            "See named_modules() of its network."
        )
    if pool is Pool.MODEL:
        raise BackboneError(f"Pooling 'model' is of the last layer; with --layer {layer} choose gap, cls or flatten.")
    if pool is Pool.FLATTEN and backbone.kind == "text":
        raise BackboneError(f"Texts differ in length, so --layer {layer} cannot be flattened. Choose mean or cls.")
    if not hasattr(backbone.forward, "body"):
        raise BackboneError(f"{backbone.spec} was built by hand and has no layers to choose from; see Forward.")
    chosen = pool or (Pool.MEAN if backbone.kind == "text" else Pool.GAP)
    forward = LayerForward(layer, chosen, cast(Forward, backbone.forward), backbone.layout, backbone.spec)
    return _sized(replace(
        backbone, forward=forward, pooling=chosen, options=backbone.options | {"layer": layer},
        arguments=backbone.arguments | {"pool": str(chosen), "layer": layer},
    ))  # fmt: skip


def _sized(backbone: Backbone) -> Backbone:
    """With the length of its features, found out on the smallest input."""
    device = next(iter(backbone.network.parameters())).device
    if backbone.kind == "text":
        batch = {name: tensor.to(device) for name, tensor in backbone.collate(["a"]).items()}
    else:
        assert backbone.image is not None
        batch = {"pixels": torch.zeros(1, 3, *backbone.image.size, device=device)}
    return replace(backbone, dim=int(backbone.encode(batch).shape[1]))


@contextmanager
def _captured(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What modules give during a pass, by their names; of a module that runs twice, the last."""
    seen: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: Any, out: Any) -> None:
            # A copy: a module behind it may work in place (ReLU, a residual sum) before this is pooled.
            seen[name] = _copied(out)

        return hook

    handles = [network.get_submodule(name).register_forward_hook(keep(name)) for name in dict.fromkeys(layers)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _copied(out: Any) -> Any:
    if isinstance(out, Tensor):
        return out.clone()
    if isinstance(out, (tuple, list)) and out and isinstance(out[0], Tensor):
        return type(out)((out[0].clone(), *out[1:])) if type(out) in (tuple, list) else out
    return out


def _about(out: Any) -> str:
    return f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
