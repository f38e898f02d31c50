"""The feature store: what is written comes back; whatever is damaged, foreign or leads out is refused."""

import multiprocessing
import pickle
import tempfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import features_of, make_plan, write_store_of
from hypothesis import given
from hypothesis import strategies as st

from grobust.errors import (
    DataError,
    ShapeError,
    StoreCorruptError,
    StoreError,
    StoreIncompleteError,
    StoreMismatchError,
)
from grobust.features.store import FeatureStore
from grobust.features.widen import to_float32
from grobust.groups import Split


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    return write_store_of(tmp_path / "f.h5", make_plan())


def feature_offset(path: Path) -> int:
    with h5py.File(path) as file:
        return file["features"].id.get_offset()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    plan = make_plan(dtype=dtype)
    expected = features_of(plan).astype(dtype)
    with FeatureStore(write_store_of(tmp_path / "f.h5", plan), expect=plan.provenance) as store:
        assert store.dtype == dtype
        np.testing.assert_array_equal(store.read(), expected)
        np.testing.assert_array_equal(store.read(np.array([7, 3])), expected[[7, 3]])
        np.testing.assert_array_equal(store.groups.ids, plan.groups.ids)
        assert store.groups.names == plan.groups.names
        assert store.sample_ids == plan.sample_ids
        assert store.provenance == plan.provenance
        for split in Split:
            features, groups = store.load(split)
            rows = np.flatnonzero(plan.split == split)
            np.testing.assert_array_equal(features, expected[rows].astype(np.float32))
            assert features.dtype == np.float32
            assert groups.ids.tolist() == plan.groups.ids[rows].tolist()
        store.verify()


def test_slices_are_views_of_the_file(store_path: Path) -> None:
    store = FeatureStore(store_path)
    view = store.read(slice(2, 9))
    assert not view.flags.owndata
    assert not view.flags.writeable
    assert view.base is not None


@given(st.integers(1, 40), st.integers(1, 9))
def test_blocks_cover_every_row_once(n: int, block_rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(n)
        store = FeatureStore(write_store_of(Path(folder) / "f.h5", plan))
        for split in (None, *Split):
            seen = [(rows, block) for rows, block in store.blocks(split=split, block_rows=block_rows)]
            numbers = np.concatenate([rows for rows, _ in seen]) if seen else np.zeros(0, np.int64)
            wanted = np.arange(n) if split is None else np.flatnonzero(plan.split == split)
            assert numbers.tolist() == wanted.tolist()
            if seen:
                np.testing.assert_array_equal(np.concatenate([b for _, b in seen]), features_of(plan)[wanted])


def test_widening_equals_numpy_for_every_finite_float16() -> None:
    every = np.arange(2**16, dtype=np.uint32).astype(np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    np.testing.assert_array_equal(to_float32(finite).view(np.uint32), finite.astype(np.float32).view(np.uint32))


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    first = write_store_of(tmp_path / "1.h5", make_plan())
    assert first.read_bytes() == write_store_of(tmp_path / "2.h5", make_plan()).read_bytes()


def test_every_flipped_byte_of_the_features_is_found(store_path: Path) -> None:
    start = feature_offset(store_path)
    original = store_path.read_bytes()
    for offset in range(start, start + 30 * 5 * 4, 7):
        damaged = bytearray(original)
        damaged[offset] ^= 0x10
        store_path.write_bytes(damaged)
        with pytest.raises(StoreCorruptError, match=r"'features', rows 0 to 29"):
            FeatureStore(store_path).verify()
        with pytest.raises(StoreCorruptError, match="features"):
            FeatureStore(store_path).load(Split.TRAIN)


def test_flipped_bytes_elsewhere_never_change_what_is_read(store_path: Path) -> None:
    """Outside the features a flip is found, or falls on a byte that means nothing: what is read stays the same."""
    original = store_path.read_bytes()
    reference = FeatureStore(store_path)
    rng = np.random.default_rng(0)
    found = 0
    for offset in rng.choice(len(original), size=400, replace=False).tolist():
        damaged = bytearray(original)
        damaged[offset] ^= 1 << int(rng.integers(8))
        store_path.write_bytes(damaged)
        try:
            store = FeatureStore(store_path)
            store.verify()
        except StoreError:
            found += 1
            continue
        assert store.sample_ids == reference.sample_ids
        assert store.groups.ids.tolist() == reference.groups.ids.tolist()
        assert store.split.tolist() == reference.split.tolist()
        assert store.provenance == reference.provenance
        np.testing.assert_array_equal(store.read(), features_of(make_plan()))
    assert found > 100


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_truncated_file(store_path: Path, share: float) -> None:
    content = store_path.read_bytes()
    store_path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(StoreError):
        FeatureStore(store_path).verify()


def test_missing_and_unfinished(tmp_path: Path) -> None:
    with pytest.raises(StoreIncompleteError, match="does not exist"):
        FeatureStore(tmp_path / "no.h5")
    (tmp_path / "u.h5.parts").mkdir()
    with pytest.raises(StoreIncompleteError, match="not finished"):
        FeatureStore(tmp_path / "u.h5")
    with pytest.raises(StoreError, match="not a file"):
        FeatureStore(tmp_path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(StoreCorruptError, match="something else"):
        FeatureStore(tmp_path / "text.h5")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["features"] = np.zeros((3, 2))
    with pytest.raises(StoreError, match="not a feature store"):
        FeatureStore(tmp_path / "other.h5")


def test_unknown_version(store_path: Path) -> None:
    with h5py.File(store_path, "r+") as file:
        file.attrs["encoding-version"] = 99
    with pytest.raises(StoreError, match="version 99"):
        FeatureStore(store_path)


@pytest.mark.parametrize("name", ["features", "labels", "checksums", "header"])
def test_links_out_of_the_file_are_refused(store_path: Path, tmp_path: Path, name: str) -> None:
    other = write_store_of(tmp_path / "other.h5", make_plan())
    for link in (h5py.ExternalLink(str(other), name), h5py.SoftLink("/elsewhere")):
        with h5py.File(store_path, "r+") as file:
            del file[name]
            file[name] = link
        with pytest.raises(StoreError, match="lead out of the file"):
            FeatureStore(store_path)


def test_external_storage_is_refused(store_path: Path, tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(600))
    with h5py.File(store_path, "r+") as file:
        del file["features"]
        file.create_dataset("features", (30, 5), "float32", external=[(str(tmp_path / "raw"), 0, 600)])
    with pytest.raises(StoreError, match="other files"):
        FeatureStore(store_path)


def test_missing_dataset_and_wrong_shape(store_path: Path) -> None:
    with h5py.File(store_path, "r+") as file:
        del file["split"]
    with pytest.raises(StoreCorruptError, match="'split' is missing"):
        FeatureStore(store_path)
    with h5py.File(store_path, "r+") as file:
        file["split"] = np.zeros(3, dtype=np.int8)
        file["split"].attrs.update({"encoding-type": "grobust-dataset", "encoding-version": 1})
    with pytest.raises(StoreCorruptError, match="differ from their digest"):
        FeatureStore(store_path)


def test_mismatched_provenance_shows_the_difference(store_path: Path) -> None:
    other = make_plan(preprocessing="resize=224 crop=224").provenance
    with pytest.raises(StoreMismatchError, match=r"preprocessing: there resize=256 crop=224, asked for resize=224"):
        FeatureStore(store_path, expect=other)
    newer = make_plan(versions={"torch": "3"}).provenance
    assert FeatureStore(store_path, expect=newer).n == 30


def test_non_finite_features_are_refused_when_written(tmp_path: Path) -> None:
    plan = make_plan()
    features = features_of(plan)
    features[4, 2] = np.nan
    with pytest.raises(DataError, match="item/4é"):
        write_store_of(tmp_path / "f.h5", plan, features)


def test_float16_overflow_names_the_row(tmp_path: Path) -> None:
    plan = make_plan(dtype="float16")
    features = features_of(plan)
    features[9, 0] = 70000
    with pytest.raises(DataError, match=r"item/9é.*70000.*65504"):
        write_store_of(tmp_path / "f.h5", plan, features)


def read_sum(store: FeatureStore) -> float:
    return float(store.read().sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_several_processes_read(store_path: Path, method: str) -> None:
    store = FeatureStore(store_path)
    expected = read_sum(store)
    with warnings.catch_warnings():
        # Forking a process with threads warns on newer Pythons; that it works is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        with multiprocessing.get_context(method).Pool(2) as pool:
            assert pool.map(_sum_of_path, [str(store_path)] * 3) == [expected] * 3
    clone = pickle.loads(pickle.dumps(store))
    assert read_sum(clone) == expected


def _sum_of_path(path: str) -> float:
    return read_sum(FeatureStore(path))


def test_archive_of_version_1() -> None:
    """A file that version 1 wrote stays readable; `archives/write_v1.py` made it."""
    store = FeatureStore(Path(__file__).parent / "archives" / "v1.h5")
    store.verify()
    np.testing.assert_array_equal(store.read(), features_of(make_plan()))
    assert store.sample_ids[3] == "item/3é"


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_view_is_the_split_without_reading_it(tmp_path: Path, dtype: str, together: bool) -> None:
    plan = make_plan(60, dtype=dtype)
    if together:
        plan = replace(plan, split=np.sort(plan.split))
    expected = features_of(plan).astype(dtype)
    with FeatureStore(write_store_of(tmp_path / "f.h5", plan)) as store:
        for split in Split:
            rows = np.flatnonzero(plan.split == split)
            view = store.view(split)
            assert (view.shape, view.ndim, view.dtype, len(view)) == ((rows.size, 5), 2, dtype, rows.size)
            for key in (slice(None), slice(3, 9), slice(2, None, 4), slice(4, 4), slice(0, 1), slice(None, None, -1)):
                np.testing.assert_array_equal(view[key], expected[rows][key])
                np.testing.assert_array_equal(view[key, :], expected[rows][key])
            for numbers in ([5, 0, 5], [], np.array([1, 2])):
                got = view[numbers]
                assert got.dtype == dtype
                np.testing.assert_array_equal(got, expected[rows[np.asarray(numbers, dtype=int)]])
            np.testing.assert_array_equal(np.asarray(view), expected[rows])
            assert np.shares_memory(view[1:4], store.read()) == together
            assert not view[1:4].flags.writeable or not together
            whole, numbers = view.mapped()
            np.testing.assert_array_equal(whole[numbers], expected[rows])
            assert np.shares_memory(whole, store.read())
            for key in ([len(view)], [-1], [0.5], (slice(None), 2), (slice(None), slice(0, 2)), 3):
                with pytest.raises(ShapeError):
                    view[key]
    with pytest.raises(StoreError, match="is closed"):
        view[:2]


def test_a_view_without_rows(tmp_path: Path) -> None:
    plan = replace(make_plan(), split=np.zeros(30, dtype=np.int8))
    with FeatureStore(write_store_of(tmp_path / "f.h5", plan)) as store:
        view = store.view(Split.TEST)
        assert view.shape == view[:].shape == view[3:9, :].shape == (0, 5)
        assert view.mapped()[1].size == 0


def test_threads_that_read_a_damaged_view_all_see_the_damage(tmp_path: Path) -> None:
    """Blocks of 4 MiB, so several of them; one byte is flipped in the second."""
    n, dim = 3000, 1024
    plan = replace(make_plan(n, dim), split=np.zeros(n, dtype=np.int8))
    path = write_store_of(tmp_path / "f.h5", plan)
    content = bytearray(path.read_bytes())
    content[feature_offset(path) + 1500 * dim * 4] ^= 1
    path.write_bytes(content)
    with FeatureStore(path) as store, ThreadPoolExecutor(4) as pool:
        view = store.view(Split.TRAIN)
        sound = list(pool.map(lambda start: view[start : start + 10].shape, [0, 200, 2100, 2900]))
        assert sound == [(10, dim)] * 4
        tries = [pool.submit(view.__getitem__, slice(start, start + 10)) for start in (1024, 1400, 1500, 2000)]
        assert all(isinstance(t.exception(), StoreCorruptError) for t in tries)
        with pytest.raises(StoreCorruptError):
            view.mapped()
