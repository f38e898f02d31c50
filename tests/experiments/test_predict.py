"""run_predict: saved heads give the predictions and metrics of the run that made them, on fitting features only."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import gaussian_store, make_plan, write_store_of
from scipy.special import softmax

from grobust.errors import ConfigError, DataError, ShapeError, StoreMismatchError
from grobust.experiments.config import PredictConfig, ProbeConfig
from grobust.experiments.predict import run_predict
from grobust.experiments.probe import run_probe
from grobust.features.store import FeatureStore
from grobust.groups import Split
from grobust.heads import load_heads
from grobust.settings import BalanceMethod


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A store and heads fitted on it."""
    folder = tmp_path_factory.mktemp("predict")
    store, heads = gaussian_store(folder / "f.h5"), folder / "h.safetensors"
    run_probe(ProbeConfig(store=store, balance=(BalanceMethod.NONE, BalanceMethod.MIXTURE), seeds=(0, 1), save=heads))
    return store, heads


def test_metrics_are_those_of_the_run_that_saved(made: tuple[Path, Path]) -> None:
    store, heads = made
    probes = run_probe(ProbeConfig(store=store, balance=(BalanceMethod.NONE, BalanceMethod.MIXTURE), seeds=(0, 1)))
    report = run_predict(PredictConfig(store=store, heads=heads))
    assert [m.as_dict() for m in report.metrics] == [run.test.as_dict() for run in probes.runs]
    assert [i.name for i in report.infos] == ["none/seed0", "none/seed1", "mixture/seed0", "mixture/seed1"]
    assert report.infos[2].l2 == probes.runs[2].l2
    on_val = run_predict(PredictConfig(store=store, heads=heads, head="mixture/seed1", split="val"))
    assert [m.as_dict() for m in on_val.metrics] == [probes.runs[3].val.as_dict()]
    assert run_predict(PredictConfig(store=store, heads=heads, head="3")).infos == on_val.infos


def test_files_hold_every_row(made: tuple[Path, Path], tmp_path: Path) -> None:
    store, heads = made
    with FeatureStore(store) as opened:
        rows = opened.rows(Split.TEST)
        x, groups = opened.load(Split.TEST)
        ids = [opened.sample_ids[i] for i in rows]
    logits = np.stack([load_heads(heads).probe(i).logits(x) for i in range(4)])
    run_predict(PredictConfig(store=store, heads=heads, out=tmp_path / "sub" / "p.csv"))
    with (tmp_path / "sub" / "p.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 4 * rows.size
    assert [line["sample_id"] for line in lines[::4]] == ids
    assert [line["label"] for line in lines[::4]] == [groups.class_names[y] for y in groups.labels]
    second = lines[2::4]
    assert {line["head"] for line in second} == {"mixture/seed0"}
    names = groups.class_names
    for what, expected in (("logit", logits[2]), ("probability", softmax(logits[2], axis=1))):
        got = [[float(line[f"{what} {c}"]) for c in names] for line in second]
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert [line["prediction"] for line in second] == [names[y] for y in logits[2].argmax(axis=1)]
    run_predict(PredictConfig(store=store, heads=heads, head="1", out=tmp_path / "p.npz"))
    with np.load(tmp_path / "p.npz", allow_pickle=False) as saved:
        np.testing.assert_allclose(saved["logits"], logits[1:2], rtol=1e-12)
        np.testing.assert_array_equal(saved["predictions"], logits[1:2].argmax(axis=2))
        assert saved["sample_ids"].tolist() == ids
        assert saved["heads"].tolist() == ["none/seed1"]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def rewritten(store: Path, path: Path, *, classes: tuple[str, ...] | None = None, **changes: str) -> Path:
    """The same features under another provenance or other names of the classes."""
    with FeatureStore(store) as opened:
        groups = opened.groups if classes is None else replace(opened.groups, class_names=classes)
        plan = make_plan(opened.n, opened.dim, **changes)
        return write_store_of(path, replace(plan, groups=groups, split=opened.split), np.array(opened.read()))


def test_features_of_another_kind_are_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    store, heads = made
    other = rewritten(store, tmp_path / "o.h5", weights_digest="xyz", pooling="gap")
    with pytest.raises(StoreMismatchError) as error:
        run_predict(PredictConfig(store=other, heads=heads, out=tmp_path / "p.csv"))
    assert "weights_digest: heads abc, store xyz" in str(error.value)
    assert "pooling: heads model, store gap" in str(error.value)
    assert "--force" in str(error.value)
    assert not (tmp_path / "p.csv").exists()
    forced = run_predict(PredictConfig(store=other, heads=heads, force=True))
    assert any("pooling" in note for note in forced.notes)
    expected = run_predict(PredictConfig(store=store, heads=heads))
    assert forced.metrics[0].as_dict() == expected.metrics[0].as_dict()
    same_kind = rewritten(store, tmp_path / "s.h5", dataset="other", dataset_digest="d7")
    assert run_predict(PredictConfig(store=same_kind, heads=heads)).notes == expected.notes


def test_other_classes_have_no_metrics(made: tuple[Path, Path], tmp_path: Path) -> None:
    store, heads = made
    other = rewritten(store, tmp_path / "o.h5", classes=("no", "yes"))
    with pytest.raises(StoreMismatchError, match="classes: heads y0, y1, store no, yes"):
        run_predict(PredictConfig(store=other, heads=heads))
    forced = run_predict(PredictConfig(store=other, heads=heads, force=True, out=tmp_path / "p.csv"))
    assert forced.metrics == ()
    assert forced.as_dict()["heads"][0]["metrics"] is None
    with (tmp_path / "p.csv").open(encoding="utf-8") as file:
        line = next(csv.DictReader(file))
    assert line["label"] in ("no", "yes")
    assert line["prediction"] in ("y0", "y1")


def test_another_dimension_cannot_be_forced(made: tuple[Path, Path], tmp_path: Path) -> None:
    _, heads = made
    plan = make_plan(40, 5)
    plan = replace(plan, groups=replace(plan.groups, labels=plan.groups.labels % 2, class_names=("y0", "y1")))
    other = write_store_of(tmp_path / "o.h5", plan)
    with pytest.raises(StoreMismatchError, match="dim: heads 8, store 5"):
        run_predict(PredictConfig(store=other, heads=heads))
    with pytest.raises(ShapeError, match="cannot help"):
        run_predict(PredictConfig(store=other, heads=heads, force=True))


def test_what_is_missing_is_said(made: tuple[Path, Path], tmp_path: Path) -> None:
    store, heads = made
    with pytest.raises(DataError, match="is not a file"):
        run_predict(PredictConfig(store=store, heads=tmp_path / "no.safetensors"))
    with pytest.raises(ConfigError, match="no head"):
        run_predict(PredictConfig(store=store, heads=heads, head="none"))
    with pytest.raises(ConfigError, match="out must end"):
        PredictConfig(store=store, heads=heads, out=tmp_path / "p.xlsx")
    with pytest.raises(ConfigError, match="split must be"):
        PredictConfig(store=store, heads=heads, split="dev")
    with pytest.raises(DataError, match="no val rows"):
        run_predict(PredictConfig(store=gaussian_store(tmp_path / "a.h5", (0.8, 0.0, 0.2)), heads=heads, split="val"))
