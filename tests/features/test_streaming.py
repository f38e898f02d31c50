"""Stores larger than memory: packed names, assembly window by window, blocks read ahead."""

import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xxhash
from helpers import features_of, make_plan, write_store_of
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from grobust.errors import ShapeError, StoreCorruptError, StoreIncompleteError
from grobust.features import _hdf5, _sample_ids
from grobust.features._assembly import Part, assemble, in_order, part_content
from grobust.features._read_ahead import read_ahead
from grobust.features._sample_ids import SampleIds
from grobust.features.parts import PartsWriter, StorePlan
from grobust.features.store import FeatureStore, parts_folder
from grobust.features.widen import all_finite
from grobust.groups import Groups, Split

NAMES = st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12))


@given(NAMES)
def test_packed_names_behave_as_a_tuple(names: list[str]) -> None:
    packed, plain = SampleIds.of(names), tuple(names)
    assert tuple(packed) == plain
    assert packed == plain
    assert hash(packed) == hash(plain)
    assert len(packed) == len(plain)
    assert [packed[i] for i in range(-len(plain), len(plain))] == [*plain, *plain]
    assert packed[1:5:2] == plain[1:5:2]
    assert all(name in packed for name in plain)
    assert "not there, I hope" not in packed
    assert packed != (*plain, "one more")
    assert b"".join(packed.joined()) == "\0".join(plain).encode()
    rows = np.arange(len(plain))[::-1]
    assert packed.take(rows) == plain[::-1]
    assert SampleIds.of(packed) is packed


@given(NAMES, st.integers(1, 5))
def test_repeated_names_are_found_whatever_the_chunk(names: list[str], chunk: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sample_ids, "CHUNK", chunk)
        found = SampleIds.of(names).repeated()
    assert (found is not None) == (len(set(names)) < len(names))
    assert found is None or names.count(found) > 1


def test_names_that_only_share_a_hash_do_not_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SampleIds, "_hashes", lambda *_: np.zeros(3, np.uint64))
    assert SampleIds.of(("a", "b", "c")).repeated() is None
    assert SampleIds.of(("a", "b", "a")).repeated() == "a"


def test_names_without_place_for_padding_are_refused() -> None:
    with pytest.raises(ShapeError, match="NUL"):
        SampleIds.of(("fine", "a\0"))
    with pytest.raises(ShapeError, match=r"repeat \('r1' does\)"):
        replace(make_plan(2), sample_ids=("r1", "r1"))


def test_the_identity_of_a_plan_is_what_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of an interrupted run of an earlier version still belong to the plan."""
    plan = make_plan(30)
    expected = xxhash.xxh3_128(plan.groups.ids.tobytes() + plan.split.tobytes())
    expected.update("\0".join((*plan.groups.names, *plan.sample_ids)).encode())
    for chunk in (1, 7, 30, 100):
        monkeypatch.setattr(_sample_ids, "CHUNK", chunk)
        assert plan.identity()["rows"] == expected.hexdigest()


@settings(max_examples=25)
@given(
    st.integers(1, 60), st.integers(1, 7), st.integers(1, 9), st.integers(0, 2**32 - 1), st.booleans(), st.booleans()
)
def test_windows_of_scattered_parts_make_the_same_file(
    n: int, n_parts: int, window_rows: int, seed: int, old: bool, apart: bool
) -> None:
    """Against a fancy assignment of the whole; rows are skipped, parts in disorder as earlier versions wrote them."""
    plan, rng = make_plan(n, dtype="float16"), np.random.default_rng(seed)
    features = features_of(plan)
    skipped = rng.choice(n, size=n // 5, replace=False)
    rows = rng.permutation(np.setdiff1d(np.arange(n), skipped))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(_hdf5, "BLOCK_BYTES", 10 * window_rows)
        patch.setattr(_hdf5, "WINDOW_BYTES", 20 * window_rows)
        patch.setattr(_hdf5, "ORDERED_WINDOW_BYTES", 10 * window_rows)
        path = Path(folder) / "f.h5"
        if apart:
            rows = np.sort(rows)
        with PartsWriter(path, plan) as writer:
            for part in (rng.permutation(p) for p in np.array_split(rows, n_parts) if p.size):
                writer.write(part, features[part])
            assert not apart or in_order([Part.of(file) for file in parts_folder(path).glob("part-*")])
            for row in skipped.tolist():
                writer.skip(row, "broken")
            for file in parts_folder(path).glob("part-*") if old else ():
                tensors = load_file(file)
                order = rng.permutation(tensors["rows"].size)
                save_file({name: tensor[order] for name, tensor in tensors.items()}, file)
            writer.finish()
        store = FeatureStore(path)
        store.verify()
        kept = np.sort(rows)
        np.testing.assert_array_equal(store.read(), features[kept].astype(np.float16))
        assert store.sample_ids == tuple(plan.sample_ids[i] for i in kept)
        assert store.groups.ids.tolist() == plan.groups.ids[kept].tolist()
        assert sorted(name for name, _ in store.skipped) == sorted(plan.sample_ids[i] for i in skipped)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_part_files_are_safetensors_files(tmp_path: Path, dtype: str) -> None:
    rows, features = np.array([3, 5, 8]), features_of(make_plan(3)).astype(dtype)
    for metadata in ({"plan": "x"}, {"plan": "é" * 3, "checksum": "1"}):
        path = tmp_path / "part.safetensors"
        path.write_bytes(b"".join(part_content(rows, features, metadata)))
        read = load_file(path)
        np.testing.assert_array_equal(read["rows"], rows)
        np.testing.assert_array_equal(read["features"], features)
        assert read["features"].dtype == dtype
        with safe_open(path, framework="numpy") as file:
            assert file.metadata() == metadata
        found, values = Part.of(path).between(4, 8)
        assert found.tolist() == [5, 8]
        np.testing.assert_array_equal(values, features[1:])


def test_windows_that_the_parts_do_not_fill_are_an_error(tmp_path: Path) -> None:
    part = tmp_path / "part.safetensors"
    save_file({"rows": np.array([0, 2]), "features": np.ones((2, 3), np.float32)}, part)
    with pytest.raises(StoreIncompleteError, match="2 of the 3 rows"):
        assemble([Part.of(part)], np.arange(5))(0, 3, np.empty((3, 3), np.float32))


def test_large_metadata_are_mapped_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hdf5, "MAPPED_BYTES", 1)
    path = write_store_of(tmp_path / "f.h5", make_plan())
    store = FeatureStore(path)
    assert isinstance(store.sample_ids.packed, np.memmap)
    assert store.sample_ids == make_plan().sample_ids
    content = bytearray(path.read_bytes())
    content[content.index(b"item/7")] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreCorruptError, match="digest"):
        FeatureStore(path)


def test_a_plan_of_many_rows_takes_few_bytes_a_row(tmp_path: Path) -> None:
    """Names, groups and their checks at 200,000 rows: below 150 bytes a row at the peak, NumPy's allocations traced."""
    import tracemalloc

    n = 200_000
    names = SampleIds(np.char.add(b"image_", np.arange(n).astype("S6")))
    groups = Groups.from_arrays(np.arange(n) % 2, np.arange(n) // 2 % 2)
    plan = StorePlan(make_plan(dtype="float16").provenance, groups, np.zeros(n, np.int8), names, 4)
    tracemalloc.start()
    with PartsWriter(tmp_path / "f.h5", plan) as writer:
        for rows in np.array_split(np.arange(n), 10):
            writer.write(rows, np.zeros((rows.size, 4), np.float16))
        writer.finish()
    with FeatureStore(tmp_path / "f.h5") as store:
        assert store.sample_ids[-1] == "image_199999"
        assert sum(len(block) for _, block in store.blocks()) == n
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * n


def test_values_come_in_order_and_never_many_ahead() -> None:
    made = []

    def values() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            yield i

    for taken, value in enumerate(read_ahead(values(), 2)):
        assert value == taken
        time.sleep(0.002)
        # Two wait, one is being put.
        assert len(made) <= taken + 1 + 3
    assert made == list(range(20))


def test_an_error_comes_at_its_place() -> None:
    def values() -> Iterator[int]:
        yield 1
        raise StoreCorruptError("second")

    found = read_ahead(values(), 4)
    assert next(found) == 1
    with pytest.raises(StoreCorruptError, match="second"):
        next(found)


def test_a_caller_who_stops_ends_the_thread(tmp_path: Path) -> None:
    store = FeatureStore(write_store_of(tmp_path / "f.h5", make_plan(400)))
    before = threading.active_count()
    blocks = store.blocks(block_rows=3)
    assert next(blocks)[0].tolist() == [0, 1, 2]
    assert threading.active_count() == before + 1
    blocks.close()
    assert threading.active_count() == before


def test_blocks_of_a_split_that_lies_apart(tmp_path: Path) -> None:
    plan = replace(make_plan(40), split=np.repeat([0, 2, 0, 1], 10).astype(np.int8))
    store = FeatureStore(write_store_of(tmp_path / "f.h5", plan))
    for split in Split:
        found = list(store.blocks(split=split, block_rows=7))
        rows = np.concatenate([numbers for numbers, _ in found])
        assert rows.tolist() == np.flatnonzero(plan.split == split).tolist()
        np.testing.assert_array_equal(np.concatenate([block for _, block in found]), features_of(plan)[rows])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_all_finite_is_numpys(dtype: type) -> None:
    every = np.arange(2**16, dtype=np.uint32).astype(np.uint16).view(np.float16).astype(dtype)
    finite = every[np.isfinite(every)]
    assert all_finite(finite)
    for bad in every[~np.isfinite(every)][::101]:
        assert not all_finite(np.append(finite[:1000], bad))
    assert all_finite(finite[:0])
