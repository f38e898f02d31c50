"""Tiny data and networks that the tests of finetuning share."""

from functools import lru_cache
from typing import Any

import numpy as np

from grobust.data.dataset import GroupedDataset
from grobust.data.digits import load_digits
from grobust.data.tables import ImagePixels, stratified_subset
from grobust.finetune.settings import FinetuneSettings
from grobust.groups import Groups
from grobust.models.backbone import Backbone
from grobust.models.backbones import load_backbone

SPEC = "timm:test_convnext@random"


@lru_cache(maxsize=1)
def digits(rows: int = 160) -> GroupedDataset:
    return stratified_subset(load_digits("celeba"), rows, seed=1)


def small_backbone(spec: str = SPEC) -> Backbone:
    return load_backbone(spec, image_size=32)


def settings(**changes: Any) -> FinetuneSettings:
    return FinetuneSettings(**{"epochs": 2, "batch_size": 16, "lr": 1e-3, "eval_batch_size": 32, **changes})


def two_greys(n: int = 90) -> ImagePixels:
    """Dark and bright squares: any network learns which is which; three splits in turn."""
    rng = np.random.default_rng(0)
    labels, attributes = rng.integers(2, size=n), rng.integers(2, size=n)
    pixels = (60 + 130 * labels)[:, None, None] + rng.integers(-20, 20, size=(n, 28, 28))
    return ImagePixels(
        name="greys", groups=Groups.from_arrays(labels, attributes), split=(np.arange(n) % 3).astype(np.int8),
        sample_ids=tuple(f"grey-{i}" for i in range(n)), pixels=pixels.astype(np.uint8),
        tints=((255, 255, 255), (255, 200, 255)),
    )  # fmt: skip
