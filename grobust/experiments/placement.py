"""Where the features of a run are: in the store, in the device's memory, or on their way to it block by block.

The one place that decides. Features keep the store's dtype everywhere: float16 stays float16 on the device, whose
products with it are summed up in float32.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grobust.arrays import DeviceName
from grobust.device import DeviceStream, free_bytes, on_device
from grobust.errors import DeviceError
from grobust.features._view import StoreView

__all__ = ["Placed", "place"]

# Of the free memory, left to libraries' work space and to fragments.
SPARE_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class Placed:
    """Features by name, and what was asked of the device.

    Parameters
    ----------
    features : a view of the store, an array on the device, or a `DeviceStream` of the view
    note : bytes asked for, bytes free, and what streams; empty on the host
    """

    features: Mapping[str, Any]
    note: str = ""


def place(
    views: Mapping[str, StoreView], device: DeviceName, *, work_bytes: int, resident: tuple[str, ...] = ()
) -> Placed:
    """Put features where they are worked on: on a device as many as fit, in the order given; the others stream.

    Parameters
    ----------
    views : rows of a store, which must stay open; the most used first
    device : ``cpu`` leaves them in the store
    work_bytes : memory that is to stay free for work arrays
    resident : those that cannot stream

    Raises
    ------
    DeviceError
        If one of `resident` does not fit; the message says how much is asked for and how much is free.
    """
    if device == "cpu":
        return Placed(dict(views))
    free = free_bytes()
    room = int(free * (1 - SPARE_SHARE)) - work_bytes
    features: dict[str, Any] = {}
    streamed = []
    for name, view in views.items():
        size = _bytes(view)
        if size <= room:
            features[name] = on_device(view)
            room -= size
        elif name in resident:
            raise DeviceError(
                f"The {name} features ({view.shape[0]} × {view.shape[1]} {view.dtype}) take {_size(size)} of device "
                f"memory beside {_size(work_bytes)} of work arrays; {_size(free)} are free, and rows drawn from "
                "everywhere cannot stream.\nUse --device cpu, which reads them from the store, or a larger device."
            )
        else:
            features[name] = DeviceStream(view)
            streamed.append(name)
    asked = _size(sum(map(_bytes, views.values())))
    note = f"device memory: {asked} asked for features and {_size(work_bytes)} for work arrays, {_size(free)} free"
    if streamed:
        note += f"; features that do not fit stream from the store, block by block: {', '.join(streamed)}"
    return Placed(features, note)


def _bytes(view: StoreView) -> int:
    return view.shape[0] * view.shape[1] * view.dtype.itemsize


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 1 << 30 else f"{count / 2**20:.1f} MiB"
