"""Second moments in matrix tiles: two bfloat16 per number against float64, and the same spectra as without tiles."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grobust import matrix_tiles
from grobust.data.synthetic import gaussian_groups
from grobust.errors import ShapeError
from grobust.spectrum import _moments, stream_spectra
from grobust.spectrum._products import LEAST_ROWS, new_product, takes_tiles
from grobust.spectrum._staging import Piece
from grobust.threads import threads

needs_tiles = pytest.mark.skipif(not matrix_tiles.available(), reason="needs a CPU with bfloat16 tiles (AMX)")


def product(x: np.ndarray, rows: np.ndarray, shift: np.ndarray, *, parts: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Sum and upper triangle of second moments, in tiles."""
    made = new_product(x, "float32", rows=rows.size, tiles=True)
    total = made.form([Piece(x, part, part) for part in np.array_split(rows, parts)], shift)
    out = np.zeros((x.shape[1], x.shape[1]))
    made.add_to(out)
    return total, np.triu(out)


def correlations(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Errors as shares of the standard deviations, upper triangle."""
    scale = np.sqrt(np.diagonal(true))
    return np.triu((found - true) / np.outer(scale, scale))


@needs_tiles
@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 300), panels=st.integers(1, 5), half=st.booleans(), parts=st.integers(1, 3),
    scale=st.sampled_from([1e-3, 1.0, 1e4]), offset=st.sampled_from([0.0, 30.0]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_product_is_that_of_the_rows_but_for_its_sixteen_bits(
    n: int, panels: int, half: bool, parts: int, scale: float, offset: float, seed: int
) -> None:
    """Whatever the number of rows, in whichever pieces; an entry's error is within the bound of three products."""
    rng = np.random.default_rng(seed)
    x = scale * (rng.standard_normal((n + 5, 32 * panels)) + offset)
    x = np.clip(x, -6e4, 6e4).astype(np.float16 if half else np.float32)
    rows = rng.choice(n + 5, n, replace=False)
    shift = x[:3].astype(np.float64).mean(axis=0)
    total, found = product(x, rows, shift, parts=parts)
    centred = x[rows].astype(np.float64) - shift
    np.testing.assert_allclose(total, centred.sum(axis=0), rtol=0, atol=1e-6 * np.abs(centred).sum(axis=0).max())
    size = np.abs(centred).T @ np.abs(centred)
    assert (np.abs(found - np.triu(centred.T @ centred)) <= np.triu(4 * 2.0**-16 * size) + 1e-30).all()


@needs_tiles
def test_rounding_is_averaged_over_rows_and_spares_the_diagonal() -> None:
    """That of one bfloat16 per number would be 2e-3 / √n."""
    x = np.random.default_rng(0).standard_normal((8192, 96)).astype(np.float32)
    for n, allowed in ((64, 5e-6), (1024, 1.5e-6), (8192, 4e-7)):
        _, found = product(x, np.arange(n), np.zeros(96))
        wrong = np.abs(correlations(found, np.triu(x[:n].astype(np.float64).T @ x[:n].astype(np.float64))))
        assert wrong.max() < allowed
        assert np.diagonal(wrong).max() < 4e-7


@needs_tiles
def test_rows_of_any_stride_are_read() -> None:
    wide = np.random.default_rng(0).standard_normal((40, 200)).astype(np.float32)
    for x in (wide[:, 3:99], wide[::2, 8:40], np.asfortranarray(wide[:, :64]), wide[::-1, :32]):
        rows = np.arange(len(x))[::-1]
        _, found = product(x, rows, np.zeros(x.shape[1]))
        true = np.triu(x.astype(np.float64).T @ x)
        assert np.abs(correlations(found, true)).max() < 1e-5


@needs_tiles
@pytest.mark.parametrize("dtype", [">f4", "<f8", ">f2", "<f2", "<i4"])
def test_blocks_of_another_dtype_than_the_first_are_read_as_what_they_are(dtype: str) -> None:
    """The first piece decides for tiles; what follows is not taken for the same bytes."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(-9, 9, (50, 64)).astype(np.float32), rng.integers(-9, 9, (70, 64)).astype(dtype)
    made = new_product(first, "float32", rows=120, tiles=True)
    pieces = [Piece(x, np.arange(len(x)), np.arange(len(x))) for x in (first, second)]
    total, out = made.form(pieces, np.zeros(64)), np.zeros((64, 64))
    made.add_to(out)
    both = np.concatenate([first, second]).astype(np.float64)
    np.testing.assert_array_equal(total, both.sum(axis=0))
    np.testing.assert_array_equal(np.triu(out), np.triu(both.T @ both))


@needs_tiles
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_spectra_are_those_without_tiles(dtype: str, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups in tiles, one in BLAS's float32, one kept in rows; float32 within 1e-6 of float64.

    float16 with a large mean lies on so coarse a grid that float32's rounding of its products is not even, tiles or no.
    """
    data = gaussian_groups((12_000, 9_000, 3_000, 60), 64, seed=1)
    decay = np.arange(1, 65) ** -0.5
    x = (data.features * decay + offset * decay).astype(dtype)
    taken = []
    monkeypatch.setattr(_moments, "takes_tiles", lambda *a: taken.append(takes_tiles(*a)) or taken[-1])
    monkeypatch.setattr(_moments, "working_dtype", lambda *_, **__: "float32")
    by_group, by_class = stream_spectra([(x, np.arange(len(x)))], groups=data.groups, dim=64, rank=20, keep=True)
    assert sorted(taken) == [False, True, True]
    monkeypatch.setattr(_moments, "takes_tiles", lambda *_: False)
    plain = stream_spectra([(x, np.arange(len(x)))], groups=data.groups, dim=64, rank=20, keep=True)
    for found, other in zip((by_group, by_class), plain, strict=True):
        np.testing.assert_allclose(found.eigenvalues, other.eigenvalues, rtol=1e-5)
    for g in range(2):
        rows = x[data.groups.ids == g].astype(np.float64)
        exact = np.linalg.eigvalsh(np.cov(rows.T, ddof=0))[::-1]
        np.testing.assert_allclose(by_group.eigenvalues[g], exact[:20], rtol=3e-7 if dtype == "float32" else 3e-6)


@needs_tiles
def test_a_row_that_is_not_finite_is_named() -> None:
    x = np.random.default_rng(0).standard_normal((500, 32)).astype(np.float16)
    x[321, 7] = np.inf
    with pytest.raises(ShapeError, match="Row 321 of the features is not finite"):
        product(x, np.arange(500), np.zeros(32))


@pytest.mark.parametrize("tiles", [pytest.param(True, marks=needs_tiles), False])
def test_squares_beyond_float32_are_an_error(tiles: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one of LAPACK's."""
    monkeypatch.setattr(_moments, "takes_tiles", takes_tiles if tiles else lambda *_: False)
    monkeypatch.setattr(_moments, "working_dtype", lambda *_, **__: "float32")
    data = gaussian_groups((6_000, 60, 60, 60), 32, seed=1)
    x = (1e25 * data.features).astype(np.float32)
    with pytest.raises(ShapeError, match="too large for sums of their squares"):
        stream_spectra([(x, np.arange(len(x)))], groups=data.groups, dim=32, rank=2, keep=True)


@needs_tiles
def test_another_librarys_tiles_stay_configured() -> None:
    """torch's bfloat16 products keep a configuration of tiles per thread: before, between and after ours they agree."""
    torch = pytest.importorskip("torch")
    a = torch.from_numpy(np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)).bfloat16()
    x = np.random.default_rng(1).standard_normal((300, 64)).astype(np.float32)
    first = a @ a
    ours = product(x, np.arange(300), np.zeros(64))[1]
    for _ in range(3):
        assert torch.equal(a @ a, first)
        np.testing.assert_array_equal(product(x, np.arange(300), np.zeros(64))[1], ours)


@needs_tiles
def test_threads_form_the_same_products() -> None:
    x = np.random.default_rng(0).standard_normal((2_000, 64)).astype(np.float32)
    alone = product(x, np.arange(2_000), np.zeros(64))[1]
    with threads() as team:
        for found in team.map(lambda _: product(x, np.arange(2_000), np.zeros(64))[1], range(8)):
            np.testing.assert_array_equal(found, alone)


def test_what_tiles_are_not_for_goes_to_blas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix_tiles, "available", lambda: True)
    x = np.zeros((4, 64), np.float32)
    assert takes_tiles(x, "float32", LEAST_ROWS)
    assert not takes_tiles(x, "float32", LEAST_ROWS - 1)
    assert not takes_tiles(x, "float64", LEAST_ROWS)
    assert not takes_tiles(x.astype(np.float64), "float32", LEAST_ROWS)
    assert not takes_tiles(x[:, :50], "float32", LEAST_ROWS)
    monkeypatch.setattr(matrix_tiles, "available", lambda: False)
    assert not takes_tiles(x, "float32", LEAST_ROWS)


@pytest.mark.parametrize("variable", ["NUMBA_DISABLE_JIT=1", "NUMBA_CPU_NAME=generic"])
def test_code_for_another_machine_does_without(variable: str) -> None:
    name, value = variable.split("=")
    code = "from grobust import matrix_tiles; print(matrix_tiles.available())"
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PATH": "", name: value}, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["False"]
