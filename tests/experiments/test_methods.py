"""`run_methods`: what is run, recorded, saved and refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import gaussian_store, make_plan, write_store_of

from grobust.errors import ConfigError, DataError, GroupError, StoreMismatchError
from grobust.experiments.methods import run_methods
from grobust.experiments.methods_config import MethodsConfig
from grobust.experiments.records import read_records
from grobust.features.parts import PartsWriter, StorePlan
from grobust.features.store import FeatureStore
from grobust.groups import Groups, Split
from grobust.heads import load_heads
from grobust.methods import METHODS
from grobust.metrics import group_metrics
from grobust.settings import SelectBy

QUICK = {"afr": {"gamma": "1,4", "strengths": "0", "steps": "20"}, "dfr": {"retrains": "2"}}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gaussian_store(tmp_path_factory.mktemp("methods") / "f.h5")


def without_attributes(path: Path, store: Path) -> Path:
    with FeatureStore(store) as opened:
        groups = Groups.from_arrays(opened.groups.labels, class_names=opened.groups.class_names)
        plan = StorePlan(opened.provenance, groups, opened.split, opened.sample_ids, opened.dim)
        return write_store_of(path, plan, np.array(opened.read()))


def test_runs_are_what_methods_give(store: Path, tmp_path: Path) -> None:
    config = MethodsConfig(
        store=store, methods=("erm", "dfr", "afr"), settings=QUICK, seeds=(1, 2), records=tmp_path / "r.jsonl",
        save=tmp_path / "h.safetensors", figures=tmp_path,
    )  # fmt: skip
    seen: list[tuple[int, int, str]] = []
    report = run_methods(config, on_progress=lambda *at: seen.append(at))
    assert seen == [(i, 6, name) for i, name in enumerate(("erm", "erm", "dfr", "dfr", "afr", "afr"))]
    assert [(run.name, run.seed) for run in report.runs] == [(m, s) for m in config.methods for s in (1, 2)]
    heads = load_heads(tmp_path / "h.safetensors")
    with FeatureStore(store) as opened:
        (x, test), (x_val, val), (_, train) = (opened.load(s) for s in (Split.TEST, Split.VAL, Split.TRAIN))
    for i, run in enumerate(report.runs):
        expected = group_metrics(heads.probe(i).predict(x), test, train_counts=train.counts)
        assert run.test.as_dict() == expected.as_dict()
        if run.val is not None:
            rows = run.fit.held_out
            head = run.fit.probe if run.fit.judged is None else run.fit.judged
            assert run.val.wga.value == group_metrics(head.predict(x_val[rows]), val.take(rows)).wga.value
    first, second = report.by_method()["erm"]
    assert first.fit is second.fit
    assert second.seconds == 0
    assert [run.fit.judged is None for run in report.runs] == [True, True, False, False, True, True]
    assert any("in the end: dfr" in note for note in report.notes)
    records = read_records(tmp_path / "r.jsonl", command="methods")
    assert [(r["results"]["method"], r["seed"]) for r in records] == [(r.name, r.seed) for r in report.runs]
    assert records[0]["config"]["methods"] == ["erm"]
    assert records[4]["config"]["settings"]["gamma"] == [1.0, 4.0]
    assert records[4]["results"]["chosen"] == dict(report.runs[4].fit.chosen)
    assert [Path(f).name for f in report.figures] == [f"wga_by_method.{end}" for end in ("png", "svg", "csv")]


def test_ledgers(store: Path) -> None:
    both, one = ("class", "attribute"), ("class",)
    methods = ("erm", "dfr", "llr", "rwg", "evals")
    report = run_methods(MethodsConfig(store=store, methods=methods, settings={"dfr": {"retrains": "1"}}, seeds=(1,)))
    labels = {run.name: dict(run.labels) for run in report.runs}
    assert labels["erm"] == {"train": one, "reweighting": (), "selection": both}
    assert labels["dfr"] == {"train": (), "reweighting": both, "selection": both}
    assert labels["llr"] == {"train": (), "reweighting": one, "selection": ()}
    assert labels["rwg"] == {"train": both, "reweighting": (), "selection": both}
    assert labels["evals"] == {"train": one, "reweighting": one, "selection": one}
    assert report.runs[1].ledger.train == both
    chosen = run_methods(
        MethodsConfig(store=store, methods=("erm", "rwg"), select=SelectBy.WORST_CLASS, seeds=(1,))
    )  # fmt: skip
    assert [run.ledger.selection for run in chosen.runs] == [one, one]
    fixed = run_methods(MethodsConfig(store=store, methods=("erm",), settings={"erm": {"l2": "0.1"}}, seeds=(1,)))
    assert fixed.runs[0].ledger.selection == ()


def test_all_leaves_out_what_the_data_do_not_allow(store: Path, tmp_path: Path) -> None:
    plain = without_attributes(tmp_path / "p.h5", store)
    settings = {"afr": QUICK["afr"], "self": {"steps": "10", "rows": "5"}, "cvar-dro": {"l2": "0.1", "alpha": "0.5"}}
    report = run_methods(MethodsConfig(store=plain, settings=settings, seeds=(1,)))
    needy = {name for name, method in METHODS.items() if method.needs.needs_attributes}
    assert set(report.skipped) == needy
    assert {run.name for run in report.runs} == set(METHODS) - needy
    assert all("attribute" not in run.ledger.train + run.ledger.selection for run in report.runs)
    assert any("no attribute: worst-group accuracy is that of the worst class" in note for note in report.notes)
    with pytest.raises(GroupError, match=r"needed by dfr(.|\n)*do without: erm"):
        run_methods(MethodsConfig(store=plain, methods=("erm", "dfr")))


def test_a_method_that_cannot_run_is_skipped_or_said(tmp_path: Path) -> None:
    no_val = gaussian_store(tmp_path / "a.h5", (0.8, 0.0, 0.2))
    report = run_methods(MethodsConfig(store=no_val, seeds=(1,), records=tmp_path / "r.jsonl"))
    assert "no validation rows" in report.skipped["erm"]
    assert report.runs == ()
    assert not (tmp_path / "r.jsonl").exists()
    with pytest.raises(GroupError, match="no validation rows") as caught:
        run_methods(MethodsConfig(store=no_val, methods=("erm",), seeds=(1,)))
    assert caught.value.__notes__ == ["method erm, seed 1"]
    fixed = MethodsConfig(store=no_val, methods=("erm",), settings={"erm": {"l2": "0.1"}}, seeds=(1,))
    assert run_methods(fixed).runs[0].val is None
    with pytest.raises(DataError, match="no training rows"):
        run_methods(MethodsConfig(store=gaussian_store(tmp_path / "b.h5", (0.0, 0.5, 0.5))))


def test_early_features_reach_methods_that_use_them(store: Path, tmp_path: Path) -> None:
    with FeatureStore(store) as opened:
        plan = StorePlan(opened.provenance, opened.groups, opened.split, opened.sample_ids, 1)
        early = write_store_of(tmp_path / "e.h5", plan, np.array(opened.read())[:, 1:2])
    config = MethodsConfig(store=store, methods=("ula",), settings={"ula": {"l2": "0.01"}}, seeds=(1,))
    plain, found = run_methods(config).runs[0], run_methods(replace(config, early=early)).runs[0]
    assert plain.fit.details["proxy_accuracy"] != found.fit.details["proxy_accuracy"]
    other = write_store_of(tmp_path / "o.h5", make_plan())
    with pytest.raises(StoreMismatchError, match="other rows"):
        run_methods(replace(config, early=other))


def test_test_rows_never_change_a_head(store: Path, tmp_path: Path) -> None:
    with FeatureStore(store) as opened:
        groups, split = opened.groups, opened.split
        labels = np.where(split == Split.TEST, 1 - groups.labels, groups.labels)
        flipped = Groups(labels, groups.attributes, groups.class_names, groups.attribute_names)
        plan = StorePlan(opened.provenance, flipped, split, opened.sample_ids, opened.dim)
        with PartsWriter(tmp_path / "g.h5", plan) as writer:
            writer.write(np.arange(opened.n), np.asarray(opened.read()))
            writer.finish()
    config = MethodsConfig(store=store, methods=("dfr", "afr", "jtt"), settings=QUICK, seeds=(1,))
    for a, b in zip(run_methods(config).runs, run_methods(replace(config, store=tmp_path / "g.h5")).runs, strict=True):
        np.testing.assert_array_equal(a.fit.probe.weight, b.fit.probe.weight)
        assert a.test.wga.value != b.test.wga.value


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"methods": ()}, "methods must be given"), ({"seeds": (1, 1)}, "each once"), ({"seeds": (-1,)}, "negative"),
        ({"methods": ("all", "erm")}, "alone"), ({"methods": ("ermm",)}, "Did you mean 'erm'"),
        ({"methods": ("erm",), "settings": {"dfr": {"retrains": "1"}}}, "which is not run"),
    ],
)  # fmt: skip
def test_bad_configs(store: Path, changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        MethodsConfig(store=store, **changes)
