"""Crash-safe writing: parts survive, damaged ones are redone, one writer wins, a full disk is an error in words."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest
from helpers import features_of, make_plan, write_store_of

from grobust.errors import ShapeError, StoreError, StoreIncompleteError, StoreLockedError, StoreMismatchError
from grobust.features.parts import PartsWriter
from grobust.features.store import FeatureStore, parts_folder

PLAN = make_plan()
FEATURES = features_of(PLAN)
HALF = np.arange(15)
REST = np.arange(15, 30)


def write_half(path: Path) -> None:
    with PartsWriter(path, PLAN) as writer:
        writer.write(HALF, FEATURES[HALF])


def test_a_second_run_continues(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    write_half(path)
    assert not path.exists()
    with PartsWriter(path, PLAN) as writer:
        assert writer.pending.tolist() == REST.tolist()
        writer.write(REST, FEATURES[REST])
        writer.finish()
    assert not parts_folder(path).exists()
    assert path.read_bytes() == write_store_of(tmp_path / "whole.h5", PLAN).read_bytes()


def test_without_resume_it_starts_over(tmp_path: Path) -> None:
    write_half(tmp_path / "f.h5")
    with PartsWriter(tmp_path / "f.h5", PLAN, resume=False) as writer:
        assert writer.pending.size == 30


def test_unfinished_parts_are_not_a_store(tmp_path: Path) -> None:
    with PartsWriter(tmp_path / "f.h5", PLAN) as writer:
        writer.write(HALF, FEATURES[HALF])
        with pytest.raises(StoreIncompleteError, match="15 of 30 rows"):
            writer.finish()


def test_damaged_parts_are_redone(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    write_half(path)
    part = next(parts_folder(path).glob("part-*"))
    content = part.read_bytes()
    for damaged in (content[:-3], content[:-1] + bytes([content[-1] ^ 1]), b"", b"nonsense" * 9):
        part.write_bytes(damaged)
        with PartsWriter(path, PLAN) as writer:
            assert writer.pending.size == 30
            assert "damaged" in writer.notes[0]
        part.write_bytes(content)
    with PartsWriter(path, PLAN) as writer:
        assert writer.pending.size == 15
        assert writer.notes == []


def test_attempts_at_a_part_that_read_other_rows_do_not_meet(tmp_path: Path) -> None:
    """A worker taken for dead read what its successor could not, and did not read what it could."""
    path = tmp_path / "f.h5"
    with PartsWriter(path, PLAN) as leader:
        first, second, stale = (PartsWriter(path, PLAN, lead=False) for _ in range(3))
        first.write(np.arange(14), FEATURES[:14])
        second.write(np.arange(1, 15)[::-1], FEATURES[1:15][::-1])
        stale.write(np.arange(10, 22), -FEATURES[10:22])
        assert len(list(leader.folder.glob("part-*"))) == 3
        leader.skip(0, "cannot be read")
        leader.written_elsewhere(np.arange(1, 15)[::-1])
        leader.written_elsewhere(np.zeros(0, dtype=np.int64))
        leader.write(REST, FEATURES[REST])
        leader.finish()
    np.testing.assert_array_equal(FeatureStore(path).read(), FEATURES[1:])
    assert not parts_folder(path).exists()


def test_the_same_rows_are_the_same_file(tmp_path: Path) -> None:
    with PartsWriter(tmp_path / "f.h5", PLAN) as leader:
        for order in (HALF, HALF[::-1]):
            PartsWriter(tmp_path / "f.h5", PLAN, lead=False).write(order, FEATURES[order])
        assert len(list(leader.folder.glob("part-*"))) == 1


def test_overlapping_parts_of_a_run_that_ended_are_mended(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with PartsWriter(path, PLAN):
        for rows in (np.arange(14), np.arange(1, 15)):
            PartsWriter(path, PLAN, lead=False).write(rows, FEATURES[rows])
    with PartsWriter(path, PLAN) as writer:
        assert writer.pending.tolist() == list(range(14, 30))
        writer.write(writer.pending, FEATURES[14:])
        writer.finish()
    np.testing.assert_array_equal(FeatureStore(path).read(), FEATURES)


def test_a_part_that_is_gone_is_said(tmp_path: Path) -> None:
    with PartsWriter(tmp_path / "f.h5", PLAN) as writer:
        writer.write(HALF, FEATURES[HALF])
        writer.written_elsewhere(REST)
        with pytest.raises(StoreIncompleteError, match=r"part-0{10}15-\w+\.safetensors \(1 of 2 parts\) is not in"):
            writer.finish()
    assert not (tmp_path / "f.h5").exists()
    with PartsWriter(tmp_path / "f.h5", PLAN) as writer:
        assert writer.pending.tolist() == REST.tolist()


def test_stray_temporary_files_are_removed(tmp_path: Path) -> None:
    write_half(tmp_path / "f.h5")
    stray = parts_folder(tmp_path / "f.h5") / "part-000000000015.safetensors.tmp"
    stray.write_bytes(b"half a part")
    with PartsWriter(tmp_path / "f.h5", PLAN) as writer:
        assert writer.pending.size == 15
    assert not stray.exists()


def test_parts_of_another_plan_are_refused(tmp_path: Path) -> None:
    write_half(tmp_path / "f.h5")
    for changed, text in (
        ({"weights_digest": "xyz"}, "weights_digest"),
        ({"versions": {"torch": "9"}}, "versions.torch"),
    ):
        with pytest.raises(StoreMismatchError, match=text):
            PartsWriter(tmp_path / "f.h5", make_plan(**changed))
    with PartsWriter(tmp_path / "f.h5", PLAN) as writer:
        assert writer.pending.size == 15


def test_one_writer_wins(tmp_path: Path) -> None:
    with PartsWriter(tmp_path / "f.h5", PLAN) as first:
        with pytest.raises(StoreLockedError, match="Another process"):
            PartsWriter(tmp_path / "f.h5", PLAN)
        first.write(HALF, FEATURES[HALF])
    with PartsWriter(tmp_path / "f.h5", PLAN) as second:
        assert second.pending.size == 15


def test_a_finished_store_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = write_store_of(tmp_path / "f.h5", PLAN)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="exists already"):
        PartsWriter(path, PLAN)
    changed = make_plan(weights_digest="other")
    with PartsWriter(path, changed, overwrite=True) as writer:
        writer.write(np.arange(30), 2 * FEATURES)
        assert path.read_bytes() == before
        writer.finish()
    np.testing.assert_array_equal(FeatureStore(path, expect=changed.provenance).read(), 2 * FEATURES)


def test_skipped_rows_are_listed_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with PartsWriter(path, PLAN) as writer:
        writer.skip(4, "cannot be read")
        kept = np.setdiff1d(np.arange(30), [4])
        writer.write(kept, FEATURES[kept])
        writer.finish()
    store = FeatureStore(path)
    assert store.n == 29
    assert store.skipped == (("item/4é", "cannot be read"),)
    assert "item/4é" not in store.sample_ids
    np.testing.assert_array_equal(store.read(), FEATURES[kept])


def test_skipped_rows_are_tried_again(tmp_path: Path) -> None:
    with PartsWriter(tmp_path / "f.h5", PLAN) as writer:
        writer.skip(4, "cannot be read")
    with PartsWriter(tmp_path / "f.h5", PLAN) as writer:
        assert 4 in writer.pending


@pytest.mark.parametrize(
    ("rows", "features"),
    [(HALF, FEATURES), (np.array([0, 0]), FEATURES[:2]), (np.zeros(0, np.int64), FEATURES[:0])],
)
def test_rows_and_features_must_fit(tmp_path: Path, rows: np.ndarray, features: np.ndarray) -> None:
    with PartsWriter(tmp_path / "f.h5", PLAN) as writer, pytest.raises(ShapeError):
        writer.write(rows, features)


def test_a_row_is_written_once(tmp_path: Path) -> None:
    with PartsWriter(tmp_path / "f.h5", PLAN) as writer:
        writer.write(HALF, FEATURES[HALF])
        with pytest.raises(ShapeError, match="twice"):
            writer.write(HALF[:2], FEATURES[:2])


def test_full_disk_keeps_what_is_written(tmp_path: Path) -> None:
    """A real limit on file sizes, in a child process: writes beyond it fail in the file system call."""
    path = tmp_path / "f.h5"
    plan = make_plan(n=400, dim=500)
    features = features_of(plan)
    with PartsWriter(path, plan) as writer:
        writer.write(np.arange(10), features[:10])
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        try:
            with PartsWriter(path, plan) as writer:
                writer.write(np.arange(10, 400), features[10:])
        except StoreError as error:
            os._exit(7 if "disk is full" in str(error) and "continues" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not list(parts_folder(path).glob("*.tmp"))
    with PartsWriter(path, plan) as writer:
        assert writer.pending.size == 390
        writer.write(np.arange(10, 400), features[10:])
        writer.finish()
    np.testing.assert_array_equal(FeatureStore(path).read(), features)


def test_full_disk_while_assembling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with PartsWriter(tmp_path / "f.h5", PLAN) as writer:
        writer.write(np.arange(30), FEATURES)
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", refuse)
            with pytest.raises(StoreError, match="disk is full"):
                writer.finish()
        assert not (tmp_path / "f.h5").exists()
    with PartsWriter(tmp_path / "f.h5", PLAN) as writer:
        assert writer.pending.size == 0
        writer.finish()
    np.testing.assert_array_equal(FeatureStore(tmp_path / "f.h5").read(), FEATURES)
