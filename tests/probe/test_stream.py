"""Streams of host rows: the order of the slabs, reading ahead, and a fit through them, with the host as the device."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probe_problems import problem, row_weights

from grobust.errors import ShapeError
from grobust.probe import DeviceStream, FitStatus, Head, _fit, _task, fit_probes


class HostSlab:
    """A slab on the host that checks the protocol: never refilled before it was released, never read before filled."""

    fills: list[tuple[int, int, str]]

    def __init__(self, rows: int, d: int, dtype: Any) -> None:
        self.array = np.full((rows, d), -1, dtype=dtype)
        self.lent = self.filled = False

    def fill(self, rows: np.ndarray) -> None:
        assert not self.lent
        self.array[: len(rows)] = rows
        self.array[len(rows) :] = -1
        self.filled = True
        HostSlab.fills.append((int(rows[0, 0]), len(rows), threading.current_thread().name))

    def ready(self, rows: int) -> np.ndarray:
        assert self.filled
        self.lent = True
        return self.array[:rows]

    def release(self) -> None:
        self.lent = False


def stream(features: Any, **settings: Any) -> DeviceStream:
    HostSlab.fills = []
    return DeviceStream(features, **{"slab": HostSlab, "send": np.asarray, "smallest": 4, **settings})


def rows(n: int) -> np.ndarray:
    return np.arange(n, dtype=np.float32)[:, None] + np.zeros(3, dtype=np.float32)


def test_passes_read_ahead_and_begin_anew() -> None:
    x = rows(1000)
    reader = stream(x)
    for _ in range(3):
        for lo in range(0, 1000, 300):
            hi = min(lo + 300, 1000)
            np.testing.assert_array_equal(reader[lo:hi, :], x[lo:hi])
    reader._finish(0)
    reader._finish(1)
    blocks = [(0, 300), (300, 300), (600, 300), (900, 100)]
    # Three passes, and the first block of a fourth.
    assert [fill[:2] for fill in HostSlab.fills] == [*blocks * 3, (0, 300)]
    assert all(name.startswith("grobust-stream") for *_, name in HostSlab.fills)


@pytest.mark.parametrize(("n", "fills"), [(300, 1), (600, 2), (450, 2)])
def test_what_fits_into_two_blocks_moves_once(n: int, fills: int) -> None:
    x = rows(n)
    reader = stream(x)
    for _ in range(3):
        for lo in range(0, n, 300):
            np.testing.assert_array_equal(reader[lo : lo + 300, :], x[lo : lo + 300])
    assert len(HostSlab.fills) == fills


def test_other_orders_and_sizes_are_right_too() -> None:
    x, rng = rows(500), np.random.default_rng(0)
    reader = stream(x)
    for _ in range(200):
        lo = int(rng.integers(500))
        hi = int(rng.integers(lo, 501))
        np.testing.assert_array_equal(reader[lo:hi, :], x[lo:hi])
        np.testing.assert_array_equal(reader[lo:hi], x[lo:hi])
        step = int(rng.integers(1, 9))
        np.testing.assert_array_equal(reader[lo:hi:step, :], x[lo:hi:step])
    some = rng.integers(500, size=20)
    np.testing.assert_array_equal(reader[some], x[some])
    assert reader.shape == (500, 3)
    assert len(reader) == 500
    assert reader.dtype == np.float32


def test_a_failed_read_is_raised_and_can_be_tried_again() -> None:
    class Broken:
        shape, dtype, fail = (100, 3), np.float32, False

        def __getitem__(self, key: Any) -> np.ndarray:
            if self.fail:
                raise OSError("the disk is gone")
            return rows(100)[key]

    source = Broken()
    reader = stream(source)
    reader[0:20, :]
    reader._finish(0)
    reader._finish(1)
    source.fail = True
    reader[20:40, :]
    with pytest.raises(OSError, match="disk"):
        reader[40:60, :]
    source.fail = False
    np.testing.assert_array_equal(reader[40:60, :], rows(100)[40:60])


def test_a_stream_is_of_two_dimensions() -> None:
    with pytest.raises(ShapeError, match=r"\(n, d\)"):
        stream(np.zeros(3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fits_go_through_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: type) -> None:
    """A memory map on a device that is not the host, in blocks that two slabs do not hold."""
    xp = pytest.importorskip("array_api_strict")

    class StrictSlab(HostSlab):
        def ready(self, rows: int) -> Any:
            return xp.asarray(super().ready(rows).copy())

    for module in (_fit, _task):
        monkeypatch.setattr(module, "DEVICE_BLOCK", 800)
    HostSlab.fills = []
    # More numbers than are worth float64 products.
    x, y = problem(3000, 30, 3)
    x = (x - 10).astype(dtype)
    x.tofile(tmp_path / "x.bin")
    mapped = np.memmap(tmp_path / "x.bin", dtype=dtype, mode="r", shape=x.shape)
    small = np.zeros(3000)
    small[:300] = 1
    heads = [Head(l2=1e-3), Head(weights=row_weights("class", y), l2=1e-2), Head(weights=small, l2=1e-1)]
    streamed = DeviceStream(mapped, slab=StrictSlab, send=xp.asarray, smallest=64)
    for a, b in zip(fit_probes(streamed, y, heads, n_classes=3), fit_probes(x, y, heads, n_classes=3), strict=True):
        assert a.status is FitStatus.CONVERGED
        assert a.objective == pytest.approx(b.objective, rel=2e-6)
    assert len(HostSlab.fills) > 8
