"""run_spectrum on stores with known spectra; several stores side by side; figures from what was computed."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
from helpers import make_plan, write_store_of

from grobust.data.synthetic import gaussian_groups
from grobust.errors import ConfigError, DataError, StoreMismatchError
from grobust.experiments.config import SpectrumConfig
from grobust.experiments.records import read_records
from grobust.experiments.spectra_compared import RunLabel, compare_spectra, draw_spectra, label_of
from grobust.experiments.spectrum import SpectrumReport, run_spectrum
from grobust.features.parts import StorePlan
from grobust.groups import Groups
from grobust.heads import HeadInfo, Heads, save_heads
from grobust.probe import Probe
from grobust.settings import BalanceMethod
from grobust.spectrum import Reading, inference_bytes

COUNTS = (120, 25, 12, 60)


def write(path: Path, *, seed: int = 0, spread: float = 1.0, dtype: str = "float32", **changes: str) -> Path:
    """A store of 217 training and as many test rows; `spread` widens the first axis of group 2."""
    data = gaussian_groups(COUNTS, 9, seed=seed)
    x = data.features.copy()
    x[data.groups.ids == 2, 0] *= spread
    groups = Groups.from_arrays(
        np.tile(data.groups.labels, 2), np.tile(data.groups.attributes, 2),
        class_names=("land", "water"), attribute_names=("p", "q"),
    )  # fmt: skip
    n = len(groups)
    plan = StorePlan(
        provenance=make_plan(dtype=dtype, **changes).provenance, groups=groups,
        split=np.repeat([0, 2], n // 2).astype(np.int8), sample_ids=tuple(map(str, range(n))), dim=9,
    )  # fmt: skip
    return write_store_of(path, plan, np.concatenate([x, x]).astype(dtype))


def run(store: Path, **changes: object) -> SpectrumReport:
    settings = {"null": 99, "interval": 50, "permutations": 50, "diagnostics": 10, **changes}
    return run_spectrum(SpectrumConfig(store=store, **settings))


def test_report_against_numpy(tmp_path: Path) -> None:
    store = write(tmp_path / "f.h5", spread=4.0)
    report = run(store, records=tmp_path / "r.jsonl")
    data = gaussian_groups(COUNTS, 9, seed=0)
    x = data.features.astype(np.float64)
    x[data.groups.ids == 2, 0] *= 4
    tops = [np.linalg.eigvalsh(np.cov(x[data.groups.ids == g].T, ddof=0))[-1] for g in range(4)]
    np.testing.assert_allclose(report.by_group.eigenvalues[:, 0], tops, rtol=1e-6)
    assert [r.rho for r in report.ratios] == [pytest.approx(tops[1] / tops[0]), pytest.approx(tops[2] / tops[3])]
    first, second = report.inferences
    assert first is not None
    assert second is not None
    assert second.p_value == pytest.approx(0.01)
    assert second.low > 1
    assert first.rho == pytest.approx(report.ratios[0].rho, rel=1e-6)
    content = read_records(tmp_path / "r.jsonl", command="spectrum")[0]["results"]
    assert content["norm_ratios"][1]["inference"]["reading"] == "minority spreads more"
    assert "imbalanced" not in json.dumps(content)
    assert len(content["norm_ratios"][1]["inference"]["null_quantiles"]) == 11


def test_balanced_rows_and_options(tmp_path: Path) -> None:
    store = write(tmp_path / "f.h5", dtype="float16")
    report = run(store, balance=BalanceMethod.SUBSETTING, seed=3, null=0, diagnostics=None)
    assert report.groups.class_counts.tolist() == [72, 72]
    assert report.inferences == (None, None)
    assert report.diagnostics == ()
    tight = run(store, memory_bytes=500)
    assert set(tight.by_group.routes) == {"krylov"}
    assert tight.inferences == (None, None)
    assert "do not fit" in " ".join(tight.notes)
    with pytest.raises(DataError, match="no rows"):
        run(store, split="val")
    with pytest.raises(ConfigError, match="null must not"):
        run(store, null=-1)


def test_a_class_whose_rows_do_not_fit_has_no_null_and_says_so(tmp_path: Path) -> None:
    store = write(tmp_path / "f.h5")
    needed = [inference_bytes(145, 9, permutations=50), inference_bytes(72, 9, permutations=50)]
    for memory, kept in ((needed[0], [True, True]), (needed[0] - 1, [False, True]), (needed[1] - 1, [False, False])):
        report = run(store, memory_bytes=memory)
        assert [inference is not None for inference in report.inferences] == kept
        assert sum("do not fit into memory_bytes" in note for note in report.notes) == 2 - sum(kept)


def test_heads_give_margins_and_gaps(tmp_path: Path) -> None:
    store = write(tmp_path / "f.h5")
    weight = np.zeros((2, 9))
    weight[1, 0] = 1.0
    path = tmp_path / "h.safetensors"
    probe = Probe(weight, np.zeros(2))
    save_heads(Heads.of_probes([probe], [HeadInfo("one")], class_names=("land", "water")), path)
    report = run(store, heads=path)
    data = gaussian_groups(COUNTS, 9, seed=0)
    right = ((data.features[:, 0] > 0) == data.groups.labels).astype(float)
    accuracy = [right[data.groups.ids == g].mean() for g in range(4)]
    assert [p.gap for p in report.gaps] == [
        pytest.approx(accuracy[0] - accuracy[1]),
        pytest.approx(accuracy[3] - accuracy[2]),
    ]
    assert {"margin", "Gaussian error", "margin gap, spread part"} <= {d.name for d in report.diagnostics}
    other = Heads.of_probes([probe], [HeadInfo("one")], class_names=("land", "sea"))
    with pytest.raises(StoreMismatchError, match="classes"):
        run(store, heads=save_heads(other, path))


def test_several_stores(tmp_path: Path) -> None:
    stores = [
        write(tmp_path / f"mixture_seed{seed}" / f"epoch{epoch}.h5", seed=seed)
        for seed in (1, 2, 3)
        for epoch in (2, 10)
    ]
    reports = [run(store, diagnostics=None) for store in stores]
    found = compare_spectra(reports)
    assert found.labels[:2] == (RunLabel("toy", "mixture", 1, 2), RunLabel("toy", "mixture", 1, 10))
    assert [(r.label.epoch, r.class_name, r.n) for r in found.rho] == [
        (2, "land", 3), (2, "water", 3), (10, "land", 3), (10, "water", 3)
    ]  # fmt: skip
    rho = [reports[i].ratios[0].rho for i in (1, 3, 5)]
    assert found.rho[2].mean == pytest.approx(np.mean(rho))
    assert found.rho[2].sd == pytest.approx(np.std(rho))
    assert found.correspondence is None
    files = {f.name: f for f in draw_spectra(found, tmp_path / "figures")}
    assert {f.removesuffix(".png") for f in files if f.endswith(".png")} == {
        "eigenvalues", "rho", "rho_null", "rho_over_training"
    }  # fmt: skip
    with files["rho.csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert [float(r["rho"]) for r in rows if r["class_name"] == "land"] == pytest.approx(rho)
    with files["eigenvalues.csv"].open() as file:
        first = next(csv.DictReader(file))
    expected = np.mean([reports[i].by_group.eigenvalues[0, 0] for i in (1, 3, 5)])
    assert float(first["eigenvalue"]) == pytest.approx(expected)
    json.dumps(found.as_dict(), allow_nan=False)


def test_labels(tmp_path: Path) -> None:
    plain = run(write(tmp_path / "unseeded.h5"), null=0, diagnostics=None)
    assert label_of(plain) == RunLabel("toy", "none", None, None)
    trained = run(write(tmp_path / "x.h5", backbone="run:runs/a@10"), null=0, diagnostics=None)
    assert label_of(trained).epoch == 10
    name = "run:runs/digits-waterbirds-test_resnet-random-mixture-seed3@6"
    finetuned = run(write(tmp_path / "features" / "epoch-0006.h5", backbone=name), null=0, diagnostics=None)
    assert label_of(finetuned) == RunLabel("toy", "mixture", 3, 6)
    kept = run(tmp_path / "x.h5", balance=BalanceMethod.MIXTURE, seed=7, null=0, diagnostics=None)
    assert (label_of(kept).method, label_of(kept).seed) == ("mixture", 7)
    with pytest.raises(ConfigError, match="No feature stores"):
        compare_spectra([])
    assert math.isnan(compare_spectra([plain]).rho[0].null_mean)


def test_networks_are_no_seeds_of_each_other(tmp_path: Path) -> None:
    """Two methods' finetuned runs have their names from the run; other networks stand beside the data set."""
    names = ("run:runs/a-none-seed1@2", "run:runs/a-mixture-seed1@2", "run:runs/a-mixture-seed2@2")
    reports = [
        run(write(tmp_path / str(i) / "features" / "epoch-0002.h5", backbone=name, seed=i), diagnostics=None)
        for i, name in enumerate(names)
    ]
    found = compare_spectra(reports)
    assert [(r.label.dataset, r.label.method, r.n) for r in found.rho[::2]] == [
        ("toy", "none", 1),
        ("toy", "mixture", 2),
    ]
    readings = [report.inferences[0].reading for report in reports[1:] if report.inferences[0] is not None]
    assert found.rho[2].explained == sum(reading is Reading.SIZES for reading in readings)
    other = run(write(tmp_path / "other.h5", backbone="timm:other@random"), diagnostics=None)
    labels = compare_spectra([*reports, other]).labels
    assert [label.dataset for label in labels] == ["toy, a", "toy, a", "toy, a", "toy, timm:other@random"]
