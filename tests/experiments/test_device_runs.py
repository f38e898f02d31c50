"""Runs on a device against the same runs on the host: features that fit, features that stream, and too little memory.

Without a GPU the device is the CUDA sources run on the CPU. It has as much memory as a test gives it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cupy import pretend
from helpers import make_plan

from grobust.arrays import on_cuda
from grobust.data.synthetic import gaussian_groups
from grobust.device import DeviceStream, _cuda, _stream
from grobust.errors import DeviceError
from grobust.experiments.config import PredictConfig, ProbeConfig, SpectrumConfig, TrajectoryConfig
from grobust.experiments.placement import place
from grobust.experiments.predict import run_predict
from grobust.experiments.probe import run_probe
from grobust.experiments.spectrum import run_spectrum
from grobust.experiments.trajectory import run_trajectories
from grobust.features.parts import PartsWriter, StorePlan
from grobust.features.store import FeatureStore
from grobust.groups import Split
from grobust.metrics import GroupMetrics
from grobust.probe import SGD
from grobust.settings import BalanceMethod, Penalty, SelectBy

DIM = 24
BUDGET = 1 << 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 float16 rows, 3,500 of them to train on."""
    data = gaussian_groups((3200, 250, 200, 1350), DIM, seed=3, core=1.5)
    n = len(data.groups)
    split = np.random.default_rng(0).choice(3, size=n, p=(0.7, 0.1, 0.2)).astype(np.int8)
    plan = make_plan(n, DIM, dtype="float16")
    plan = StorePlan(plan.provenance, data.groups, split, tuple(map(str, range(n))), DIM)
    path = tmp_path_factory.mktemp("device") / "f.h5"
    with PartsWriter(path, plan) as writer:
        writer.write(np.arange(n), data.features)
        return writer.finish()


@pytest.fixture(params=["shim", pytest.param("cuda", marks=pytest.mark.gpu)])
def cuda(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The door to the device, whose free memory is what a test says."""
    if request.param == "shim":
        return pretend(monkeypatch, request.getfixturevalue("shim_folder"))
    door = _cuda.cuda()
    monkeypatch.setattr(door, "memory", 1 << 40, raising=False)
    monkeypatch.setattr(door, "free_bytes", lambda: door.memory)
    return door


def sizes(store: Path) -> dict[str, int]:
    with FeatureStore(store) as opened:
        return {split.name.lower(): 2 * DIM * opened.rows(split).size for split in Split}


def close(a: GroupMetrics, b: GroupMetrics) -> None:
    """A row whose logits agree to rounding may fall to either side."""
    assert np.abs(a.correct - b.correct).max() <= 1


def test_features_go_where_they_fit(store: Path, cuda: Any) -> None:
    bytes_of = sizes(store)
    with FeatureStore(store) as opened:
        views = {split.name.lower(): opened.view(split) for split in (Split.TRAIN, Split.VAL, Split.TEST)}
        whole = {name: np.asarray(view) for name, view in views.items()}
        assert dict(place(views, "cpu", work_bytes=BUDGET).features) == views
        cuda.memory = 1 << 30
        placed = place(views, "cuda", work_bytes=BUDGET)
        for name, features in placed.features.items():
            assert on_cuda(features)
            assert features.dtype == np.float16
            np.testing.assert_array_equal(features.get(), whole[name])
        assert "stream" not in placed.note
        # Room for the training rows and the smallest split, and not a byte more than 5% to spare.
        cuda.memory = int((bytes_of["train"] + bytes_of["val"] + BUDGET) / 0.95) + 8
        placed = place(views, "cuda", work_bytes=BUDGET)
        assert [type(f) is DeviceStream for f in placed.features.values()] == [False, False, True]
        assert placed.note.endswith("block by block: test")
        cuda.memory = int((bytes_of["train"] + BUDGET) / 0.95) - 8
        placed = place(views, "cuda", work_bytes=BUDGET)
        assert type(placed.features["train"]) is DeviceStream
        with pytest.raises(DeviceError, match=r"train features .* float16\) take 0.2 MiB .* 1.0 MiB .* are free"):
            place(views, "cuda", work_bytes=BUDGET, resident=("train",))


@pytest.mark.parametrize("memory", [1 << 30, 0])
@pytest.mark.parametrize("penalty", [Penalty.L2, Penalty.L1])
def test_probes_equal_the_hosts(
    store: Path, cuda: Any, tmp_path: Path, memory: int, penalty: Penalty, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtypes: list[Any] = []
    make = cuda.slab
    monkeypatch.setattr(cuda, "slab", lambda rows, d, dtype: dtypes.append(dtype) or make(rows, d, dtype))
    cuda.memory = memory
    config = ProbeConfig(
        store=store, balance=(BalanceMethod.NONE, BalanceMethod.SUBSETTING), seeds=(1,), l2=(1e-3, 1e-1),
        penalty=penalty, l1=(0.3, 0.03), save=tmp_path / "h.safetensors", max_bytes=BUDGET,
    )  # fmt: skip
    found, expected = run_probe(replace(config, device="cuda")), run_probe(replace(config, save=None))
    assert (found.device, expected.device) == ("cuda", "cpu")
    for a, b in zip(found.runs, expected.runs, strict=True):
        assert on_cuda(a.fit.probe.weight)
        assert a.fit.objective == pytest.approx(b.fit.objective, rel=2e-6)
        assert (a.l2, a.l1) == (pytest.approx(b.l2), pytest.approx(b.l1, rel=1e-4))
        close(a.val, b.val)
        close(a.test, b.test)
    assert set(dtypes) == {np.dtype(np.float16)}
    notes = " ".join(found.notes)
    assert ("stream from the store" in notes) == (memory == 0)
    assert ("coordinate descent" in notes) == (penalty is Penalty.L1)
    assert not any("device memory" in note for note in expected.notes)
    # What was saved from the device predicts there as on the host.
    predict = PredictConfig(store=store, heads=tmp_path / "h.safetensors", out=tmp_path / "p.npz")
    on_host = run_predict(predict)
    with np.load(tmp_path / "p.npz") as file:
        logits = file["logits"]
    on_device = run_predict(replace(predict, device="cuda"))
    assert (on_host.device, on_device.device) == ("cpu", "cuda")
    with np.load(tmp_path / "p.npz") as file:
        np.testing.assert_allclose(file["logits"], logits, rtol=1e-12, atol=1e-12)
    assert [m.as_dict() for m in on_device.metrics] == [m.as_dict() for m in on_host.metrics]


def test_trajectories_equal_the_hosts(store: Path, cuda: Any) -> None:
    config = TrajectoryConfig(store=store, balance=(BalanceMethod.SUBSETTING,), seeds=(1,), sgd=SGD(epochs=2))
    expected = run_trajectories(config).runs[0]
    work = 1 << 30
    for memory in (1 << 40, int((work + sizes(store)["train"]) / 0.95) + 8):
        cuda.memory = memory
        found = run_trajectories(replace(config, device="cuda"))
        assert any("stream from the store" in note for note in found.notes) == (memory < 1 << 40)
        np.testing.assert_allclose(found.runs[0].loss, expected.loss, rtol=1e-4)
        close(found.runs[0].last, expected.last)
    cuda.memory = work
    with pytest.raises(DeviceError, match="--device cpu"):
        run_trajectories(replace(config, device="cuda"))


def test_what_fits_into_two_blocks_is_moved_once(store: Path, cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many passes the solver makes: once for the moments, once for all passes, once to report."""
    fills: list[int] = []
    slab = type(cuda.slab(1, 1, np.float16))
    fill = slab.fill
    monkeypatch.setattr(slab, "fill", lambda self, rows: fills.append(len(rows)) or fill(self, rows))
    cuda.memory = 0
    rows = {name: size // (2 * DIM) for name, size in sizes(store).items()}
    report = run_probe(ProbeConfig(store=store, seeds=(1,), l2=(1e-2,), max_bytes=BUDGET // 4, device="cuda"))
    assert report.runs[0].fit.n_iter > 3
    assert sum(fills) == 2 * rows["train"] + rows["test"]


@pytest.mark.parametrize("memory", [1 << 40, 0])
def test_spectra_equal_the_hosts(store: Path, cuda: Any, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Three blocks of the training rows.
    monkeypatch.setattr(_stream, "BLOCK_BYTES", 1 << 16)
    config = SpectrumConfig(store=store, top=5, null=20, interval=20, permutations=10, diagnostics=3, records=None)
    expected = run_spectrum(config)
    cuda.memory = memory
    found = run_spectrum(replace(config, device="cuda"))
    assert found.device == "cuda"
    assert any("stream from the store" in note for note in found.notes) == (memory == 0)
    for a, b in ((found.by_group, expected.by_group), (found.by_class, expected.by_class)):
        assert a.routes == b.routes
        np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, rtol=1e-6)
        np.testing.assert_allclose(a.trace, b.trace, rtol=1e-6)
    for one, other in zip(found.inferences, expected.inferences, strict=True):
        np.testing.assert_allclose(one.null, other.null, rtol=1e-5)
        np.testing.assert_allclose(one.permutation, other.permutation, rtol=1e-5)
        assert (one.low, one.high) == (pytest.approx(other.low, rel=1e-5), pytest.approx(other.high, rel=1e-5))
    values = [[each.value for each in report.diagnostics] for report in (found, expected)]
    np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-6)


def test_spectra_of_the_rows_that_a_method_keeps_equal_the_hosts(store: Path, cuda: Any) -> None:
    config = SpectrumConfig(store=store, top=3, null=0, diagnostics=None, balance=BalanceMethod.SUBSETTING)
    found, expected = run_spectrum(replace(config, device="cuda")), run_spectrum(config)
    np.testing.assert_array_equal(found.groups.counts, expected.groups.counts)
    np.testing.assert_allclose(found.by_group.eigenvalues, expected.by_group.eigenvalues, rtol=1e-6)


@pytest.mark.parametrize("memory", [1 << 40, 0])
def test_scores_of_the_bias_proxy_equal_the_hosts(store: Path, cuda: Any, memory: int) -> None:
    config = ProbeConfig(store=store, seeds=(1,), l2=(1e-3, 1e-1), select=SelectBy.BIAS_UNSUPERVISED)
    cuda.memory = memory
    found, expected = run_probe(replace(config, device="cuda")), run_probe(config)
    assert found.runs[0].l2 == expected.runs[0].l2
    scores = [[c.score for c in report.runs[0].candidates] for report in (found, expected)]
    np.testing.assert_allclose(*scores, atol=0.02)
