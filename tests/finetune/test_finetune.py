"""Runs of `finetune`: what they measure, keep, reuse and refuse."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from finetune_runs import digits, settings, small_backbone, two_greys
from helpers import text_backbone, toy_texts

from grobust.data.dataset import Split
from grobust.data.tables import ImagePixels, take_rows
from grobust.errors import (
    BackboneError,
    ConfigError,
    DataError,
    DeviceError,
    DivergedError,
    RunCorruptError,
    RunError,
    RunLockedError,
    RunMismatchError,
)
from grobust.features.extract import ExtractSettings, extract_features
from grobust.features.store import FeatureStore
from grobust.finetune import FinetuneProgress, FinetuneSettings, finetune
from grobust.metrics import group_metrics
from grobust.models.backbones import load_backbone
from grobust.models.run_files import RunFiles
from grobust.settings import BalanceBy, BalanceMethod, Match, Precision


def test_curve_is_what_the_kept_networks_predict(tmp_path: Path) -> None:
    """Oracle: features of the kept networks, and their heads, by the extraction path."""
    data, backbone = digits(), small_backbone()
    s = settings(epochs=4, eval_every=2, keep=None, balance=BalanceMethod.MIXTURE, lr=3e-3)
    seen: list[FinetuneProgress] = []
    result = finetune(data, backbone, s, out=tmp_path / "run", on_progress=seen.append)
    curve = result.curve.as_dict()
    assert (curve["epochs"], result.epochs_kept) == ([2, 4], (2, 4))
    assert curve["steps"] == [2 * result.balance.steps_per_epoch, 4 * result.balance.steps_per_epoch]
    assert curve["rows"] == [2 * result.balance.rows_per_epoch, 4 * result.balance.rows_per_epoch]
    assert [at.step for at in seen] == list(range(1, curve["steps"][-1] + 1))
    assert len(seen[-1].curve.evaluations) == 2
    sample = s.balancer().sample(data.groups.take(data.split == 0), seed=s.seed)
    for i, epoch in enumerate(curve["epochs"]):
        network = load_backbone(f"run:{result.path}@{epoch}")
        store = extract_features(data, network, tmp_path / f"{epoch}.h5").path
        with FeatureStore(store) as opened:
            (x, train), (x_val, val), (x_test, test) = (opened.load(split) for split in Split)
        for name, features, groups in (
            ("train", x[sample.indices], train.take(sample.indices)), ("val", x_val, val), ("test", x_test, test)
        ):  # fmt: skip
            expected = group_metrics(result.head(epoch).predict(features), groups, train_counts=train.counts)
            assert result.curve.metrics(name, i).as_dict() == expected.as_dict()
    lines = [json.loads(line) for line in (result.path / "curve.jsonl").read_text().splitlines()]
    assert [line["metrics"]["val"]["wga"] for line in lines] == curve["val"]["wga"]
    assert result.notes == sample.notes


def test_interpolation_is_found(tmp_path: Path) -> None:
    result = finetune(two_greys(), small_backbone(), settings(epochs=6, augment=False, lr=3e-3), out=tmp_path / "run")
    train = result.curve.as_dict()["train"]
    assert result.curve.interpolation_epoch is not None
    first = train["average"].index(1.0)
    assert result.curve.interpolation_epoch == first + 1
    assert result.curve.as_dict()["loss"][-1] < result.curve.as_dict()["loss"][0]


def test_a_finished_run_is_not_trained_again_and_another_one_is_refused(tmp_path: Path) -> None:
    data, backbone, path = digits(), small_backbone(), tmp_path / "run"
    first = finetune(data, backbone, settings(epochs=1), out=path)
    assert not first.reused
    again = finetune(data, backbone, settings(epochs=1, workers=0, keep=3), out=path, on_progress=pytest.fail)
    assert again.reused
    assert again.curve.as_dict() == first.curve.as_dict()
    with pytest.raises(RunMismatchError, match=r"settings.lr: run has 0.001, requested 0.002") as caught:
        finetune(data, backbone, settings(epochs=1, lr=2e-3), out=path)
    assert "settings.weight_decay" not in str(caught.value)
    assert "--overwrite" in str(caught.value)
    with pytest.raises(RunMismatchError, match=r"data.digest"):
        finetune(take_rows(data, range(len(data) - 1)), backbone, settings(epochs=1), out=path)
    with pytest.raises(RunMismatchError, match=r"backbone.weights_digest"):
        finetune(data, replace(backbone, digest="another"), settings(epochs=1), out=path)
    assert finetune(data, backbone, settings(epochs=1), out=path).reused
    other = finetune(data, backbone, settings(epochs=1, lr=2e-3), out=path, overwrite=True)
    assert not other.reused
    assert other.run != first.run


def test_a_run_without_a_folder_gets_one_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    s = settings(max_steps=1, balance="mixture", by="group", seed=4)
    result = finetune(digits(), small_backbone(), s)
    assert str(result.path) == "runs/digits-celeba-ge5-test_convnext-random-mixture-group-seed4"
    assert finetune(digits(), small_backbone(), s).reused


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    with FileLock(RunFiles(path).lock), pytest.raises(RunLockedError, match="Another process is training"):
        finetune(digits(), small_backbone(), settings(), out=path)
    assert not RunFiles(path).description.exists()


def test_extraction_while_training_keeps_the_networks_memory_layout(tmp_path: Path) -> None:
    data, backbone = digits(), small_backbone()
    digests = []
    for every in (None, 1):
        path = tmp_path / str(every)
        finetune(data, backbone, settings(epochs=2, extract_every=every, channels_last=False), out=path)
        digests.append(load_backbone(f"run:{path}@2").digest)
    assert digests[0] == digests[1]
    with FeatureStore(RunFiles(path).features(2)) as store:
        assert store.provenance.options["memory"] == "channels first"


def test_finetuned_networks_are_backbones(tmp_path: Path) -> None:
    """Stores of --extract-every are those of `run:` backbones; a finetuned network can be finetuned again."""
    data, backbone, path = digits(), small_backbone(), tmp_path / "run"
    finetune(data, backbone, settings(epochs=3, eval_every=1, keep=2, extract_every=2), out=path)
    files = RunFiles(path)
    assert files.epochs() == (2, 3)
    assert sorted(p.name for p in (path / "features").iterdir()) == ["epoch-0002.h5", "epoch-0003.h5"]
    loaded = load_backbone(f"run:{path}@2")
    assert loaded.digest != backbone.digest
    same = extract_features(data, loaded, files.features(2), settings=ExtractSettings(batch_size=32))
    assert same.reused
    with FeatureStore(files.features(2)) as store:
        assert store.provenance.options["epoch"] == "2"
        assert store.provenance.weights_digest == loaded.digest
    assert load_backbone(f"run:{path}").spec == load_backbone(f"run:{path}@last").spec == f"run:{path}@3"
    second = finetune(data, load_backbone(f"run:{path}@3"), settings(epochs=1), out=tmp_path / "second")
    assert load_backbone(f"run:{second.path}@1").dim == backbone.dim
    for spec, words in (
        (f"run:{path}@1", "Kept are those of epochs: 2, 3"),
        (f"run:{tmp_path}@1", "no folder of a finetuning run"),
        (f"run:{path}@best", "with a number or 'last'"),
    ):
        with pytest.raises(BackboneError, match=words):
            load_backbone(spec)
    damaged = bytearray(files.network(2).read_bytes())
    damaged[-1] ^= 1
    files.network(2).write_bytes(damaged)
    with pytest.raises(BackboneError, match="is damaged"):
        load_backbone(f"run:{path}@2")


def test_a_loss_that_is_not_finite_names_step_rows_and_checkpoint(tmp_path: Path) -> None:
    data, backbone = digits(), small_backbone()
    with torch.no_grad():
        next(iter(backbone.network.parameters())).fill_(float("nan"))
    s = settings()
    sample = s.balancer().sample(data.groups.take(data.split == 0), seed=s.seed)
    rows = np.flatnonzero(data.split == 0)[sample.draw(0)[: s.batch_size]]
    with pytest.raises(DivergedError, match=r"The loss is nan in step 1 of \d+ \(epoch 1\)") as caught:
        finetune(data, backbone, s, out=tmp_path / "run")
    assert all(data.sample_ids[row] in str(caught.value) for row in rows)
    assert "There is no checkpoint yet" in str(caught.value)
    # A rate without bounds: some steps are done, and a checkpoint is there.
    wild = settings(lr=1e12, optimizer="sgd", momentum=0.9, epochs=5, state_every=1, augment=False)
    with pytest.raises(DivergedError, match=r"The last good checkpoint is .*state.safetensors \(step \d+\)"):
        finetune(data, small_backbone(), wild, out=tmp_path / "wild")


def test_a_last_update_that_goes_wrong_is_no_result(tmp_path: Path) -> None:
    """The loss of the last step is finite; the network that it leaves is not."""
    s = settings(lr=1e38, max_steps=1, optimizer="sgd", augment=False)
    with pytest.raises(DivergedError, match=r"The loss is not finite on train, val, test after step 1 of 1"):
        finetune(digits(), small_backbone(), s, out=tmp_path / "run")
    assert not RunFiles(tmp_path / "run").result.exists()
    assert not RunFiles(tmp_path / "run").epochs()


class OneUnreadable(ImagePixels):
    """One training image cannot be read."""

    def __getitem__(self, index: int) -> object:
        if index == 30:
            raise DataError("image grey-30.png cannot be read: truncated.")
        return super().__getitem__(index)


def test_inputs_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    whole = two_greys()
    data = OneUnreadable(whole.name, whole.groups, whole.split, whole.sample_ids, whole.pixels, whole.tints)
    with pytest.raises(DataError, match=r"grey-30: image grey-30.png cannot be read: truncated"):
        finetune(data, small_backbone(), settings(), out=tmp_path / "run")


def test_texts_groups_steps_and_precision(tmp_path: Path) -> None:
    """Texts of unequal lengths; group balancing; equal steps; mixed precision; no validation rows."""
    data = toy_texts(80)
    data = replace(data, split=np.where(data.split == Split.VAL, Split.TEST, data.split).astype(np.int8))
    s = settings(balance=BalanceMethod.SUBSETTING, by=BalanceBy.GROUP, match=Match.STEPS, precision=Precision.BFLOAT16)
    result = finetune(data, text_backbone(), s, out=tmp_path / "run")
    train = data.groups.take(data.split == 0)
    assert result.curve.splits == ("train", "test")
    assert result.curve.groups["train"].counts.tolist() == [train.counts.min()] * 4
    assert result.curve.evaluations[-1].step == 2 * -(-len(train) // s.batch_size)
    with pytest.raises(BackboneError, match="a network of the caller's own"):
        load_backbone(f"run:{result.path}@2")


def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    data, backbone, path = digits(), small_backbone(), tmp_path / "run"
    with pytest.raises(BackboneError, match=r"takes texts; .* holds images"):
        finetune(data, text_backbone(), settings(), out=path)
    with pytest.raises(DataError, match="no training rows"):
        finetune(take_rows(data, np.flatnonzero(data.split != 0)), backbone, settings(), out=path)
    with pytest.raises(DeviceError, match="float16 training needs a GPU"):
        finetune(data, backbone, settings(precision=Precision.FLOAT16), out=path)
    with pytest.raises(ConfigError, match=r"warm-up of 9 epoch\(s\) leaves nothing"):
        finetune(data, backbone, settings(warmup=9), out=path)
    with pytest.raises(ConfigError, match="pip install mlflow"):
        finetune(data, backbone, settings(tracker="mlflow"), out=path)
    assert not path.exists()


def test_damaged_descriptions_are_named(tmp_path: Path) -> None:
    data, backbone, path = digits(), small_backbone(), tmp_path / "run"
    finetune(data, backbone, settings(epochs=1), out=path)
    files = RunFiles(path)
    good = files.result.read_text()
    files.result.write_text(good[:-20])
    with pytest.raises(RunCorruptError, match=r"result.json is damaged"):
        finetune(data, backbone, settings(epochs=1), out=path)
    files.description.write_text(files.description.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(RunError, match="has format 99"):
        finetune(data, backbone, settings(epochs=1), out=path)


def test_settings_have_the_papers_values() -> None:
    s = FinetuneSettings()
    assert (s.lr, s.weight_decay, s.batch_size, s.optimizer, s.schedule) == (1e-5, 1e-4, 32, "adamw", "cosine")
    assert (s.warmup, s.clip_norm, s.label_smoothing, s.precision) == (0, None, 0.0, "float32")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_tracker_gets_the_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    from accelerate.tracking import TensorBoardTracker

    logged: dict[str, list[int]] = {}
    original = TensorBoardTracker.log

    def log(self: TensorBoardTracker, values: dict, step: int | None = None, **more: object) -> None:
        for name in values:
            logged.setdefault(name, []).append(step or 0)
        original(self, values, step=step, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TensorBoardTracker, "log", log)
        result = finetune(digits(), small_backbone(), settings(tracker="tensorboard"), out=tmp_path / "run")
    curve = result.curve.as_dict()
    assert logged["val/wga"] == logged["test/average"] == curve["steps"]
    assert logged["train/loss"] == list(range(1, curve["steps"][-1] + 1))
    assert list(result.path.rglob("events.out.tfevents*"))
