"""Saved classifiers: the same predictions, no code in the file, and clear words about wrong files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from probe_problems import problem
from safetensors import safe_open
from safetensors.numpy import save_file
from sklearn.exceptions import NotFittedError

from grobust import GroupRobustClassifier, GroupRobustClassifierCV
from grobust.classifier import _file
from grobust.errors import DataError

LABELS = {
    "int": np.array([-3, 5, 9]), "str": np.array(["é", "b", "c"]), "object": np.array(["x", "y", "z"], dtype=object),
    "bool": np.array([False, True, True]),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(LABELS))
def test_round_trip(kind: str, tmp_path: Path) -> None:
    x, y = problem(200, 4, 3)
    labels = LABELS[kind][y]
    frame = pd.DataFrame(x, columns=list("abcd"))
    model = GroupRobustClassifier(balance="mixture", by="group", ratio=1.5, l2=np.float32(0.5), random_state=3)
    model.fit(frame, labels, groups=np.arange(200) % 2)
    model.save(tmp_path / "model.safetensors")
    loaded = GroupRobustClassifier.load(tmp_path / "model.safetensors")
    assert loaded.get_params() == model.get_params()
    assert loaded.classes_.dtype == model.classes_.dtype
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))
    np.testing.assert_array_equal(loaded.decision_function(frame), model.decision_function(frame))
    np.testing.assert_array_equal(loaded.feature_names_in_, model.feature_names_in_)
    for name in ("status", "message", "n_iter", "objective", "gap", "l2"):
        assert getattr(loaded.fit_, name) == getattr(model.fit_, name)
    np.testing.assert_allclose(loaded.fit_.probe.predict(x), model.fit_.probe.predict(x))
    assert loaded.n_iter_ == model.n_iter_
    assert loaded.notes_ == model.notes_
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_saved_search_is_its_best_classifier(tmp_path: Path) -> None:
    x, y = problem(200, 4, 2)
    search = GroupRobustClassifierCV(penalty="l1", cv=[(np.arange(100), np.arange(100, 200))]).fit(x, y)
    search.save(tmp_path / "best")
    loaded = GroupRobustClassifier.load(tmp_path / "best")
    np.testing.assert_array_equal(loaded.predict_proba(x), search.predict_proba(x))
    assert loaded.balance == search.best_params_["balance"]
    with pytest.raises(NotFittedError):
        GroupRobustClassifierCV().save(tmp_path / "none")
    with pytest.raises(NotFittedError):
        GroupRobustClassifier().save(tmp_path / "none")


def test_unpenalized_and_random_state(tmp_path: Path) -> None:
    x, y = problem(300, 3, 2, noise=4.0)
    model = GroupRobustClassifier(penalty=None, random_state=np.random.RandomState(0)).fit(x, y)
    model.save(tmp_path / "model")
    loaded = GroupRobustClassifier.load(tmp_path / "model")
    assert loaded.fit_.gap == np.inf
    assert isinstance(loaded.random_state, int)


def saved(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    x, y = problem(100, 4, 3)
    GroupRobustClassifier().fit(x, y).save(path)
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in ("coef", "intercept")}, file.metadata()


def changed(metadata: dict[str, str], **changes: Any) -> dict[str, str]:
    return {**metadata, "content": json.dumps({**json.loads(metadata["content"]), **changes})}


def test_wrong_files(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(DataError, match="No file at"):
        GroupRobustClassifier.load(path)
    tensors, metadata = saved(path)
    whole = path.read_bytes()
    for damaged in (whole[:-8], whole[:40], b"", b"not safetensors at all"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is not a whole safetensors file"):
            GroupRobustClassifier.load(path)
    stated = json.loads(metadata["content"])
    wrong = [
        (tensors, {}, "has format None"),
        (tensors, {**metadata, "version": "2"}, "version '2'; expected 'grobust-classifier', version '1'"),
        (tensors, {**metadata, "content": "{"}, "damaged: JSONDecodeError"),
        ({"coef": tensors["coef"]}, metadata, "damaged: KeyError: 'intercept'"),
        ({**tensors, "coef": tensors["coef"][:2]}, metadata, r"coef \(2, 4\) and intercept \(3,\) do not fit 3"),
        ({**tensors, "coef": tensors["coef"].astype(np.float32)}, metadata, "expected float64"),
        ({**tensors, "coef": tensors["coef"] * np.nan}, metadata, "not finite"),
        (tensors, changed(metadata, feature_names=["a"]), "1 feature names for 4"),
        (tensors, changed(metadata, classes={"dtype": "M8[s]", "values": [0, 1, 2]}), "dtype datetime64"),
        (tensors, changed(metadata, fit={**stated["fit"], "status": "fine"}), "'fine' is not a valid"),
        (tensors, changed(metadata, settings={**stated["settings"], "kernel": "rbf"}), "does not know: kernel"),
        (tensors, changed(metadata, settings=3), "damaged"),
    ]
    for arrays, header, message in wrong:
        save_file({name: np.ascontiguousarray(a) for name, a in arrays.items()}, path, metadata=header or None)
        with pytest.raises(DataError, match=message):
            GroupRobustClassifier.load(path)


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    x, y = problem(100, 4, 2)
    model = GroupRobustClassifier().fit(x, y)
    model.max_iter = object()
    with pytest.raises(DataError, match="a setting is not JSON"):
        model.save(tmp_path / "model")
    model.max_iter, model.classes_ = 5, np.array([b"a", b"b"])
    with pytest.raises(DataError, match="expected numbers or strings"):
        model.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "model")
    before = (tmp_path / "model").read_bytes()

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(_file.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        saved(tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_skops(tmp_path: Path) -> None:
    """skops asks for trust in grobust's own types, and in nothing that runs code."""
    x, y = problem(200, 4, 3)
    model = GroupRobustClassifier().fit(x, y)
    skops.io.dump(model, tmp_path / "model.skops")
    types = skops.io.get_untrusted_types(file=tmp_path / "model.skops")
    assert all(name.startswith("grobust.") for name in types), types
    loaded = skops.io.load(tmp_path / "model.skops", trusted=types)
    np.testing.assert_array_equal(loaded.decision_function(x), model.decision_function(x))
    assert loaded.fit_.status == model.fit_.status
