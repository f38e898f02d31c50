"""The GPU as the rest of the library asks for it: kernels, matrix products, memory, and rows that stream to it."""

from grobust.device._stream import DeviceStream, Slab, free_bytes, on_device

__all__ = ["DeviceStream", "Slab", "free_bytes", "on_device"]
