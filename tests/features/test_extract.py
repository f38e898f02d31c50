"""Extraction: the same features whatever the batches, failures listed, memory errors survived."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import CodesForward, SomeUnreadable, text_backbone, toy_texts

from grobust.data.digits import load_digits
from grobust.data.tables import Texts, take_rows
from grobust.errors import BackboneError, ConfigError, DataError, StoreMismatchError
from grobust.features.extract import ExtractSettings, OnError, Precision, Progress, extract_features, planned_parts
from grobust.features.store import FeatureStore
from grobust.models.backbones import load_backbone

DATA = toy_texts()


BROKEN = SomeUnreadable(DATA.name, DATA.groups, DATA.split, DATA.sample_ids, DATA.texts)


def by_hand() -> np.ndarray:
    """Features of each text alone, in NumPy."""
    weight = np.arange(12).reshape(4, 3) / 10
    codes = [np.array([ord(c) for c in text], dtype=np.float64) for text in DATA.texts]
    moments = np.array([[c.sum(), c.size, c.max()] for c in codes]) / 100
    return moments @ weight.T


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_features_equal_those_of_each_item_alone(tmp_path: Path, workers: int, batch_size: int) -> None:
    settings = ExtractSettings(batch_size=batch_size, workers=workers)
    seen: list[Progress] = []
    result = extract_features(DATA, text_backbone(), tmp_path / "f.h5", settings=settings, on_progress=seen.append)
    np.testing.assert_allclose(FeatureStore(result.path).read(), by_hand(), rtol=1e-5)
    assert (result.n, result.n_extracted, result.n_resumed, result.reused) == (50, 50, 0, False)
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    assert seen[-1].done == seen[-1].total == 50


def test_batches_hold_texts_of_like_length_and_every_row_once() -> None:
    parts = list(planned_parts(DATA, ExtractSettings(batch_size=8, part_rows=16)))
    batches = [batch for part in parts for batch in part]
    assert sorted(np.concatenate(batches).tolist()) == list(range(50))
    lengths = [[len(DATA.texts[row]) for row in batch] for batch in batches]
    assert all(min(a) >= max(b) for a, b in itertools.pairwise(lengths))
    assert [sum(map(len, part)) for part in parts] == [16, 16, 16, 2]


def test_a_finished_store_is_reused_and_never_with_other_settings(tmp_path: Path) -> None:
    forward = CodesForward()
    backbone = text_backbone(forward)
    extract_features(DATA, backbone, tmp_path / "f.h5")
    calls = len(forward.calls)
    again = extract_features(DATA, backbone, tmp_path / "f.h5")
    assert again.reused
    assert len(forward.calls) == calls
    with pytest.raises(StoreMismatchError, match="precision"):
        extract_features(DATA, backbone, tmp_path / "f.h5", settings=ExtractSettings(precision=Precision.BFLOAT16))
    other = ExtractSettings(dtype="float16")
    assert extract_features(DATA, backbone, tmp_path / "f.h5", settings=other, overwrite=True).n_extracted == 50
    assert FeatureStore(tmp_path / "f.h5").dtype == np.float16


def test_unreadable_inputs_stop_the_run_and_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 input\(s\)") as error:
        extract_features(BROKEN, text_backbone(), tmp_path / "f.h5")
    assert "t3: text 3 is corrupt" in str(error.value)
    assert "t11: text 11 is corrupt" in str(error.value)


def test_inputs_skipped_by_an_interrupted_run_are_tried_again(tmp_path: Path) -> None:
    """Interrupted after the parts with the skipped inputs, and resumed once these are mended."""
    settings = ExtractSettings(on_error=OnError.SKIP, batch_size=4, part_rows=8)

    def stop_late(progress: Progress) -> None:
        if progress.done >= 44:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(BROKEN, text_backbone(), tmp_path / "f.h5", settings=settings, on_progress=stop_late)
    result = extract_features(DATA, text_backbone(), tmp_path / "f.h5", settings=settings)
    assert (result.n, result.skipped) == (50, ())
    assert result.n_resumed + result.n_extracted == 50
    assert result.n_resumed > 30
    np.testing.assert_allclose(FeatureStore(tmp_path / "f.h5").read(), by_hand(), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_unreadable_inputs_can_be_skipped(tmp_path: Path, batch_size: int) -> None:
    settings = ExtractSettings(on_error=OnError.SKIP, batch_size=batch_size)
    result = extract_features(BROKEN, text_backbone(), tmp_path / "f.h5", settings=settings)
    assert sorted(result.skipped) == [("t11", "text 11 is corrupt"), ("t3", "text 3 is corrupt")]
    store = FeatureStore(tmp_path / "f.h5")
    assert sorted(store.skipped) == sorted(result.skipped)
    assert (store.n, result.n, result.n_extracted) == (48, 48, 48)
    np.testing.assert_allclose(store.read(), np.delete(by_hand(), [3, 11], axis=0), rtol=1e-5)


def test_the_batch_is_cut_when_memory_runs_out(tmp_path: Path) -> None:
    settings = ExtractSettings(batch_size=32)
    result = extract_features(DATA, text_backbone(CodesForward(limit=5)), tmp_path / "f.h5", settings=settings)
    np.testing.assert_allclose(FeatureStore(result.path).read(), by_hand(), rtol=1e-5)
    assert result.notes[-1] == "out of memory: batch size reduced to 4"


def test_no_memory_for_a_single_row(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="a single row"):
        extract_features(DATA, text_backbone(CodesForward(limit=0)), tmp_path / "f.h5")


def test_autocast_is_used_and_recorded(tmp_path: Path) -> None:
    settings = ExtractSettings(precision=Precision.BFLOAT16)
    extract_features(DATA, text_backbone(), tmp_path / "f.h5", settings=settings)
    store = FeatureStore(tmp_path / "f.h5")
    assert store.provenance.precision == "bfloat16"
    features = torch.from_numpy(np.array(store.read()))
    assert torch.equal(features, features.bfloat16().float())
    np.testing.assert_allclose(store.read(), by_hand(), rtol=0.02)


def test_kinds_must_agree(tmp_path: Path) -> None:
    class Images(Texts):
        pass

    images = Images(DATA.name, DATA.groups, DATA.split, DATA.sample_ids, DATA.texts, kind="image")
    with pytest.raises(BackboneError, match="takes texts"):
        extract_features(images, text_backbone(), tmp_path / "f.h5")


@pytest.mark.gpu
def test_cuda_equals_cpu(tmp_path: Path) -> None:
    data = take_rows(load_digits(), range(100))
    for device in ("cpu", "cuda"):
        backbone = load_backbone("packaged:efficientnet_lite0", image_size=64, device=device)
        extract_features(data, backbone, tmp_path / f"{device}.h5")
    expected, found = FeatureStore(tmp_path / "cpu.h5").read(), FeatureStore(tmp_path / "cuda.h5").read()
    # TF32 convolutions carry ten bits of mantissa.
    np.testing.assert_allclose(found, expected, atol=2e-2 * float(np.abs(expected).max()))


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"workers": -1}, {"dtype": "int8"}, {"part_rows": 0}])
def test_settings_check_themselves(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ExtractSettings(**bad)
