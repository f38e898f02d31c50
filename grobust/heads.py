"""Trained heads in one safetensors file, with what made them.

The file holds the tensors ``weight`` (H, k, d) and ``bias`` (H, k) and one metadata entry, ``grobust_heads``, whose
JSON text says the rest. A digest over text and tensors makes a damaged byte an error, never a number. Heads are on raw
features; the standardization of training is folded in.
"""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from grobust import __version__
from grobust.arrays import to_numpy
from grobust.errors import ConfigError, DataError, ShapeError
from grobust.features._schema import Provenance
from grobust.probe import Probe
from grobust.typing import PathLike

__all__ = ["HEADS_VERSION", "HeadInfo", "Heads", "load_heads", "save_heads"]

HEADS_VERSION = 1
KEY = "grobust_heads"
DTYPES = ("float32", "float64")
# What decides a feature, beside the dimension and the options; the data set may differ, and so may rounding.
DECISIVE = ("weights_digest", "preprocessing", "pooling")
# Recorded by extraction for exact repeats; it does not change what a feature means.
HARMLESS_OPTIONS = ("options.batch_size",)


@dataclass(frozen=True)
class HeadInfo:
    """What one head is; fields that do not apply are None.

    Parameters
    ----------
    name : unique within a file
    method, by, ratio, seed : of the balancing
    l2, l1 : strengths of the penalties, or weight decay for a head trained on minibatches
    status : how the fit ended
    objective : value reached
    """

    name: str
    method: str | None = None
    by: str | None = None
    ratio: float | None = None
    seed: int | None = None
    l2: float | None = None
    l1: float | None = None
    status: str | None = None
    objective: float | None = None


@dataclass(frozen=True, eq=False)
class Heads:
    """H heads on the same features.

    Parameters
    ----------
    weight : (H, k, d) float32 or float64
    bias : (H, k) of the same dtype
    infos : H descriptions
    class_names : k names
    attribute_names : names of the attributes of the training data; empty where unknown
    provenance : of the features that they were trained on; None where unknown
    version : of the grobust that made them
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    infos: tuple[HeadInfo, ...]
    class_names: tuple[str, ...]
    attribute_names: tuple[str, ...] = ()
    provenance: Provenance | None = None
    version: str = __version__

    def __post_init__(self) -> None:
        expected = (len(self.infos), len(self.class_names))
        if self.weight.ndim != 3 or self.weight.shape[:2] != expected or self.bias.shape != expected:
            raise ShapeError(
                f"weight {self.weight.shape} and bias {self.bias.shape} do not fit {expected[0]} description(s) and "
                f"{expected[1]} classes; expected (H, k, d) and (H, k)."
            )
        if str(self.weight.dtype) not in DTYPES or self.weight.dtype != self.bias.dtype:
            raise ShapeError(
                f"weight is {self.weight.dtype}, bias {self.bias.dtype}; expected both float32 or float64."
            )
        names = [info.name for info in self.infos]
        if len(set(names)) != len(names):
            raise ConfigError(f"Heads need distinct names, got {', '.join(names)}.")

    @classmethod
    def of_probes(
        cls,
        probes: Sequence[Probe],
        infos: Sequence[HeadInfo],
        *,
        class_names: Sequence[str],
        attribute_names: Sequence[str] = (),
        provenance: Provenance | None = None,
        dtype: str = "float64",
    ) -> "Heads":
        """Heads of probes of equal shape, on any device.

        Raises
        ------
        ConfigError
            If there are no probes, or the dtype is neither float32 nor float64.
        ShapeError
            If their shapes differ, or do not fit the names.
        """
        if not probes or dtype not in DTYPES:
            raise ConfigError(f"Expected at least one head and a dtype of {', '.join(DTYPES)}; got {dtype!r}.")
        shapes = {tuple(probe.weight.shape) for probe in probes}
        if len(shapes) > 1:
            raise ShapeError(f"Heads of one file need equal shapes, got {sorted(shapes)}.")
        return cls(
            weight=np.stack([to_numpy(probe.weight).astype(dtype) for probe in probes]),
            bias=np.stack([to_numpy(probe.bias).astype(dtype) for probe in probes]),
            infos=tuple(infos), class_names=tuple(class_names), attribute_names=tuple(attribute_names),
            provenance=provenance,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.infos)

    @property
    def dim(self) -> int:
        """d, the number of features."""
        return int(self.weight.shape[2])

    def probe(self, index: int) -> Probe:
        """One head, in float64."""
        return Probe(self.weight[index].astype(np.float64), self.bias[index].astype(np.float64))

    def index(self, head: str) -> int:
        """Place of a head by its name or by its number from 0.

        Raises
        ------
        ConfigError
            If there is none; the names are listed.
        """
        names = [info.name for info in self.infos]
        if head in names:
            return names.index(head)
        if head.isdecimal() and int(head) < len(names):
            return int(head)
        raise ConfigError(f"There is no head {head!r}. Give a number from 0 to {len(names) - 1}, or one of: {names}.")

    def difference(self, provenance: Provenance, dim: int) -> dict[str, tuple[str, str]]:
        """Settings in which features (dimension `dim`) are of another kind than those that the heads were trained on:
        name → (the heads', the features'); empty when the heads fit.

        Compared are the dimension, the digest of the backbone's weights, preprocessing, pooling and options. The data
        set, the stored dtype and the precision of the backbone may differ.
        """
        different = {} if dim == self.dim else {"dim": (str(self.dim), str(dim))}
        if self.provenance is None:
            return different
        found = self.provenance.difference(provenance)
        decisive = {
            name: pair
            for name, pair in found.items()
            if name in DECISIVE or (name.startswith("options.") and name not in HARMLESS_OPTIONS)
        }
        if decisive and "backbone" in found:
            different["backbone"] = found["backbone"]
        return different | decisive


def save_heads(heads: Heads, path: PathLike) -> Path:
    """Write heads to a safetensors file: under a temporary name, flushed to disk, then renamed.

    The same heads give the same bytes.

    Raises
    ------
    OSError
        If it cannot be written; a file that was there before is left as it was.
    """
    target = Path(path)
    tensors = {"weight": np.ascontiguousarray(heads.weight), "bias": np.ascontiguousarray(heads.bias)}
    about = {
        "format_version": HEADS_VERSION,
        "grobust": heads.version,
        "class_names": list(heads.class_names),
        "attribute_names": list(heads.attribute_names),
        "provenance": None if heads.provenance is None else asdict(heads.provenance),
        "heads": [{key: _finite(value) for key, value in asdict(info).items()} for info in heads.infos],
    }
    about["digest"] = _digest(about, tensors)
    content = save(tensors, metadata={KEY: _canonical(about)})
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def load_heads(path: PathLike) -> Heads:
    """Read heads that `save_heads` wrote.

    Raises
    ------
    DataError
        If the file is missing, is something else, of an unknown version, or damaged; the message says which.
    """
    source = Path(path)
    if not source.is_file():
        raise DataError(f"{source} is not a file. Expected heads that `grobust probe --save` wrote.")
    try:
        with safe_open(source, framework="numpy") as file:
            text = (file.metadata() or {}).get(KEY)
            if text is None:
                raise DataError(
                    f"{source} is a safetensors file, but not one of heads: its metadata have no '{KEY}'.\n"
                    "Expected a file that `grobust probe --save` wrote."
                )
            about = _about(source, text)
            missing = sorted({"weight", "bias"} - set(file.keys()))
            if missing:
                raise DataError(f"{source} is damaged: tensor(s) {', '.join(missing)} are missing.")
            tensors = {name: file.get_tensor(name) for name in ("weight", "bias")}
    except SafetensorError as error:
        raise DataError(
            f"{source} is no safetensors file, or was cut short ({error}).\n"
            "Expected heads that `grobust probe --save` wrote."
        ) from error
    digest = about.pop("digest", None)
    if digest != _digest(about, tensors):
        raise DataError(f"{source} is damaged: its content differs from its digest. Fit and save the heads again.")
    return _heads(source, about, tensors)


def _about(source: Path, text: str) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{source} is damaged: metadata '{KEY}' is not JSON ({error.msg}).") from error
    version = about.get("format_version") if isinstance(about, dict) else None
    if version != HEADS_VERSION:
        raise DataError(
            f"{source} has heads of format version {version!r}; grobust {__version__} reads version {HEADS_VERSION}.\n"
            "Use the grobust that wrote it, or fit and save the heads again."
        )
    return dict(about)


def _heads(source: Path, about: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Heads:
    known = {f.name for f in fields(HeadInfo)}
    try:
        given = about["provenance"]
        return Heads(
            weight=tensors["weight"], bias=tensors["bias"],
            infos=tuple(HeadInfo(**{k: v for k, v in info.items() if k in known}) for info in about["heads"]),
            class_names=tuple(about["class_names"]), attribute_names=tuple(about["attribute_names"]),
            provenance=None if given is None else Provenance(**given), version=about["grobust"],
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, ShapeError, ConfigError) as error:
        raise DataError(f"{source} is damaged: its description does not fit ({error}).") from error


def _digest(about: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> str:
    state = xxhash.xxh3_64(_canonical({key: value for key, value in about.items() if key != "digest"}).encode())
    for name in sorted(tensors):
        state.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
        state.update(np.ascontiguousarray(tensors[name]).data)
    return str(state.hexdigest())


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
