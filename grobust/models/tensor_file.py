"""Tensors and a JSON description in one safetensors file: whole or absent, and every byte under a digest.

A file is written under a temporary name, flushed to disk and renamed. Nothing in it is code: reading takes tensors and
JSON text, and no pickle.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from grobust.errors import RunCorruptError, RunError

__all__ = ["read_tensors", "write_durably", "write_tensors"]

KEY = "grobust"


def write_tensors(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors, from any device and in any memory layout, with what they are.

    Raises
    ------
    RunError
        If they cannot be written; what stood under this name is untouched.
    """
    host = _on_host(tensors)
    text = json.dumps({"about": about, "digest": _digest(about, host)}, sort_keys=True, allow_nan=False)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(host, temporary, metadata={KEY: text})
        _rename(temporary, path)
    except (OSError, SafetensorError) as error:
        raise _unwritten(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors, on the host, of a file that `write_tensors` wrote.

    Raises
    ------
    RunCorruptError
        If it was cut short, is something else, or its content does not fit its digest.
    """
    try:
        with safe_open(path, framework="pt") as file:
            stored = json.loads((file.metadata() or {})[KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about, digest = stored["about"], stored["digest"]
    except FileNotFoundError:
        raise RunError(f"{path} does not exist.") from None
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RunCorruptError(f"{path} is no checkpoint of grobust, or was cut short ({error}).") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}.") from error
    if digest != _digest(about, tensors):
        raise RunCorruptError(f"{path} is damaged: its content differs from its digest.")
    return about, tensors


def write_durably(path: Path, text: str) -> None:
    """Replace a text file: under a temporary name, flushed to disk, then renamed.

    Raises
    ------
    RunError
        If it cannot be written; what stood under this name is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        _rename(temporary, path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _rename(temporary: Path, path: Path) -> None:
    """Flush a finished file, give it its name, and flush the folder that holds the name."""
    for target in (temporary, None):
        if target is None:
            temporary.replace(path)
        descriptor = os.open(target or path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _unwritten(path: Path, error: Exception) -> RunError:
    return RunError(
        f"{path} cannot be written: {error}.\n"
        "What was written before is whole. Make room (or mend the disk) and run the same command again to continue."
    )


def _on_host(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous host tensors, none of which shares memory with another (tied weights), as the format wants them."""
    host: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        if own.untyped_storage().data_ptr() in seen or own.untyped_storage().nbytes() != own.nbytes:
            own = own.clone()
        seen.add(own.untyped_storage().data_ptr())
        host[name] = own
    return host


def _digest(about: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    state = xxhash.xxh3_128(json.dumps(about, sort_keys=True, allow_nan=False).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return str(state.hexdigest())
