"""Small data sets, stores and backbones that several tests use."""

import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from grobust.data.synthetic import gaussian_groups
from grobust.data.tables import Texts
from grobust.errors import DataError
from grobust.features._schema import Provenance
from grobust.features.parts import PartsWriter, StorePlan
from grobust.groups import Groups
from grobust.models.backbone import Backbone, Pool


def make_plan(n: int = 30, dim: int = 5, *, dtype: str = "float32", **changes: Any) -> StorePlan:
    """A plan of n rows in six groups, one of them empty."""
    rng = np.random.default_rng(3)
    ids = rng.integers(5, size=n)
    settings = {
        "backbone": "timm:x@random", "weights_digest": "abc", "preprocessing": "resize=256 crop=224",
        "pooling": "model", "precision": "float32", "dtype": dtype, "dataset": "toy", "dataset_digest": "d0",
        "versions": {"torch": "2"},
    }  # fmt: skip
    return StorePlan(
        provenance=Provenance(**{**settings, **changes}),
        groups=Groups.from_arrays(ids // 2, ids % 2, class_names=("a", "b", "c"), attribute_names=("p", "q")),
        split=rng.integers(3, size=n).astype(np.int8),
        sample_ids=tuple(f"item/{i}é" for i in range(n)),
        dim=dim,
    )


def features_of(plan: StorePlan) -> np.ndarray:
    return np.random.default_rng(4).standard_normal((len(plan.groups), plan.dim)).astype(np.float32)


def write_store_of(path: Path, plan: StorePlan, features: np.ndarray | None = None) -> Path:
    """A finished store, written in two parts."""
    features = features_of(plan) if features is None else features
    rows = np.random.default_rng(5).permutation(len(plan.groups))
    with PartsWriter(path, plan) as writer:
        for part in (p for p in np.array_split(rows, 2) if p.size):
            writer.write(part, features[part])
        return writer.finish()


def gaussian_store(path: Path, shares: tuple[float, float, float] = (0.6, 0.2, 0.2)) -> Path:
    """A finished store of two classes and two attributes with few rows in two of the four groups."""
    data = gaussian_groups((500, 40, 30, 160), 8, seed=3, core=1.5)
    n = len(data.groups)
    split = np.random.default_rng(0).choice(3, size=n, p=shares).astype(np.int8)
    provenance = make_plan().provenance
    plan = StorePlan(provenance, data.groups, split, tuple(f"r{i}" for i in range(n)), 8)
    with PartsWriter(path, plan) as writer:
        writer.write(np.arange(n), data.features)
        return writer.finish()


@dataclass(frozen=True)
class LengthCollate:
    """Texts → their character codes, padded with zeros."""

    def __call__(self, items: Any) -> dict[str, Tensor]:
        longest = max(len(t) for t in items)
        return {"codes": torch.tensor([[ord(c) for c in t.ljust(longest, "\0")] for t in items], dtype=torch.float32)}


@dataclass(frozen=True)
class CodesForward:
    """Linear layer on three moments of the codes; `limit` rows at most, as a device with little memory would."""

    limit: int = 10**9
    calls: list[int] = field(default_factory=list)
    seconds: float = 0.0

    def __call__(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        codes = batch["codes"]
        self.calls.append(len(codes))
        time.sleep(self.seconds)
        if len(codes) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return network(torch.stack([codes.sum(1), (codes > 0).sum(1).float(), codes.amax(1)], dim=1) / 100)


def text_backbone(forward: CodesForward | None = None) -> Backbone:
    """A deterministic little text encoder, d = 4."""
    network = nn.Linear(3, 4)
    with torch.no_grad():
        network.weight.copy_(torch.arange(12).reshape(4, 3) / 10)
        network.bias.zero_()
    return Backbone(
        spec="timm:toy@random", kind="text", dim=4, network=network, collate=LengthCollate(),
        forward=forward or CodesForward(), pooling=Pool.MODEL, preprocessing="codes", digest="toy",
    )  # fmt: skip


@dataclass(frozen=True)
class TwoSteps(CodesForward):
    """The same, as one of two outputs of a pass: its features, or their squares and the first of them."""

    squares: bool = False

    def __call__(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return self.pooled(network, batch, self.body(network, batch))

    def body(self, network: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return super().__call__(network, batch)

    def pooled(self, network: nn.Module, batch: dict[str, Tensor], body: Tensor) -> Tensor:
        return torch.cat([body**2, body[:, :1]], dim=1) if self.squares else body


def text_outputs(seconds: float = 0.0) -> tuple[Backbone, Backbone]:
    """Two outputs of one little network, d = 4 and 5."""
    one = text_backbone(TwoSteps(seconds=seconds))
    return one, replace(one, forward=TwoSteps(seconds=seconds, squares=True), dim=5, pooling=Pool.GAP)


class SomeUnreadable(Texts):
    """Two texts cannot be read."""

    def __getitem__(self, index: int) -> str:
        if index in (3, 11):
            raise DataError(f"text {index} is corrupt")
        return self.texts[index]


class Deadly(Texts):
    """Reading one of the texts ends the process."""

    def __getitem__(self, index: int) -> str:
        if index == 3:
            os._exit(9)
        return self.texts[index]


def toy_texts(n: int = 50) -> Texts:
    rng = np.random.default_rng(0)
    texts = tuple("".join(rng.choice(list("abcdef "), size=rng.integers(1, 30))) + "x" for _ in range(n))
    return Texts(
        name="toy",
        groups=Groups.from_arrays(rng.integers(2, size=n), rng.integers(2, size=n)),
        split=rng.integers(3, size=n).astype(np.int8),
        sample_ids=tuple(f"t{i}" for i in range(n)),
        texts=texts,
    )
