"""run_select and run_compare on records and heads: choices, worth, ledgers, verdicts and refusals."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
import pytest
from helpers import gaussian_store, make_plan, write_store_of
from scipy.stats import ttest_rel
from sklearn.metrics import recall_score

from grobust.errors import ConfigError, DataError, GroupError, StoreMismatchError
from grobust.experiments.compare import CompareReport, run_compare
from grobust.experiments.config import ProbeConfig, TrajectoryConfig
from grobust.experiments.evidence_config import CompareConfig, Epochs, SelectConfig
from grobust.experiments.probe import run_probe
from grobust.experiments.recorded import read_panels
from grobust.experiments.records import Record, append_records, read_records
from grobust.experiments.select import run_select
from grobust.experiments.trajectory import run_trajectories
from grobust.features.parts import PartsWriter, StorePlan
from grobust.features.store import FeatureStore
from grobust.groups import Groups, Split
from grobust.heads import HeadInfo, Heads, save_heads
from grobust.metrics import group_metrics
from grobust.probe import Probe
from grobust.selection import Selector, ValidationArrays, fit_bias_proxy
from grobust.settings import SGD, BalanceBy, BalanceMethod, SelectBy

METHODS = tuple(BalanceMethod)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gaussian_store(tmp_path_factory.mktemp("store") / "f.h5")


@pytest.fixture(scope="module")
def recorded(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "r.jsonl"
    run_probe(ProbeConfig(store=store, balance=METHODS, seeds=(1, 2), records=path))
    run_trajectories(
        TrajectoryConfig(
            store=store, balance=METHODS, seeds=(1, 2), learning_rate=0.05, sgd=SGD(epochs=4), records=path
        )
    )
    return path


def a_record(method: str, seed: int, wga: float, scores: dict[str, float | None], **changes: Any) -> Record:
    """A probe's record, with what `grobust select` reads of it."""
    n, value = {"n": 10, "low": None, "high": None}, dict.fromkeys(SelectBy, 0.5) | {"wga": wga}
    metrics = {str(m): {**n, "value": value[m]} for m in ("wga", "average", "average_group", "worst_class")}
    results = {"method": method, "seed": seed, "val_scores": scores, "val": metrics, "test": metrics}
    config = {"balance": [method], "by": "class", "ratio": 2.0, "seeds": [seed], **changes}
    ledger = {"train": ["class"], "selection": ["class"], "evaluation": ["class", "attribute"]}
    return Record("probe", config, asdict(make_plan().provenance), {}, "cpu", seed, ledger, results)


def test_scores_in_records_are_those_of_selectors(store: Path, recorded: Path, tmp_path: Path) -> None:
    saved = tmp_path / "h.safetensors"
    report = run_probe(ProbeConfig(store=store, balance=METHODS, seeds=(1, 2), save=saved))
    with FeatureStore(store) as opened:
        (x, train), (x_val, val) = opened.load(Split.TRAIN), opened.load(Split.VAL)
        proxy = fit_bias_proxy(x, train.labels, n_classes=2)
        rows = ValidationArrays(opened.groups, opened.split, proxy.read(x_val, val))
    records = read_records(recorded, command="probe")
    for run, record in zip(report.runs, records, strict=True):
        scores = record["results"]["val_scores"]
        assert set(scores) == {str(select) for select in SelectBy}
        predictions = run.fit.probe.predict(x_val)[None]
        for select in SelectBy:
            assert scores[select] == pytest.approx(Selector(select).choose(predictions, rows).score)
    told = records[0]["results"]["proxy"]
    assert told["n"] == len(val)
    assert told["accuracy"] == pytest.approx(np.mean(proxy.probe.predict(x_val) == val.labels))
    assert "no balancing" in told["description"]


def test_a_run_can_choose_by_a_proxy(store: Path) -> None:
    for select in (SelectBy.BIAS_UNSUPERVISED, SelectBy.CLASS_DIFFERENCE):
        report = run_probe(ProbeConfig(store=store, select=select, seeds=(1,), balance=(BalanceMethod.SUBSETTING,)))
        (run,) = report.runs
        assert run.val_scores.get(str(select)) == max(c.score for c in run.candidates if c.score is not None)
        assert report.ledger.selection == ("class",)
        assert (report.proxy is None) == (select is SelectBy.CLASS_DIFFERENCE)
    curves = run_trajectories(
        TrajectoryConfig(store=store, select=SelectBy.BIAS_UNSUPERVISED, sgd=SGD(epochs=3), seeds=(1,))
    )
    scores = curves.runs[0].val_scores["bias_unsupervised"]
    assert curves.runs[0].best_epoch == int(np.argmax(scores)) + 1
    with pytest.raises(ConfigError, match="proxy_l2 must be positive"):
        ProbeConfig(store=store, proxy_l2=0.0)


def test_a_class_absent_from_validation_is_said(store: Path, tmp_path: Path) -> None:
    with FeatureStore(store) as opened:
        split = np.where((opened.split == Split.VAL) & (opened.groups.labels == 1), Split.TRAIN, opened.split)
        plan = StorePlan(opened.provenance, opened.groups, split.astype(np.int8), opened.sample_ids, opened.dim)
        with PartsWriter(tmp_path / "g.h5", plan) as writer:
            writer.write(np.arange(opened.n), np.asarray(opened.read()))
            other = writer.finish()
    note = "class 'y1' has no validation rows: no score sees it"
    report = run_probe(ProbeConfig(store=other, seeds=(1,), select=SelectBy.BIAS_UNSUPERVISED))
    assert note in report.notes
    assert report.runs[0].val_scores["worst_class"] == report.runs[0].val.average.value
    curves = run_trajectories(TrajectoryConfig(store=other, seeds=(1,), sgd=SGD(epochs=2)))
    assert note in curves.notes


def test_scores_on_groups_need_attributes(tmp_path: Path) -> None:
    groups = Groups.from_arrays(np.arange(60) % 2, class_names=("a", "b"))
    store = write_store_of(tmp_path / "f.h5", replace(make_plan(60), groups=groups))
    with pytest.raises(GroupError, match=r"no attributes. Without: worst_class"):
        run_probe(ProbeConfig(store=store, select=SelectBy.WGA))
    run_probe(ProbeConfig(store=store, records=tmp_path / "r.jsonl", balance=METHODS))
    (panel,) = run_select(SelectConfig(tmp_path / "r.jsonl")).panels
    found = {s.criterion: s for s in panel.selections}
    assert found[SelectBy.WORST_CLASS].choice is not None
    assert found[SelectBy.WGA].choice is None
    assert "without validation rows or attributes" in found[SelectBy.WGA].reason
    assert found[SelectBy.WORST_CLASS].gap_to_oracle is None


def test_curves_have_every_score_of_every_epoch(store: Path, recorded: Path) -> None:
    with FeatureStore(store) as opened:
        val = opened.groups.take(opened.split == Split.VAL)
    for record in read_records(recorded, command="trajectory"):
        curve = record["results"]["epochs"]["val"]
        assert set(curve["scores"]) == {str(select) for select in SelectBy}
        assert curve["scores"]["wga"] == pytest.approx(curve["wga"])
        assert curve["scores"]["average"] == pytest.approx(curve["average"])
        assert curve["counts"] == val.counts.tolist()
        recalls = (np.array(curve["groups"]) * val.counts).reshape(4, 2, 2).sum(axis=2) / val.class_counts
        assert curve["scores"]["worst_class"] == pytest.approx(recalls.min(axis=1).tolist())


def test_choices_and_their_worth_are_those_of_a_loop(recorded: Path) -> None:
    report = run_select(SelectConfig(recorded))
    assert [p.panel.command for p in report.panels] == ["probe", "trajectory"]
    for panel in report.panels:
        records = read_records(recorded, command=panel.panel.command)

        def at_end(record: dict[str, Any], select: str) -> tuple[float, float]:
            results = record["results"]
            if "epochs" not in results:
                return results["val_scores"][select], results["test"]["wga"]["value"]
            return results["epochs"]["val"]["scores"][select][-1], results["epochs"]["test"]["wga"][-1]

        for found in panel.selections:
            of_method = {
                m: [at_end(r, str(found.criterion)) for r in records if r["results"]["method"] == m] for m in METHODS
            }
            best = max(METHODS, key=lambda m: fmean(score for score, _ in of_method[m]))
            assert found.choice is not None
            assert found.choice.name.startswith(best)
            values = [wga for _, wga in of_method[best]]
            assert found.test_wga == pytest.approx(tuple(values))
            assert (found.mean, found.sd) == pytest.approx((fmean(values), pstdev(values)))
            worth = {m: fmean(wga for _, wga in own) for m, own in of_method.items()}
            assert found.gap_to_best is not None
            assert found.gap_to_best.value == pytest.approx(max(worth.values()) - worth[best])
            a, b = (np.array([w for _, w in of_method[m]]) for m in (max(METHODS, key=lambda m: worth[m]), best))
            if np.ptp(a - b) > 0:
                expected = ttest_rel(a, b).confidence_interval(0.95)
                assert (found.gap_to_best.low, found.gap_to_best.high) == pytest.approx((expected.low, expected.high))
            assert found.ledger is not None
            assert ("attribute" in found.ledger.selection) == found.criterion.needs_groups
        oracle = next(s for s in panel.selections if s.criterion is SelectBy.WGA)
        assert oracle.gap_to_oracle is not None
        assert oracle.gap_to_oracle.value == 0.0
        json.dumps(report.as_dict(), allow_nan=False)


def test_every_epoch_can_be_a_candidate(recorded: Path) -> None:
    (panel,) = run_select(SelectConfig(recorded, (SelectBy.WGA,), Epochs.EACH, "trajectory")).panels
    (found,) = panel.selections
    scores = {}
    for record in read_records(recorded, command="trajectory"):
        for epoch, score in enumerate(record["results"]["epochs"]["val"]["scores"]["wga"], start=1):
            scores.setdefault((record["results"]["method"], epoch), []).append(score)
    best = max(scores, key=lambda key: fmean(scores[key]))
    assert found.choice is not None
    assert found.choice.score == pytest.approx(fmean(scores[best]))
    assert found.epoch == best[1]
    assert found.choice.name.endswith(f"epoch {best[1]}")


def test_the_ledger_holds_the_choices_inside_the_runs(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    run_probe(ProbeConfig(store=store, balance=METHODS[:2], seeds=(1,), select=SelectBy.WGA, records=path))
    run_probe(
        ProbeConfig(
            store=store, balance=METHODS[1:3], seeds=(1,), select=SelectBy.WGA, by=BalanceBy.GROUP, records=path
        )
    )
    (panel,) = run_select(SelectConfig(path, (SelectBy.WORST_CLASS,))).panels
    (found,) = panel.selections
    assert found.ledger is not None
    assert found.ledger.selection == ("class", "attribute")
    assert [c.name for c in panel.panel.candidates] == [
        "none", "subsetting", "subsetting by group", "upsampling by group",
    ]  # fmt: skip
    assert ("attribute" in found.ledger.train) == (found.choice is not None and "by group" in found.choice.name)


def test_panels_take_the_seeds_that_all_have_and_the_last_of_repeats(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    scores = {"wga": 0.5, "worst_class": 0.5}
    append_records(path, [a_record("none", s, 0.1 * s, scores) for s in (1, 2, 3)])
    append_records(path, [a_record("mixture", s, 0.1 * s, scores, ratio=r) for r in (2.0, 3.0) for s in (2, 3)])
    append_records(path, [a_record("none", 3, 0.9, scores), a_record("none", 3, 0.8, scores, l2=[9.0])])
    (panel,) = read_panels(path, command="probe")
    assert [c.name for c in panel.candidates] == ["none", "mixture 2:1", "mixture 3:1", "none, l2 9"]
    assert panel.seeds == (3,)
    assert any("recorded again" in note for note in panel.notes)
    assert any("seed(s) 1, 2 left out" in note for note in panel.notes)
    assert panel.candidates[0].runs[3].points[0].test["wga"] == 0.9
    append_records(path, [a_record("upsampling", 7, 0.1, scores)])
    with pytest.raises(DataError, match="no seed was run with every method"):
        read_panels(path)


def test_scores_that_are_not_recorded_are_named(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append_records(path, [a_record("none", 1, 0.3, {"wga": 0.3, "bias_unsupervised": 0.4})])
    append_records(path, [a_record("mixture", 1, 0.5, {"wga": 0.5, "bias_unsupervised": None})])
    (panel,) = run_select(SelectConfig(path)).panels
    found = {s.criterion: s for s in panel.selections}
    assert found[SelectBy.WGA].choice is not None
    assert found[SelectBy.WGA].choice.name == "mixture 2:1"
    assert found[SelectBy.BIAS_UNSUPERVISED].choice is None
    assert "mixture 2:1" in found[SelectBy.BIAS_UNSUPERVISED].reason
    assert "no run has it" in found[SelectBy.CLASS_DIFFERENCE].reason


def test_finetuning_curves_are_read(tmp_path: Path) -> None:
    """Curves that evaluate some epochs, with metrics for scores and settings of their own below the config."""
    path = tmp_path / "r.jsonl"
    for seed, method in ((1, "none"), (2, "none"), (1, "mixture"), (2, "mixture")):
        bonus = 0.2 * (method == "mixture")
        split = {
            "wga": [0.3, 0.4 + bonus], "average": [0.8, 0.9], "worst_class": [0.5, 0.6 + bonus],
            "groups": [[0.3, 0.9, None, 0.8], [0.4 + bonus, 0.9, None, 0.9]],
        }  # fmt: skip
        record = a_record(method, seed, 0.5, {})
        record.results.pop("val_scores")
        record.results["epochs"] = {"epochs": [10, 20], "val": split, "test": split}
        record.config.clear()
        record.config.update(
            {"dataset": "d", "settings": {"seed": seed, "balance": method, "by": "class", "ratio": 3.0}}
        )
        append_records(path, [Record(**{**asdict(record), "command": "finetune"})])
    (panel,) = run_select(SelectConfig(path, epochs=Epochs.EACH)).panels
    assert [c.name for c in panel.panel.candidates] == ["none", "mixture 3:1"]
    found = {s.criterion: s for s in panel.selections}
    for criterion in (SelectBy.WGA, SelectBy.WORST_CLASS, SelectBy.AVERAGE_GROUP):
        choice = found[criterion].choice
        assert choice is not None
        assert choice.name == "mixture 3:1, epoch 20"
        assert found[criterion].mean == pytest.approx(0.6)
    assert found[SelectBy.BIAS_UNSUPERVISED].choice is None


@pytest.mark.parametrize("damage", ["epochs", "test", "ledger"])
def test_damaged_records_are_named(tmp_path: Path, damage: str) -> None:
    record = a_record("none", 1, 0.5, {"wga": 0.5})
    if damage == "epochs":
        record.results["epochs"] = {"test": {"wga": []}}
    elif damage == "test":
        record.results["test"].pop("average")
    else:
        record.label_ledger.clear()
    append_records(tmp_path / "r.jsonl", [record])
    with pytest.raises(DataError, match=r"line 1 lacks or damages what a run of `grobust .*, and run it again"):
        run_select(SelectConfig(tmp_path / "r.jsonl"))


def test_nothing_to_choose_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No records"):
        run_select(SelectConfig(tmp_path / "none.jsonl"))
    append_records(tmp_path / "r.jsonl", [Record("spectrum", {}, {}, {}, "cpu", None, {}, {"groups": []})])
    with pytest.raises(DataError, match="no runs with metrics on test rows"):
        run_select(SelectConfig(tmp_path / "r.jsonl"))
    with pytest.raises(DataError, match="`finetune`"):
        run_select(SelectConfig(tmp_path / "r.jsonl", command="finetune"))
    with pytest.raises(ConfigError):
        SelectConfig(tmp_path, ())


def compared(values: dict[str, list[float]], tmp_path: Path, **changes: Any) -> CompareReport:
    path = tmp_path / "r.jsonl"
    path.unlink(missing_ok=True)
    append_records(
        path, [a_record(m, s, v, {"wga": v}) for m, own in values.items() for s, v in enumerate(own, start=1)]
    )
    return run_compare(CompareConfig(source=path, **changes))


def test_few_seeds_are_not_ranked_and_enough_are(tmp_path: Path) -> None:
    steady = [0.50, 0.52, 0.51, 0.53, 0.49, 0.50, 0.515, 0.505]
    better = [v + 0.1 + 0.001 * i for i, v in enumerate(steady)]
    (few,) = compared({"none": steady[:3], "mixture": better[:3]}, tmp_path).comparisons
    (pair,) = few.pairs
    assert not pair.ranked
    assert "3 seeds are too few, 6 are needed" in pair.verdict
    assert pair.over_seeds.high < 0
    (enough,) = compared({"none": steady, "mixture": better}, tmp_path).comparisons
    (pair,) = enough.pairs
    assert pair.ranked
    assert pair.verdict.startswith("mixture 2:1 is better over seeds, on these test rows")
    assert pair.seeds_p == pytest.approx(2 / 2**8)
    noisy = [0.3, 0.7, 0.45, 0.6, 0.35, 0.55, 0.65, 0.5]
    (same,) = compared({"none": steady, "mixture": noisy}, tmp_path).comparisons
    assert not same.pairs[0].ranked
    assert "cannot tell the two apart" in same.pairs[0].verdict


def test_pairs_are_corrected_for_their_number(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    base = 0.5 + 0.01 * rng.random(7)
    values = {"none": base, "mixture": base + 0.1 + 0.001 * rng.random(7), "subsetting": base + 0.2, "upsampling": base}
    (all_pairs,) = compared({m: v.tolist() for m, v in values.items()}, tmp_path).comparisons
    assert len(all_pairs.pairs) == 6
    # 6 comparisons: 7 seeds cannot reach 5%, 8 can. Against one baseline there are 3, and 7 are enough.
    assert {pair.ranked for pair in all_pairs.pairs} == {False}
    (one,) = compared({m: v.tolist() for m, v in values.items()}, tmp_path, baseline="none").comparisons
    assert [(p.first, p.ranked) for p in one.pairs] == [
        ("mixture 2:1", True), ("subsetting", True), ("upsampling", False),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="no method 'x'"):
        compared({m: v.tolist() for m, v in values.items()}, tmp_path, baseline="x")


def heads_of(store: FeatureStore, directions: dict[str, list[np.ndarray]]) -> Heads:
    probes, infos = [], []
    for method, own in directions.items():
        for seed, direction in enumerate(own, start=1):
            probes.append(Probe(np.stack([-direction, direction]), np.zeros(2)))
            infos.append(HeadInfo(f"{method}/seed{seed}", method=method, by="class", seed=seed))
    return Heads.of_probes(
        probes, infos, class_names=store.groups.class_names, attribute_names=store.groups.attribute_names,
        provenance=store.provenance,
    )  # fmt: skip


def test_heads_are_compared_on_rows(store: Path, tmp_path: Path) -> None:
    axis = np.eye(8)
    with FeatureStore(store) as opened:
        saved = save_heads(heads_of(opened, {"core": [axis[0]] * 2, "shortcut": [axis[1]] * 2, "twin": [axis[0]] * 2}),
                           tmp_path / "h.safetensors")  # fmt: skip
        x, test = opened.load(Split.TEST)
    (found,) = run_compare(CompareConfig(source=store, heads=saved)).comparisons
    assert found.n_rows == len(test)
    for method, i in (("core", 0), ("shortcut", 1)):
        own = next(m for m in found.methods if m.name == method)
        expected = group_metrics((x[:, i] > 0).astype(int), test).wga.value
        assert own.mean == pytest.approx(expected)
        assert own.rows.low <= expected <= own.rows.high
    pairs = {(p.first, p.second): p for p in found.pairs}
    assert pairs["core", "shortcut"].ranked
    assert "core is better on new rows" in pairs["core", "shortcut"].verdict
    assert math.isnan(pairs["core", "shortcut"].seeds_p)
    assert not pairs["core", "twin"].ranked
    assert pairs["core", "twin"].over_rows.value == 0
    assert found.methods[0].low == found.methods[0].high
    assert json.loads(json.dumps(run_compare(CompareConfig(source=store, heads=saved)).as_dict(), allow_nan=False))
    recall = (
        run_compare(CompareConfig(source=store, heads=saved, metric=SelectBy.WORST_CLASS)).comparisons[0].methods[0]
    )
    assert recall.mean == pytest.approx(min(recall_score(test.labels, (x[:, 0] > 0).astype(int), average=None)))


def test_one_head_per_method_is_not_ranked(store: Path, tmp_path: Path) -> None:
    axis = np.eye(8)
    with FeatureStore(store) as opened:
        saved = save_heads(heads_of(opened, {"core": [axis[0]], "shortcut": [axis[1]]}), tmp_path / "h.safetensors")
    (pair,) = run_compare(CompareConfig(source=store, heads=saved)).comparisons[0].pairs
    assert not pair.ranked
    assert "1 seed says nothing about training; these very heads differ on new rows" in pair.verdict


def test_what_cannot_be_compared_is_said(store: Path, recorded: Path, tmp_path: Path) -> None:
    with FeatureStore(store) as opened:
        heads = heads_of(opened, {"core": [np.eye(8)[0]]})
    saved = save_heads(heads, tmp_path / "h.safetensors")
    with pytest.raises(DataError, match="one method"):
        run_compare(CompareConfig(source=store, heads=saved))
    other = write_store_of(tmp_path / "o.h5", make_plan(60))
    with pytest.raises(StoreMismatchError, match="dim"):
        run_compare(CompareConfig(source=other, heads=saved))
    with pytest.raises(ConfigError, match="needs --heads"):
        run_compare(CompareConfig(source=recorded, split="val"))
    for changes in ({"metric": SelectBy.CLASS_DIFFERENCE}, {"split": "train"}, {"alpha": 0.0}, {"replicates": 0}):
        with pytest.raises(ConfigError):
            CompareConfig(source=recorded, **changes)  # type: ignore[arg-type]
