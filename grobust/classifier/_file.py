"""A fitted classifier as a safetensors file: two tensors, and everything else as JSON in the header."""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from sklearn.utils.validation import check_is_fitted

from grobust.classifier._inputs import seed_of
from grobust.errors import DataError
from grobust.probe import FitStatus, Probe, ProbeFit
from grobust.typing import PathLike

__all__ = ["Content", "known_settings", "read", "write"]

FORMAT, VERSION = "grobust-classifier", 1
CERTIFICATE = ("objective", "gap", "decrement", "grad_norm", "relative_gradient")


@dataclass(frozen=True, eq=False)
class Content:
    """What a file holds."""

    settings: dict[str, Any]
    coef: NDArray[Any]
    intercept: NDArray[Any]
    classes: NDArray[Any]
    feature_names: list[str] | None
    fit: ProbeFit
    notes: tuple[str, ...]


def write(model: Any, path: PathLike) -> None:
    """Write a fitted `GroupRobustClassifier`; the file is there whole or not at all."""
    check_is_fitted(model)
    fit: ProbeFit = model.fit_
    settings = model.get_params(deep=False)
    if not isinstance(settings["random_state"], int):
        settings["random_state"] = seed_of(settings["random_state"])
    names = getattr(model, "feature_names_in_", None)
    content = {
        "settings": settings,
        "classes": _classes_as_json(model.classes_),
        "feature_names": None if names is None else names.tolist(),
        "fit": {
            "name": fit.name, "l2": fit.l2, "l1": fit.l1, "status": fit.status.value, "message": fit.message,
            "n_iter": fit.n_iter, **{key: _finite_or_none(getattr(fit, key)) for key in CERTIFICATE},
        },
        "notes": list(model.notes_),
    }  # fmt: skip
    try:
        header = json.dumps(content, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise DataError(f"The classifier cannot be saved: a setting is not JSON ({error}).") from error
    tensors = {"coef": np.ascontiguousarray(model.coef_), "intercept": np.ascontiguousarray(model.intercept_)}
    target = Path(path)
    with NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
        try:
            file.write(save(tensors, metadata={"format": FORMAT, "version": str(VERSION), "content": header}))
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(target)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def read(path: PathLike) -> Content:
    """Read and check a file.

    Raises
    ------
    DataError
        If it is missing, damaged, or not a classifier of this format and version.
    """
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise DataError(f"No file at {os.fspath(path)}. Expected one that GroupRobustClassifier.save wrote.") from None
    except (OSError, SafetensorError) as error:
        raise DataError(f"{os.fspath(path)} is not a whole safetensors file: {error}.") from error
    found, version = metadata.get("format"), metadata.get("version")
    if found != FORMAT or version != str(VERSION):
        raise DataError(
            f"{os.fspath(path)} has format {found!r}, version {version!r}; expected {FORMAT!r}, version '{VERSION}', "
            "as GroupRobustClassifier.save writes it."
        )
    try:
        return _content(tensors, json.loads(metadata["content"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{os.fspath(path)} is damaged: {type(error).__name__}: {error}.") from error


def known_settings(content: Content, names: list[str], path: PathLike) -> dict[str, Any]:
    """The settings of a file, all of which this version must know."""
    unknown = sorted(set(content.settings) - set(names))
    if unknown:
        raise DataError(f"{os.fspath(path)} has settings that this version does not know: {', '.join(unknown)}.")
    return content.settings


def _content(tensors: dict[str, NDArray[Any]], content: dict[str, Any]) -> Content:
    coef, intercept, classes = tensors["coef"], tensors["intercept"], _classes_of_json(content["classes"])
    rows = 1 if classes.size == 2 else classes.size
    if coef.ndim != 2 or coef.shape[0] != rows or intercept.shape != (rows,) or classes.size < 2:
        raise ValueError(f"coef {coef.shape} and intercept {intercept.shape} do not fit {classes.size} classes")
    if coef.dtype != np.float64 or intercept.dtype != np.float64:
        raise ValueError(f"coef and intercept are {coef.dtype} and {intercept.dtype}, expected float64")
    if not (np.isfinite(coef).all() and np.isfinite(intercept).all()):
        raise ValueError("a weight is not finite")
    names = content["feature_names"]
    if names is not None and len(names) != coef.shape[1]:
        raise ValueError(f"{len(names)} feature names for {coef.shape[1]} features")
    both = (coef, intercept) if rows > 1 else (np.concatenate([-coef, coef]) / 2, np.array([-1, 1]) * intercept / 2)
    stated = content["fit"]
    fit = ProbeFit(
        probe=Probe(*both), name=str(stated["name"]), l2=float(stated["l2"]), l1=float(stated["l1"]),
        status=FitStatus(stated["status"]), message=str(stated["message"]), n_iter=int(stated["n_iter"]),
        **{key: math.inf if stated[key] is None else float(stated[key]) for key in CERTIFICATE},
    )  # fmt: skip
    return Content(dict(content["settings"]), coef, intercept, classes, names, fit, tuple(content["notes"]))


def _classes_as_json(classes: NDArray[Any]) -> dict[str, Any]:
    values = classes.tolist()
    if classes.dtype.kind not in "biufUO" or not all(isinstance(value, str | int | float) for value in values):
        raise DataError(f"Classes {values} cannot be saved: expected numbers or strings.")
    return {"dtype": "O" if classes.dtype.kind == "O" else classes.dtype.str, "values": values}


def _classes_of_json(content: dict[str, Any]) -> NDArray[Any]:
    dtype = np.dtype(content["dtype"])
    if dtype.kind not in "biufUO":
        raise ValueError(f"classes have dtype {dtype}")
    return np.array(content["values"], dtype=dtype)


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r}")
