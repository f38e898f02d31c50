"""Batches through the network: copies to its device and back, precision, compiling, and batches cut to fit memory."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from grobust.errors import BackboneError
from grobust.features._batches import Batch
from grobust.features._plan import ExtractSettings
from grobust.features.profile import StageClock
from grobust.models.backbone import Backbone
from grobust.models.outputs import encode_together
from grobust.settings import Precision

__all__ = ["Encoded", "Encoder"]

# Batches that the host may be ahead of a GPU.
IN_FLIGHT = 2
COMPILER_PARTS = ("torch._dynamo", "torch._inductor", "torch._functorch")


@dataclass(frozen=True, eq=False)
class Encoded:
    """A batch's features, which may still be on their way from the device.

    Parameters
    ----------
    rows : (b)
    pieces : for each output, its features in the host's memory, float32
    arrived : recorded by a GPU after the last copy; None if they are there
    """

    rows: NDArray[Any]
    pieces: tuple[tuple[Tensor, ...], ...]
    arrived: torch.cuda.Event | None

    def features(self, output: int) -> NDArray[Any]:
        """(b, d) of an output, waited for."""
        if self.arrived is not None:
            self.arrived.synchronize()
        arrays: list[NDArray[Any]] = [piece.numpy() for piece in self.pieces[output]]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


class Encoder:
    """One network at work, put into the memory layout of the settings if it takes images.

    On a GPU, inputs come from pinned memory on a stream of their own and features go back by themselves: the host is
    up to two batches ahead, and waits for nothing else.
    """

    def __init__(self, backbones: Sequence[Backbone], settings: ExtractSettings, clock: StageClock) -> None:
        self._backbones, self._settings, self._clock = backbones, settings, clock
        self.device = next(iter(backbones[0].network.parameters())).device
        self.notes: list[str] = []
        self._largest = settings.batch_size
        self._in_flight: deque[torch.cuda.Event] = deque()
        # torch types neither streams nor events.
        self._copies = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        if backbones[0].kind == "image":
            backbones[0].network.to(memory_format=self._layout)
        self._network = _compiled(backbones) if settings.compile else _plain(backbones)

    @property
    def threads(self) -> int:
        """That the network runs on, where it is on a CPU."""
        return torch.get_num_threads()

    def encode(self, batch: Batch) -> Encoded:
        """Features of a batch, which is cut smaller when memory runs out.

        Raises
        ------
        BackboneError
            If memory does not suffice for a single row, or the network cannot be compiled.
        """
        size, n = self._largest, batch.rows.size
        while True:
            try:
                pieces = [self._forward(batch.tensors, start, min(start + size, n)) for start in range(0, n, size)]
                return Encoded(batch.rows, tuple(zip(*pieces, strict=True)), self._recorded())
            except (torch.OutOfMemoryError, MemoryError) as error:
                if size <= 1:
                    raise BackboneError(
                        f"{self._backbones[0].spec} runs out of memory on a single row ({self.device}). "
                        "Use a smaller input or another device."
                    ) from error
            size = max(1, min(size, n) // 2)
            self._largest = size
            self.notes.append(f"out of memory: batch size reduced to {size}")
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _forward(self, tensors: dict[str, Tensor], start: int, stop: int) -> list[Tensor]:
        with self._clock.stage("copy to device"):
            batch = self._sent({name: tensor[start:stop] for name, tensor in tensors.items()})
        precision = self._settings.precision
        autocast = torch.autocast(
            self.device.type,
            dtype=torch.bfloat16 if precision is Precision.BFLOAT16 else torch.float16,
            enabled=precision is not Precision.FLOAT32,
        )
        with self._clock.stage("network"), autocast:
            found = self._network(batch)
            self._synchronized()
        with self._clock.stage("copy back"):
            back = [self._brought_back(features.float()) for features in found]
            self._synchronized()
        return back

    def _sent(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """On the device, images in the memory layout of the settings."""
        if self._copies is None:
            return {name: self._laid_out(tensor.to(self.device)) for name, tensor in tensors.items()}
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copies):
            sent = {name: tensor.to(self.device, non_blocking=True) for name, tensor in tensors.items()}
        computing.wait_stream(self._copies)
        for tensor in sent.values():
            # Its memory belongs to the other stream, which must not reuse it before this one has read it.
            tensor.record_stream(computing)
        laid_out = {name: self._laid_out(tensor) for name, tensor in sent.items()}
        self._synchronized()
        return laid_out

    def _laid_out(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=self._layout) if tensor.ndim == 4 else tensor

    def _brought_back(self, features: Tensor) -> Tensor:
        if self._copies is None:
            return features.cpu()
        host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
        host.copy_(features, non_blocking=True)
        return host

    def _recorded(self) -> torch.cuda.Event | None:
        if self._copies is None:
            return None
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        self._in_flight.append(event)
        if len(self._in_flight) > IN_FLIGHT:
            self._in_flight.popleft().synchronize()
        return event

    def _synchronized(self) -> None:
        if self._clock.synchronize and self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _plain(backbones: Sequence[Backbone]) -> Callable[[dict[str, Tensor]], list[Tensor]]:
    def encode(batch: dict[str, Tensor]) -> list[Tensor]:
        with torch.inference_mode():
            return encode_together(backbones, batch)

    return encode


def _compiled(backbones: Sequence[Backbone]) -> Callable[[dict[str, Tensor]], list[Tensor]]:
    """Images come in two sizes of batch, each compiled for itself; the lengths of texts are left open."""

    def every(batch: dict[str, Tensor]) -> list[Tensor]:
        return encode_together(backbones, batch)

    fast: Callable[[dict[str, Tensor]], list[Tensor]] = torch.compile(every, dynamic=backbones[0].kind == "text")

    def encode(batch: dict[str, Tensor]) -> list[Tensor]:
        try:
            # Not inference_mode: compiled code keeps its own constants, which later passes use again.
            with torch.no_grad():
                return fast(batch)
        except Exception as error:
            if not type(error).__module__.startswith(COMPILER_PARTS):
                raise
            reason = str(error).strip().splitlines()
            raise BackboneError(
                f"{backbones[0].spec} cannot be compiled: {reason[0] if reason else type(error).__name__}\n"
                "On a CPU torch.compile needs a C++ compiler. Leave out --compile; the features are the same but for "
                "last bits."
            ) from error

    return encode
