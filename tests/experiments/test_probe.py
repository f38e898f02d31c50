"""run_probe and run_spectrum on a store: what was chosen, on what, and what was recorded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import gaussian_store, make_plan, write_store_of

from grobust.errors import ConfigError, DataError, DeviceError, GroupError
from grobust.experiments.config import ProbeConfig, SpectrumConfig, TrajectoryConfig
from grobust.experiments.probe import run_probe
from grobust.experiments.records import read_records
from grobust.experiments.spectrum import run_spectrum
from grobust.experiments.trajectory import run_trajectories
from grobust.features.parts import PartsWriter, StorePlan
from grobust.features.store import FeatureStore
from grobust.groups import Groups, Split
from grobust.heads import load_heads
from grobust.metrics import group_metrics
from grobust.probe import fit_probe
from grobust.settings import BalanceBy, BalanceMethod, SelectBy

METHODS = tuple(BalanceMethod)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return gaussian_store(tmp_path / "f.h5")


def test_the_l2_chosen_is_the_best_on_validation(store: Path) -> None:
    config = ProbeConfig(store=store, balance=METHODS, seeds=(1, 2), select=SelectBy.WGA)
    report = run_probe(config)
    assert len(report.runs) == len(METHODS) * 2
    with FeatureStore(store) as opened:
        (x, train), (x_val, val) = opened.load(Split.TRAIN), opened.load(Split.VAL)
    run = report.of_method(BalanceMethod.NONE)[0]
    scores = []
    for l2 in config.l2:
        fit = fit_probe(x, train.labels, n_classes=2, l2=l2)
        scores.append(group_metrics(fit.probe.predict(x_val), val).wga.value)
    assert [c.score for c in run.candidates] == pytest.approx(scores)
    assert run.l2 == config.l2[int(np.argmax(scores))]


def test_agreeing_methods_are_one_head_and_said_to_be(store: Path) -> None:
    report = run_probe(ProbeConfig(store=store, balance=METHODS, seeds=(1, 2)))
    up, weighted = (report.of_method(m)[0] for m in (BalanceMethod.UPSAMPLING, BalanceMethod.UPWEIGHTING))
    assert up.fit is weighted.fit
    assert up.balance.repetition != weighted.balance.repetition
    first, second = report.of_method(BalanceMethod.SUBSETTING)
    assert first.fit is not second.fit
    assert any("upsampling, upweighting agree" in note for note in report.notes)


def test_ledger_says_which_labels_were_used(store: Path) -> None:
    def ledger(**changes: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
        report = run_probe(ProbeConfig(store=store, seeds=(1,), **{"balance": (BalanceMethod.MIXTURE,), **changes}))
        return report.ledger.train, report.ledger.selection

    both = ("class", "attribute")
    assert ledger() == (("class",), ("class",))
    assert ledger(select=SelectBy.WGA) == (("class",), both)
    assert ledger(by=BalanceBy.GROUP) == (both, ("class",))
    assert ledger(l2=(1e-2,)) == (("class",), ())


def test_records_hold_what_was_found(store: Path, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    report = run_probe(ProbeConfig(store=store, balance=(BalanceMethod.MIXTURE,), seeds=(1, 2), records=records))
    spectrum = run_spectrum(SpectrumConfig(store=store, records=records))
    probes = read_records(records, command="probe")
    assert [r["seed"] for r in probes] == [1, 2]
    assert probes[0]["results"]["test"]["wga"]["value"] == report.runs[0].test.wga.value
    assert probes[0]["config"]["balance"] == ["mixture"]
    assert probes[0]["provenance"]["weights_digest"] == "abc"
    assert "numpy" in probes[0]["versions"]
    (recorded,) = read_records(records, command="spectrum")
    assert recorded["results"]["norm_ratios"][0]["rho"] == spectrum.ratios[0].rho


def test_test_rows_never_change_what_is_chosen(store: Path, tmp_path: Path) -> None:
    """The same store with other test labels: the choices stay."""
    with FeatureStore(store) as opened:
        groups, split = opened.groups, opened.split
        labels = np.where(split == Split.TEST, 1 - groups.labels, groups.labels)
        flipped = type(groups)(labels, groups.attributes, groups.class_names, groups.attribute_names)
        plan = StorePlan(opened.provenance, flipped, split, opened.sample_ids, opened.dim)
        with PartsWriter(tmp_path / "g.h5", plan) as writer:
            writer.write(np.arange(opened.n), np.asarray(opened.read()))
            writer.finish()
    first = run_probe(ProbeConfig(store=store, balance=METHODS))
    second = run_probe(ProbeConfig(store=tmp_path / "g.h5", balance=METHODS))
    assert [(r.l2, r.candidates) for r in first.runs] == [(r.l2, r.candidates) for r in second.runs]
    assert first.runs[0].test.wga.value != second.runs[0].test.wga.value


def test_missing_splits_are_said(tmp_path: Path) -> None:
    no_val = gaussian_store(tmp_path / "a.h5", (0.8, 0.0, 0.2))
    with pytest.raises(DataError, match="no validation rows"):
        run_probe(ProbeConfig(store=no_val))
    assert run_probe(ProbeConfig(store=no_val, l2=(1e-2,))).runs[0].candidates[0].score is None
    with pytest.raises(DataError, match="no test rows"):
        run_probe(ProbeConfig(store=gaussian_store(tmp_path / "b.h5", (0.8, 0.2, 0.0))))
    with pytest.raises(DataError, match="no training rows"):
        run_probe(ProbeConfig(store=gaussian_store(tmp_path / "c.h5", (0.0, 0.5, 0.5))))


def test_classes_that_are_missing_are_said(tmp_path: Path) -> None:
    n = 90
    split = np.arange(n) % 3
    for path, labels, names, error, text in (
        (tmp_path / "one.h5", np.zeros(n, dtype=int), ("a",), DataError, r"one class \(a\)"),
        (tmp_path / "none.h5", np.where(split == 0, 0, 1), ("a", "b"), GroupError, "without training rows: b"),
    ):
        groups = Groups.from_arrays(labels, np.arange(n) % 2, class_names=names)
        plan = replace(make_plan(n), groups=groups, split=split.astype(np.int8))
        store = write_store_of(path, plan)
        with pytest.raises(error, match=text):
            run_probe(ProbeConfig(store=store))
        with pytest.raises(error, match=text):
            run_trajectories(TrajectoryConfig(store=store))


def test_heads_are_saved_as_they_were_evaluated(store: Path, tmp_path: Path) -> None:
    config = ProbeConfig(store=store, balance=METHODS, seeds=(1, 2), save=tmp_path / "h.safetensors")
    seen: list[tuple[int, int]] = []
    report = run_probe(config, on_progress=lambda *at: seen.append(at))
    assert seen[-1][0] == seen[-1][1] == len({id(run.fit) for run in report.runs}) * len(config.l2)
    heads = load_heads(tmp_path / "h.safetensors")
    assert heads.provenance == report.provenance
    assert heads.infos[-1].ratio == 2.0
    for i, run in enumerate(report.runs):
        np.testing.assert_array_equal(heads.weight[i], run.fit.probe.weight)
        assert (heads.infos[i].status, heads.infos[i].objective) == ("converged", run.fit.objective)


def test_spectra_of_the_rows_a_method_keeps(store: Path) -> None:
    report = run_spectrum(SpectrumConfig(store=store, balance=BalanceMethod.SUBSETTING, top=3))
    with FeatureStore(store) as opened:
        x, train = opened.load(Split.TRAIN)
    assert report.groups.class_counts.tolist() == [train.class_counts.min()] * 2
    whole = run_spectrum(SpectrumConfig(store=store, top=3))
    group = x[train.ids == 3].astype(np.float64)
    np.testing.assert_allclose(whole.by_group.eigenvalues[3], np.linalg.eigvalsh(np.cov(group.T, ddof=0))[::-1][:3])
    with pytest.raises(DataError, match="training split"):
        run_spectrum(SpectrumConfig(store=store, balance=BalanceMethod.SUBSETTING, split="test"))


def test_empty_group_is_carried_through(tmp_path: Path) -> None:
    report = run_probe(ProbeConfig(store=write_store_of(tmp_path / "f.h5", make_plan(n=200)), seeds=(1,)))
    metrics = report.runs[0].test
    assert metrics.counts[5] == 0
    assert np.isnan(metrics.accuracy[5])
    assert any("c / q" in note for note in report.runs[0].notes)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"l2": (0.0,)}, ConfigError), ({"seeds": ()}, ConfigError), ({"seeds": (1, 1)}, ConfigError),
        ({"seeds": (-1,)}, ConfigError), ({"ratio": 0.5, "balance": (BalanceMethod.MIXTURE,)}, ConfigError),
        ({"rtol": 0.0}, ConfigError), ({"device": "tpu"}, DeviceError),
    ],
)  # fmt: skip
def test_bad_settings(store: Path, changes: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        run_probe(ProbeConfig(store=store, **changes))
