"""Views of an image: what of it goes through the network, and features averaged over several crops."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from grobust.errors import BackboneError
from grobust.models.backbone import Backbone, Forward
from grobust.models.crops import CENTRE, CORNERS, CropsCollate, with_corners

__all__ = ["Look", "View", "ViewForward", "collate_of", "look_of", "looks_at", "mean_of", "with_view"]


class View(StrEnum):
    """What of an image goes through the network.

    ``mirror`` is stored by itself, a mean of stores is easily made. The features of ``five-crop`` are the mean over the
    four corners and the centre of the resized image, those of ``ten-crop`` over these and their mirror images.
    """

    PLAIN = "plain"
    MIRROR = "mirror"
    FIVE_CROP = "five-crop"
    TEN_CROP = "ten-crop"


class Look(NamedTuple):
    """One pass: a tensor of the batch, as it is or mirrored."""

    crop: str
    mirrored: bool


_FIVE = tuple(Look(crop, False) for crop in (*CORNERS, CENTRE))
LOOKS = {
    View.PLAIN: (Look(CENTRE, False),),
    View.MIRROR: (Look(CENTRE, True),),
    View.FIVE_CROP: _FIVE,
    View.TEN_CROP: (*_FIVE, *(look._replace(mirrored=True) for look in _FIVE)),
}
ABOUT = {
    View.FIVE_CROP: "mean of the features of the four corners and the centre of the resized image",
    View.TEN_CROP: "mean of the features of the four corners and the centre of the resized image, and their mirror "
    "images",
}


@dataclass(frozen=True)
class ViewForward:
    """Features of a view of an image, after its preprocessing; the mean of the passes if there are several."""

    run: Forward
    view: View

    def __call__(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return mean_of([self.run(network, look_of(batch, look)) for look in LOOKS[self.view]])

    def body(self, network: nn.Module, batch: dict[str, Tensor]) -> Any:
        """See `Forward`; one for each pass."""
        return [self.run.body(network, look_of(batch, look)) for look in LOOKS[self.view]]

    def pooled(self, network: nn.Module, batch: dict[str, Tensor], body: Any) -> Tensor:
        """See `Forward`."""
        looks = LOOKS[self.view]
        return mean_of([self.run.pooled(network, look_of(batch, k), b) for k, b in zip(looks, body, strict=True)])


def looks_at(backbone: Backbone) -> tuple[Look, ...]:
    """The passes of a backbone, in their order."""
    forward = backbone.forward
    return LOOKS[forward.view if isinstance(forward, ViewForward) else View.PLAIN]


def look_of(batch: dict[str, Tensor], look: Look) -> dict[str, Tensor]:
    """A batch of what is looked at, under the name that networks know."""
    if look == LOOKS[View.PLAIN][0]:
        return batch
    pixels = batch[look.crop]
    if look.mirrored:
        # In the same memory layout.
        last = pixels.is_contiguous(memory_format=torch.channels_last)
        pixels = pixels.flip(3).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    return batch | {CENTRE: pixels}


def mean_of(passes: Sequence[Tensor]) -> Tensor:
    """Mean (b, d) of the features of several passes, summed up in float32 in their order; of one, these."""
    if len(passes) == 1:
        return passes[0]
    total = passes[0].float()
    for features in passes[1:]:
        total = total + features.float()
    return total / len(passes)


def with_view(backbones: Sequence[Backbone], views: Sequence[View]) -> Iterator[Backbone]:
    """Each of the outputs of a network, of its view.

    Raises
    ------
    BackboneError
        If it takes no images, or its preprocessing has no crop for a view of several.
    """
    corners: CropsCollate | None = None
    for backbone, view in zip(backbones, views, strict=True):
        if view is View.PLAIN:
            yield backbone
            continue
        if backbone.kind != "image":
            what = "mirror image" if view is View.MIRROR else "crops"
            raise BackboneError(f"{backbone.spec} takes {backbone.kind}s, which have no {what}.")
        options = backbone.options | {"view": str(view)}
        if view in ABOUT:
            corners = corners or with_corners(backbone.spec, backbone.collate)
            backbone = replace(backbone, collate=corners)
            options["crops"] = ABOUT[view]
        yield replace(backbone, forward=ViewForward(cast(Forward, backbone.forward), view), options=options)


def collate_of(backbones: Sequence[Backbone]) -> Any:
    """What makes the batches of several outputs: with corners if one of them looks at corners."""
    return next((b.collate for b in backbones if isinstance(b.collate, CropsCollate)), backbones[0].collate)
