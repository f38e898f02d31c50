"""Backbones that `grobust finetune` trained: the run's own backbone with the weights of one of its epochs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from grobust.errors import BackboneError, RunError
from grobust.models.backbone import Backbone, Pool
from grobust.models.run_files import BODY, RunFiles
from grobust.models.spec import BackboneSpec
from grobust.models.weights import weights_digest

__all__ = ["load_run"]

LAST = "last"


def load_run(
    spec: BackboneSpec,
    *,
    pool: Pool | None,
    image_size: int | None,
    max_tokens: int | None,
    load: Callable[..., Backbone],
) -> Backbone:
    """``run:FOLDER@EPOCH`` (or ``@last``): the finetuned network without its classifier.

    Preprocessing, pooling and input size are the run's unless given.

    Parameters
    ----------
    load : `grobust.models.backbones.load_backbone`, for the backbone that the run began with

    Raises
    ------
    BackboneError
        If there is no such run or epoch, its network is damaged, or it does not fit the backbone that it began with.
    """
    files = RunFiles(Path(spec.name))
    try:
        asked = files.read_description()["backbone"]["arguments"]
        epoch = _epoch(files, spec.weights)
        about, tensors = files.read_network(epoch)
    except (RunError, KeyError, TypeError) as error:
        raise BackboneError(f"Cannot load {spec}. {error}") from error
    if not asked:
        raise BackboneError(f"Cannot load {spec}: the run was given a network of the caller's own, not one by name.")
    chosen = pool or (None if asked["pool"] is None else Pool(asked["pool"]))
    base = load(
        asked["spec"],
        pool=chosen,
        image_size=image_size or asked["image_size"],
        max_tokens=max_tokens or asked["max_tokens"],
        layer=asked.get("layer"),
    )
    _overwrite(spec, base.network, tensors)
    return replace(
        base,
        spec=f"{spec.source}:{spec.name}@{epoch}",
        digest=weights_digest(base.network),
        options=base.options | {"run": str(about["run"]), "epoch": str(epoch)},
    )


def _epoch(files: RunFiles, text: str | None) -> int:
    if text is None or text == LAST:
        kept = files.epochs()
        if not kept:
            raise RunError(f"{files.root} has no network yet.")
        return kept[-1]
    if not text.isdecimal():
        raise RunError(f"expected run:FOLDER@EPOCH with a number or '{LAST}', got '@{text}'.")
    return int(text)


def _overwrite(spec: BackboneSpec, network: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Put the run's weights in, each in the memory layout that the network keeps it in."""
    body: dict[str, Any] = {name.removeprefix(BODY): t for name, t in tensors.items() if name.startswith(BODY)}
    try:
        network.load_state_dict(body)
    except RuntimeError as error:
        raise BackboneError(
            f"Cannot load {spec}: its weights do not fit the network that the run began with. "
            f"Were libraries changed meanwhile?\n{str(error).splitlines()[-1].strip()}"
        ) from error
