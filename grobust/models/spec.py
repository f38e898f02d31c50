"""Spec strings: ``source:name[@weights]``."""

from dataclasses import dataclass
from difflib import get_close_matches

from grobust.errors import BackboneError

__all__ = ["RANDOM", "SOURCES", "BackboneSpec", "parse_spec"]

SOURCES = {
    "timm": "timm:convnextv2_nano.fcmae_ft_in1k",
    "transformers": "transformers:google/bert_uncased_L-4_H-512_A-8, or transformers:FOLDER",
    "open_clip": "open_clip:ViT-B-32@laion2b_s34b_b79k",
    "torchvision": "torchvision:resnet50@IMAGENET1K_V1",
    "packaged": "packaged:efficientnet_lite0, packaged:all-MiniLM-L6-v2",
    "run": "run:FOLDER@EPOCH, a network that grobust finetune trained",
}
# Weights drawn at initialization from a fixed seed: for tests and for baselines without pretraining.
RANDOM = "random"


@dataclass(frozen=True)
class BackboneSpec:
    """A parsed spec string."""

    source: str
    name: str
    weights: str | None = None

    def __str__(self) -> str:
        return f"{self.source}:{self.name}" + (f"@{self.weights}" if self.weights else "")

    @property
    def random(self) -> bool:
        """Whether no pretrained weights are asked for."""
        return self.weights == RANDOM


def parse_spec(text: str) -> BackboneSpec:
    """Split ``source:name[@weights]``.

    Raises
    ------
    BackboneError
        If it has another form or an unknown source; the known ones are listed with an example each.
    """
    source, colon, rest = text.partition(":")
    name, at, weights = rest.rpartition("@")
    # A folder's name may hold an @; weights never hold a slash.
    if not at or "/" in weights:
        name, at, weights = rest, "", ""
    if source not in SOURCES or not colon or not name or (at and not weights):
        close = get_close_matches(source, SOURCES, n=1)
        hint = f" Did you mean '{close[0]}'?" if close and close[0] != source else ""
        known = "\n".join(f"  {example}" for example in SOURCES.values())
        raise BackboneError(f"'{text}' is no backbone.{hint} Expected source:name[@weights], such as\n{known}")
    return BackboneSpec(source, name, weights or None)
