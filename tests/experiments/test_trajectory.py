"""run_trajectories on a store: the curves are those of train_heads, and what they say is recorded and drawn."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import gaussian_store, make_plan, write_store_of

from grobust.balancing import make_balancer
from grobust.errors import ConfigError, DataError, DeviceError
from grobust.experiments.config import TrajectoryConfig
from grobust.experiments.records import read_records
from grobust.experiments.trajectory import run_trajectories
from grobust.features.store import FeatureStore
from grobust.groups import Split
from grobust.heads import load_heads
from grobust.metrics import group_metrics
from grobust.probe import SGD, TrainHead, train_heads
from grobust.settings import BalanceMethod, Match, SelectBy

METHODS = tuple(BalanceMethod)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return gaussian_store(tmp_path / "f.h5")


def test_curves_are_those_of_the_heads_trained_alone(store: Path) -> None:
    config = TrajectoryConfig(
        store=store, balance=METHODS, seeds=(0, 4), learning_rate=0.05, sgd=SGD(epochs=6), select=SelectBy.WGA
    )
    seen: list[tuple[int, int]] = []
    report = run_trajectories(config, on_progress=lambda *at: seen.append(at))
    assert seen == [(i, 6) for i in range(1, 7)]
    assert [(r.method, r.seed) for r in report.runs] == [(m, s) for m in METHODS for s in (0, 4)]
    with FeatureStore(store) as opened:
        (x, train), (x_val, val), (x_test, test) = (opened.load(split) for split in Split)
    run = report.of_method(BalanceMethod.MIXTURE)[1]
    sample = make_balancer(BalanceMethod.MIXTURE).sample(train, seed=4)
    alone = train_heads(
        x, train.labels, [TrainHead(sample, learning_rate=0.05)], n_classes=2, settings=config.sgd,
        evaluate={"val": (x_val, val), "test": (x_test, test)},
    )  # fmt: skip
    np.testing.assert_array_equal(run.accuracy["test"], alone.accuracy("test")[:, 0])
    np.testing.assert_array_equal(run.loss, alone.loss[:, 0])
    assert run.best_epoch == int(np.argmax(alone.wga("val")[:, 0])) + 1
    expected = group_metrics(alone.probes[0].predict(x_test), test, train_counts=train.counts)
    assert run.last.as_dict() == expected.as_dict()
    assert run.best is not None
    assert run.best.wga.value == alone.wga("test")[run.best_epoch - 1, 0]
    assert run.drop == pytest.approx(run.best.wga.value - run.last.wga.value)


def test_records_heads_and_figure_hold_the_curves(store: Path, tmp_path: Path) -> None:
    config = TrajectoryConfig(
        store=store, balance=(BalanceMethod.NONE, BalanceMethod.SUBSETTING), seeds=(1, 2), sgd=SGD(epochs=3),
        records=tmp_path / "r.jsonl", save=tmp_path / "h.safetensors", figures=tmp_path / "figures",
    )  # fmt: skip
    report = run_trajectories(config)
    records = read_records(tmp_path / "r.jsonl", command="trajectory")
    assert [(r["results"]["method"], r["seed"]) for r in records] == [
        ("none", 1), ("none", 2), ("subsetting", 1), ("subsetting", 2)
    ]  # fmt: skip
    curve = records[2]["results"]["epochs"]
    assert curve["test"]["wga"] == report.runs[2].wga("test").tolist()
    assert len(curve["train"]["groups"]) == len(curve["val"]["average"]) == 3
    assert records[0]["config"]["sgd"]["epochs"] == 3
    assert records[0]["label_ledger"]["selection"] == ["class"]
    heads = load_heads(tmp_path / "h.safetensors")
    assert [i.name for i in heads.infos][::2] == ["none/seed1", "subsetting/seed1"]
    with FeatureStore(store) as opened:
        x, test = opened.load(Split.TEST)
    assert group_metrics(heads.probe(3).predict(x), test).wga.value == report.runs[3].last.wga.value
    assert [Path(f).name for f in report.figures] == [f"trajectories.{end}" for end in ("png", "svg", "csv")]
    with Path(report.figures[2]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["wga"]) for r in rows[3:6]] == report.runs[1].wga("test").tolist()
    assert [int(r["steps"]) for r in rows[6:9]] == report.runs[2].steps.tolist()


def test_test_rows_choose_no_epoch(store: Path, tmp_path: Path) -> None:
    config = TrajectoryConfig(store=store, balance=METHODS, seeds=(1,), learning_rate=0.05, sgd=SGD(epochs=5))
    with FeatureStore(store) as opened:
        labels = np.where(opened.split == Split.TEST, 1 - opened.groups.labels, opened.groups.labels)
        plan = replace(
            make_plan(opened.n, opened.dim), groups=replace(opened.groups, labels=labels), split=opened.split
        )
        flipped = write_store_of(tmp_path / "g.h5", plan, np.array(opened.read()))
    first, second = run_trajectories(config), run_trajectories(replace(config, store=flipped))
    assert [r.best_epoch for r in first.runs] == [r.best_epoch for r in second.runs]
    assert first.runs[0].last.wga.value != second.runs[0].last.wga.value


def test_equal_steps_are_said(store: Path) -> None:
    config = TrajectoryConfig(
        store=store, balance=(BalanceMethod.NONE, BalanceMethod.SUBSETTING), seeds=(1,),
        sgd=SGD(epochs=2, match=Match.STEPS),
    )  # fmt: skip
    report = run_trajectories(config)
    assert report.runs[0].steps.tolist() == report.runs[1].steps.tolist()
    assert "equal steps" in report.notes[0]
    other = run_trajectories(replace(config, sgd=SGD(epochs=2)))
    assert other.runs[0].steps[-1] > other.runs[1].steps[-1]
    assert "equal epochs" in other.notes[0]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    report = run_trajectories(
        TrajectoryConfig(store=gaussian_store(tmp_path / "a.h5", (0.8, 0.0, 0.2)), seeds=(1,), sgd=SGD(epochs=2))
    )
    run = report.runs[0]
    assert (run.best_epoch, run.best, run.drop) == (None, None, None)
    assert any("no validation rows" in note for note in report.notes)
    assert report.ledger.selection == ()
    with pytest.raises(DataError, match="no test rows"):
        run_trajectories(TrajectoryConfig(store=gaussian_store(tmp_path / "b.h5", (0.8, 0.2, 0.0))))
    empty = run_trajectories(TrajectoryConfig(store=write_store_of(tmp_path / "c.h5", make_plan(200)), seeds=(1,)))
    assert any("c / q" in note for note in empty.runs[0].notes)
    assert empty.runs[0].as_dict()["epochs"]["test"]["groups"][0][5] is None


def test_divergence_is_said_and_recorded(store: Path, tmp_path: Path) -> None:
    config = TrajectoryConfig(
        store=store, seeds=(1,), learning_rate=1e30, sgd=SGD(epochs=3), records=tmp_path / "r.jsonl",
        save=tmp_path / "h.safetensors",
    )  # fmt: skip
    report = run_trajectories(config)
    assert any("diverged" in note for note in report.runs[0].notes)
    assert read_records(tmp_path / "r.jsonl")[0]["results"]["epochs"]["loss"][-1] is None
    assert load_heads(tmp_path / "h.safetensors").infos[0].status == "diverged"


@pytest.mark.parametrize("changes", [{"learning_rate": -1.0}, {"weight_decay": float("nan")}, {"device": "tpu"}])
def test_bad_settings(store: Path, changes: dict[str, object]) -> None:
    with pytest.raises(DeviceError if "device" in changes else ConfigError):
        run_trajectories(TrajectoryConfig(store=store, **changes))
