"""Second moments on tensor cores: the shim's products, and an emulation that cuts sums off as tensor cores do."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from fake_cupy import XP, FakeArray, FakeCuda, plain, pretend
from shim_device import columns_of

from grobust.arrays import to_device
from grobust.device._interface import Product
from grobust.errors import ShapeError
from grobust.groups import Groups
from grobust.spectrum import _moments, stream_spectra
from grobust.spectrum._half import HalfRoom, HalfSums
from grobust.spectrum._staging import Piece, first_rows

# Rows that a tensor core multiplies before it adds to its float32 sum.
STEP = 16


def cut_off(total: np.ndarray) -> np.ndarray:
    """float64 to float32, toward zero."""
    near = total.astype(np.float32)
    beyond = np.abs(near.astype(np.float64)) > np.abs(total)
    return np.where(beyond, np.nextafter(near, np.float32(0)), near)


def tensor_core(product: Product) -> None:
    """A product with exact multiplications and sums that are cut off after every `STEP` terms."""
    p = plain(product)
    for i in range(p.batch):
        a = columns_of(p.a, i * p.step_a, p.lda, (p.k, p.m) if p.transpose_a else (p.m, p.k)).astype(np.float64)
        b = columns_of(p.b, i * p.step_b, p.ldb, (p.n, p.k) if p.transpose_b else (p.k, p.n)).astype(np.float64)
        c = columns_of(p.c, i * p.step_c, p.ldc, (p.m, p.n))
        a, b = (a.T if p.transpose_a else a), (b.T if p.transpose_b else b)
        total = np.float32(p.beta) * c if p.beta else np.zeros_like(c)
        for lo in range(0, p.k, STEP):
            total = cut_off(total.astype(np.float64) + p.alpha * (a[:, lo : lo + STEP] @ b[lo : lo + STEP]))
        c[...] = total


@pytest.fixture(params=["shim", pytest.param("cuda", marks=pytest.mark.gpu)])
def put(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> object:
    if request.param == "cuda":
        return partial(to_device, device="cuda")
    pretend(monkeypatch, request.getfixturevalue("shim_folder"))
    return XP.asarray


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch, shim_folder: Path) -> FakeCuda:
    fake = pretend(monkeypatch, shim_folder)
    monkeypatch.setattr(fake, "product", tensor_core)
    return fake


def features(n: int, d: int, *, offset: float, decay: float = 0.7) -> np.ndarray:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    x = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -decay @ basis
    return x + offset * x.std(axis=0).mean()


def reference(x: np.ndarray) -> np.ndarray:
    rows = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    return np.linalg.eigvalsh(rows.T @ rows / len(rows))[::-1]


def sums_of(device: FakeCuda, x: np.ndarray, *, rows: int = 4096) -> np.ndarray:
    """Eigenvalues of the covariance by `HalfSums` alone, whatever the features' width."""
    there = FakeArray(x)
    pieces = [Piece(there, np.arange(i, min(i + rows, len(x))), np.arange(len(x))) for i in range(0, len(x), rows)]
    sample = first_rows(pieces, 512)
    shift = XP.mean(sample, axis=0)
    sums = HalfSums(HalfRoom(device, x.shape[1], rows=rows), shift, sample)
    for piece in pieces:
        sums.add([piece])
    total, products = (part.memory for part in sums.finish())
    rest = total / len(x)
    return np.linalg.eigvalsh(products / len(x) - np.outer(rest, rest))[::-1]


@pytest.mark.parametrize("offset", [0.0, 30.0, 300.0, 3000.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_error_of_tensor_cores(emulated: FakeCuda, offset: float, dtype: type) -> None:
    """1e-3 is allowed for float16 features, 1e-6 for float32 ones: λ1..λ10 hold, λ1..λ50 leave no margin."""
    x = features(6000, 96, offset=offset).astype(dtype)
    found, true = sums_of(emulated, x), reference(x)
    assert np.max(np.abs(found[:10] / true[:10] - 1)) < 1e-6
    assert np.max(np.abs(found[:50] / true[:50] - 1)) < 5e-6


def test_longer_products_lose_more(emulated: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why products are of 512 rows."""
    x = features(4096, 48, offset=0.0).astype(np.float16)
    short, true = sums_of(emulated, x), reference(x)
    monkeypatch.setattr("grobust.spectrum._half.PIECE_ROWS", 4096)
    long = sums_of(emulated, x)
    assert abs(long[0] / true[0] - 1) > 4 * abs(short[0] / true[0] - 1)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_spectra_of_float16_features(put: object, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole route against float64, in one block and in many, groups mixed; and that it is the route taken."""
    monkeypatch.setattr(_moments, "working_dtype", lambda source, work=0.0: "float32")
    added: list[int] = []
    add = HalfSums.add
    monkeypatch.setattr(HalfSums, "add", lambda self, pieces: added.append(sum(map(len, pieces))) or add(self, pieces))
    x = features(3000, 40, offset=offset).astype(np.float16)
    groups = Groups.from_arrays(*np.random.default_rng(1).integers(2, size=(2, 3000)))
    there = put(x)
    cuts = [(0, 3000)], [(i, min(i + 700, 3000)) for i in range(0, 3000, 700)]
    for edges, keep in zip(cuts, (True, False), strict=True):
        blocks = [(there[a:b], np.arange(a, b)) for a, b in edges]
        by_group, by_class = stream_spectra(blocks, groups=groups, dim=40, rank=10, keep=keep)
        for spectra, cells in ((by_group, groups.ids), (by_class, groups.labels)):
            for cell in range(len(spectra.names)):
                np.testing.assert_allclose(spectra.eigenvalues[cell], reference(x[cells == cell])[:10], rtol=2e-6)
    assert sum(added) == 6000


def test_features_unlike_the_sample(put: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that do not vary in the sample, vary little, or hold a value far beyond all of it."""
    monkeypatch.setattr(_moments, "working_dtype", lambda source, work=0.0: "float32")
    x = features(3000, 30, offset=0.0)
    x[:, 0] = 5.0
    x[:, 1] = 0.0
    x[1501, 1] = 3.0
    x[:, 2] *= 1e-4
    x[:, 3] *= 1e-3
    x[1777, 3] = 60_000
    x = x.astype(np.float16)
    groups = Groups.from_arrays(np.zeros(3000, dtype=int))
    (spectra, _) = stream_spectra([(put(x), np.arange(3000))], groups=groups, dim=30, rank=28)
    np.testing.assert_allclose(spectra.eigenvalues[0], reference(x)[:28], rtol=1e-5)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_value_that_is_not_finite_is_named(put: object, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_moments, "working_dtype", lambda source, work=0.0: "float32")
    x = features(900, 20, offset=0.0).astype(np.float16)
    x[641, 3] = value
    groups = Groups.from_arrays(np.arange(900) % 2)
    with pytest.raises(ShapeError, match="Row 641 of the features is not finite"):
        stream_spectra([(put(x), np.arange(900))], groups=groups, dim=20)
