"""Spectra against numpy.cov in float64, and ρ(y) as the paper defines it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grobust.arrays import to_device
from grobust.data.synthetic import gaussian_groups
from grobust.errors import ConfigError, ShapeError
from grobust.groups import Groups
from grobust.spectrum import class_spectra, group_spectra, norm_ratios, stream_spectra


def reference(x: np.ndarray, ddof: int = 0) -> np.ndarray:
    values = np.linalg.eigvalsh(np.atleast_2d(np.cov(x.astype(np.float64).T, ddof=ddof)))[::-1]
    return np.maximum(values, 0)


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("offset", [0.0, 30.0, 1e4])
def test_eigenvalues_against_numpy(offset: float, ddof: int) -> None:
    """Groups larger and smaller than d, also with a mean of 10,000 standard deviations."""
    data = gaussian_groups((200, 40, 15, 90), 60, seed=1, offset=offset, decay=1.0)
    groups = group_spectra(data.features, data.groups, rank=10, ddof=ddof)
    classes = class_spectra(data.features, data.groups, rank=10, ddof=ddof)
    for cells, spectra in ((data.groups.ids, groups), (data.groups.labels, classes)):
        for cell in range(len(spectra.names)):
            values = reference(data.features[cells == cell], ddof)
            np.testing.assert_allclose(spectra.eigenvalues[cell], values[:10], rtol=1e-9)
            assert spectra.trace[cell] == pytest.approx(values.sum(), rel=1e-9)
            share = values[values > 1e-12 * values[0]] / values.sum()
            assert spectra.effective_rank[cell] == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-6)
            assert spectra.participation_ratio[cell] == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-9)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float16, 1e-3), (np.float32, 1e-5)])
def test_stored_precisions(dtype: type, rtol: float) -> None:
    """Against the spectra of the exact values; the spectrum spans six orders of magnitude."""
    rng = np.random.default_rng(0)
    exact = rng.standard_normal((500, 30)) * np.logspace(0, -3, 30) @ np.linalg.qr(rng.standard_normal((30, 30)))[0]
    groups = Groups.from_arrays(np.zeros(500, dtype=int), class_names=("y",))
    spectra = group_spectra(exact.astype(dtype), groups, rank=10)
    np.testing.assert_allclose(spectra.eigenvalues[0], reference(exact)[:10], rtol=rtol)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 50), st.floats(0.1, 10))
def test_properties(seed: int, block: int, scale: float) -> None:
    """Blocks, order of rows, rotation and shift make no difference; a scale comes out squared."""
    rng = np.random.default_rng(seed)
    data = gaussian_groups((30, 8, 3, 1), 10, seed=seed)
    x = data.features.astype(np.float64)
    base = group_spectra(x, data.groups, rank=10)
    pieces = np.array_split(rng.permutation(len(x)), max(1, len(x) // block))
    streamed, _ = stream_spectra(((x[p], p) for p in pieces), groups=data.groups, dim=10, rank=10)
    np.testing.assert_allclose(streamed.eigenvalues, base.eigenvalues, rtol=1e-9, atol=1e-12)
    rotation = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    moved = group_spectra(scale * (x @ rotation) + 100, data.groups, rank=10)
    np.testing.assert_allclose(moved.eigenvalues, scale**2 * base.eigenvalues, rtol=1e-7, atol=1e-9)
    kept = base.eigenvalues[:3]
    np.testing.assert_allclose(np.nansum(kept, axis=1), base.trace[:3], rtol=1e-9)
    assert (np.diff(kept, axis=1)[~np.isnan(np.diff(kept, axis=1))] <= 0).all()


def test_small_groups() -> None:
    """0, 1, 2 and 3 rows: undefined with a note, undefined with a note, one eigenvalue, two."""
    x = np.array([[1.0, 0, 0], [3.0, 0, 0], [0, 0, 1], [0, 2, 0], [1, 1, 1], [5, 5, 5]])
    groups = Groups.from_arrays([1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1])
    spectra = group_spectra(x, groups, rank=5)
    assert spectra.counts.tolist() == [0, 1, 2, 3]
    assert np.isnan(spectra.eigenvalues[:2]).all()
    assert spectra.eigenvalues[2, 0] == pytest.approx(1.0)
    assert np.isnan(spectra.eigenvalues[2, 1:]).all()
    assert np.isfinite(spectra.eigenvalues[3]).tolist() == [True, True, False, False, False]
    assert [note.split("'")[1] for note in spectra.notes] == ["y0 / a0", "y0 / a1"]
    ratio = norm_ratios(spectra, groups)[0]
    assert math.isnan(ratio.rho)
    assert ratio.note


def test_rho_is_minority_over_majority() -> None:
    rng = np.random.default_rng(0)
    counts = (400, 300, 250, 500)
    ids = np.repeat(np.arange(4), counts)
    groups = Groups.from_arrays(ids // 2, ids % 2)
    x = rng.standard_normal((ids.size, 3)) * np.array([1.0, 2.0, 3.0, 1.5])[ids][:, None]
    ratios = norm_ratios(group_spectra(x, groups), groups)
    top = [reference(x[ids == g])[0] for g in range(4)]
    assert ratios[0].rho == pytest.approx(top[1] / top[0])
    assert ratios[1].rho == pytest.approx(top[2] / top[3])
    assert (ratios[1].minority, ratios[1].n_minority, ratios[1].majority) == ("y1 / a0", 250, "y1 / a1")
    assert ratios[0].trace_ratio == pytest.approx(np.var(x[ids == 1], axis=0).sum() / np.var(x[ids == 0], axis=0).sum())


def test_ratio_without_minority_or_spread() -> None:
    groups = Groups.from_arrays([0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 0, 0, 0, 1, 1])
    x = np.zeros((9, 2))
    x[7:] = [[1, 2], [3, 4]]
    tie, flat = norm_ratios(group_spectra(x, groups), groups)
    assert math.isnan(tie.rho)
    assert "tie" in tie.note
    assert math.isnan(flat.rho)
    assert "does not vary" in flat.note


def test_bad_input() -> None:
    data = gaussian_groups((5, 5, 5, 5), 3, seed=0)
    with pytest.raises(ShapeError, match="groups 20 rows"):
        group_spectra(data.features[:4], data.groups)
    broken = data.features.copy()
    broken[13, 1] = np.inf
    with pytest.raises(ShapeError, match="Row 13 "):
        group_spectra(broken, data.groups)
    with pytest.raises(ShapeError, match="the blocks held"):
        stream_spectra([(data.features[:4], np.arange(4))], groups=data.groups, dim=3)
    with pytest.raises(ConfigError, match="rank"):
        group_spectra(data.features, data.groups, rank=0)
    other = data.groups.take(np.arange(10))
    with pytest.raises(ShapeError, match="not those of the given groups"):
        norm_ratios(group_spectra(data.features, data.groups), other)


@pytest.mark.gpu
def test_cupy_equals_numpy() -> None:
    data = gaussian_groups((2000, 400, 15, 90), 60, seed=1, offset=100)
    on_host = group_spectra(data.features, data.groups)
    on_device = group_spectra(to_device(data.features, "cuda"), data.groups)
    np.testing.assert_allclose(on_device.eigenvalues, on_host.eigenvalues, rtol=1e-9)
