"""Pooling: which vector of a network is the feature."""

from collections.abc import Iterable

from torch import Tensor

from grobust.errors import BackboneError
from grobust.models.backbone import Pool

__all__ = ["check_pool", "mean_over_tokens", "pool_map", "pool_tokens"]


def check_pool(spec: object, pool: Pool | None, possible: Iterable[Pool], default: Pool = Pool.MODEL) -> Pool:
    """The pool asked for, or the default.

    Raises
    ------
    BackboneError
        If this network does not have it.
    """
    chosen = pool or default
    if chosen not in possible:
        raise BackboneError(f"{spec} has no pooling '{chosen}'. Possible: {', '.join(possible)}.")
    return chosen


def pool_map(features: Tensor, pool: Pool, *, channels_last: bool = False) -> Tensor:
    """Pool a feature map (b, c, h, w), or (b, h, w, c) if `channels_last`: ``gap`` or ``flatten``."""
    if features.ndim == 4 and channels_last:
        features = features.permute(0, 3, 1, 2)
    if pool is Pool.FLATTEN:
        return features.flatten(1)
    return features.mean(dim=(2, 3))


def pool_tokens(tokens: Tensor, pool: Pool, *, prefix: int) -> Tensor:
    """Pool image tokens (b, t, c), of which the first `prefix` are no patches: ``gap``, ``cls`` or ``flatten``."""
    if pool is Pool.CLS:
        return tokens[:, 0]
    if pool is Pool.GAP:
        return tokens[:, prefix:].mean(dim=1)
    return tokens.flatten(1)


def mean_over_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean of (b, t, c) over the tokens with mask 1; padding has no part in it."""
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    mean: Tensor = (hidden * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
    return mean
