"""Digest of a network's weights, random weights that repeat, and errors of libraries in words."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import xxhash
from torch import nn
from transformers.utils import logging as transformers_logging

from grobust.errors import BackboneError

__all__ = ["fixed_initialization", "loading", "offline", "weights_digest"]

INITIALIZATION_SEED = 0


def weights_digest(network: nn.Module) -> str:
    """xxh3-128 over name, dtype, shape and bytes of every tensor, by name; independent of device and file."""
    state = xxhash.xxh3_128()
    for name, tensor in sorted(network.state_dict().items()):
        host = tensor.detach().cpu().contiguous()
        state.update(f"{name} {host.dtype} {tuple(host.shape)}".encode())
        state.update(host.reshape(-1).view(torch.uint8).numpy().data if host.numel() else b"")
    return str(state.hexdigest())


@contextmanager
def fixed_initialization() -> Iterator[None]:
    """Build a network with the same random weights each time, leaving the caller's random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(INITIALIZATION_SEED)
        yield


@contextmanager
def loading(spec: object, looked_for: str) -> Iterator[None]:
    """Turn whatever a library raises while loading into a `BackboneError` that says what was looked for and where.

    The libraries raise errors of many unrelated types for a missing name, file or network, some of their own, so every
    `Exception` is taken; its text stays in the message and the original in the chain.
    """
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    except BackboneError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        state = "Offline mode is on (HF_HUB_OFFLINE). " if offline() else ""
        raise BackboneError(
            f"Cannot load {spec}: {reason[0] if reason else type(error).__name__}\n"
            f"Looked for {looked_for}.\n{state}Check the name, connect once so that the library fills its cache, "
            "or use @random for untrained weights."
        ) from error
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def offline() -> bool:
    """Whether the user has switched downloads off, as huggingface_hub reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
