"""The GPU as the rest of the library asks for it: kernels, matrix products, memory, and rows that stream to it."""

from grobust.device._stream import DeviceStream, Slab

__all__ = ["DeviceStream", "Slab"]
