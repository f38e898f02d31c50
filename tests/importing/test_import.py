"""Caches as other projects write them become stores; what is wrong in them is said, and nothing is unpickled."""

import io
import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch
from typer.testing import CliRunner

from grobust.errors import ConfigError, DataError, GroupError, StoreMismatchError
from grobust.features.store import FeatureStore, parts_folder
from grobust.groups import Split
from grobust.importing.importer import ImportResult, ImportSettings, import_features
from grobust.importing.layouts import CacheFormat
from grobust_cli.main import app

SPLITS = ("train", "val", "test")
SIZES = {"train": 60, "val": 24, "test": 36}
DIM = 5


class Cache:
    """Features of three splits with labels and attributes, and the groups of them."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.y = {s: rng.integers(2, size=n) for s, n in SIZES.items()}
        self.p = {s: rng.integers(2, size=n) for s, n in SIZES.items()}
        self.g = {s: 2 * self.y[s] + self.p[s] for s in SPLITS}
        self.x = {
            s: (rng.standard_normal((n, DIM)) + self.y[s][:, None] + self.p[s][:, None]).astype(np.float32)
            for s, n in SIZES.items()
        }

    def csv(
        self, path: Path, *, order: tuple[str, ...] = SPLITS, name: Callable[[str, int], str] | None = None
    ) -> Path:
        """metadata.csv in the layout of Waterbirds."""
        name = name or (lambda s, i: f"{s}/{i}.jpg")
        lines = [
            f"{name(s, i)},{y},{SPLITS.index(s)},{p}"
            for s in order
            for i, (y, p) in enumerate(zip(self.y[s], self.p[s], strict=True))
        ]
        path.write_text("\n".join(["img_filename,y,split,place", *lines]) + "\n")
        return path


CACHE = Cache()
PLACE = {"attribute": "place"}


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {s: torch.from_numpy(a) for s, a in arrays.items()}


def check(
    result: ImportResult, cache: Cache = CACHE, *, splits: tuple[str, ...] = SPLITS, tolerance: float = 0
) -> None:
    """The store holds these features, labels, attributes and splits, and passes its checksums."""
    with FeatureStore(result.path) as store:
        store.verify()
        assert store.n == sum(SIZES[s] for s in splits)
        assert store.provenance.backbone.startswith("imported:")
        assert {store.provenance.preprocessing, store.provenance.pooling, store.provenance.precision} == {"unknown"}
        assert store.provenance.weights_digest.startswith("unknown:")
        for s in splits:
            features, groups = store.load(Split[s.upper()])
            np.testing.assert_allclose(features, cache.x[s].reshape(SIZES[s], -1), atol=tolerance, rtol=tolerance)
            np.testing.assert_array_equal(groups.labels, cache.y[s])
            np.testing.assert_array_equal(groups.attributes, cache.p[s])
    assert not parts_folder(result.path).exists()


def sfl(path: Path, cache: Cache = CACHE, splits: tuple[str, ...] = ("test", "val"), **more: Any) -> Path:
    """What dfr_evaluate_spurious.py --save_embeddings writes."""
    arrays = {}
    for s in splits:
        arrays |= {f"embeddings_{s}": cache.x[s], f"y_{s}": cache.y[s], f"g_{s}": cache.g[s], f"p_{s}": cache.p[s]}
    np.savez(path, **(arrays | more))
    return path


def clip(folder: Path, cache: Cache = CACHE) -> Path:
    """What clip_benchmark eval --task linear_probe writes."""
    folder.mkdir()
    for s in SPLITS:
        torch.save(torch.from_numpy(cache.x[s]), folder / f"features_{s}.pt")
        torch.save(torch.from_numpy(cache.y[s]), folder / f"targets_{s}.pt")
    return folder


def afr(path: Path, cache: Cache = CACHE) -> Path:
    """What the notebooks of AFR save."""
    x, y, g = tensors(cache.x), tensors(cache.y), tensors(cache.g)
    content = {"w0": torch.zeros(2, DIM), "b0": torch.zeros(2)}
    for prefix, s in (("", "train"), ("val_", "val"), ("test_", "test")):
        content |= {f"{prefix}e": x[s], f"{prefix}pred": y[s], f"{prefix}y": y[s], f"{prefix}g": g[s]}
    torch.save(content, path)
    return path


def test_spurious_feature_learning(tmp_path: Path) -> None:
    result = import_features([sfl(tmp_path / "dfr_test.npz")], tmp_path / "s.h5")
    assert result.layout is CacheFormat.SPURIOUS_FEATURE_LEARNING
    check(result, splits=("val", "test"))
    check(import_features([sfl(tmp_path / "all.npz", splits=SPLITS)], tmp_path / "a.h5"))


def test_validation_as_training_split(tmp_path: Path) -> None:
    renamed = ImportSettings(renamed={Split.VAL: Split.TRAIN})
    result = import_features([sfl(tmp_path / "c.npz")], tmp_path / "s.h5", settings=renamed)
    with FeatureStore(result.path) as store:
        assert [store.rows(split).size for split in Split] == [SIZES["val"], 0, SIZES["test"]]
        np.testing.assert_array_equal(store.load(Split.TRAIN)[0], CACHE.x["val"])


@pytest.mark.parametrize("packed", [False, True])
def test_dfr_with_attributes_of_a_table(tmp_path: Path, packed: bool) -> None:
    """One file a split, labels only, as imagenet_extract_embeddings.py writes them."""
    save = np.savez_compressed if packed else np.savez
    paths = [tmp_path / f"birds_resnet50_{s}_embeddings.npz" for s in SPLITS]
    for s, path in zip(SPLITS, paths, strict=True):
        save(path, embeddings=CACHE.x[s], labels=CACHE.y[s])
    csv = CACHE.csv(tmp_path / "m.csv", order=("test", "train", "val"))
    result = import_features(paths, tmp_path / "s.h5", settings=ImportSettings(csv=csv, columns=PLACE))
    assert result.layout is CacheFormat.DFR
    check(result)
    alone = import_features(paths, tmp_path / "alone.h5")
    assert "groups are the classes" in " ".join(alone.notes)
    assert FeatureStore(alone.path).groups.n_attributes == 1


def test_clip_benchmark(tmp_path: Path) -> None:
    csv = CACHE.csv(tmp_path / "m.csv")
    folder = clip(tmp_path / "ViT-B-32")
    settings = ImportSettings(csv=csv, columns=PLACE | {"id": "img_filename"})
    check(result := import_features([folder], tmp_path / "s.h5", settings=settings))
    assert result.layout is CacheFormat.CLIP_BENCHMARK
    assert FeatureStore(result.path).sample_ids[:3] == ("test/0.jpg", "test/1.jpg", "test/2.jpg")
    torch.save(torch.zeros(3, DIM), folder / "features_train_cache_0.pt")
    with pytest.raises(DataError, match="not finished"):
        import_features([folder], tmp_path / "t.h5")
    (folder / "features_train_cache_0.pt").unlink()
    (folder / "targets_val.pt").unlink()
    with pytest.raises(DataError, match="no targets_val"):
        import_features([folder], tmp_path / "t.h5")


def test_afr(tmp_path: Path) -> None:
    result = import_features([afr(tmp_path / "emb.pt")], tmp_path / "s.h5")
    assert result.layout is CacheFormat.AFR
    assert "group - label * 2" in " ".join(result.notes)
    check(result)


def test_afr_pickle_is_refused_and_the_way_out_works(tmp_path: Path) -> None:
    x, y, g = tensors(CACHE.x), tensors(CACHE.y), tensors(CACHE.g)
    content = tuple((x[s], y[s], g[s], y[s]) for s in ("train", "test", "val"))
    path = tmp_path / "embeddings.pkl"
    path.write_bytes(pickle.dumps(content))
    for given_path in (path, tmp_path):
        with pytest.raises(DataError, match=r"is a pickle, which is never read"):
            import_features([given_path], tmp_path / "s.h5")
    torch.save(pickle.loads(path.read_bytes()), tmp_path / "embeddings.pt")
    check(import_features([tmp_path / "embeddings.pt"], tmp_path / "s.h5"))


@pytest.mark.parametrize("kind", ["npy", "pt", "hdf5", "hdf5 pieces", "npy pieces", "npy chunks"])
def test_thingsvision_with_file_names(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    whole = np.concatenate([CACHE.x[s] for s in SPLITS])
    names = [f"{s}/{i}.jpg" for s in SPLITS for i in range(SIZES[s])]
    (folder / "file_names.txt").write_text("\n".join(names) + "\n")
    cuts = np.array_split(np.arange(len(whole)), 11)
    if kind == "npy":
        np.save(folder / "features.npy", whole)
    elif kind == "pt":
        torch.save(torch.from_numpy(whole), folder / "features.pt")
    elif kind == "hdf5":
        with h5py.File(folder / "features.hdf5", "w") as file:
            file.create_dataset("features", data=whole)
    elif kind == "hdf5 pieces":
        with h5py.File(folder / "features.hdf5", "w") as file:
            for i, rows in enumerate(cuts, 1):
                file.create_dataset(f"features_{i:02d}", data=whole[rows])
    elif kind == "npy pieces":
        for i, rows in enumerate(cuts, 1):
            np.save(folder / f"features_{i:02d}.npy", whole[rows])
    else:
        for rows in cuts:
            np.save(folder / f"features_{rows[0]}-{rows[-1] + 1}.npy", whole[rows])
    csv = CACHE.csv(tmp_path / "m.csv", order=("val", "test", "train"))
    settings = ImportSettings(csv=csv, columns=PLACE | {"id": "img_filename"})
    result = import_features([folder], tmp_path / "s.h5", settings=settings)
    assert result.layout is CacheFormat.THINGSVISION
    check(result)
    assert FeatureStore(result.path).sample_ids == tuple(names)
    (folder / "file_names.txt").write_text("\n".join(names[1:]))
    with pytest.raises(DataError, match="119 names for 120 rows"):
        import_features([folder], tmp_path / "t.h5", settings=settings)
    csv.write_text(csv.read_text().replace("val/3.jpg", "val/3.png"))
    (folder / "file_names.txt").write_text("\n".join(names))
    with pytest.raises(DataError, match=r"the first is 'val/3.jpg'"):
        import_features([folder], tmp_path / "t.h5", settings=settings)


def generic(path: Path, **changes: Any) -> tuple[Path, ImportSettings]:
    """One file with arrays of any names."""
    arrays = {
        "X": np.concatenate([CACHE.x[s] for s in SPLITS]),
        "lab": np.concatenate([CACHE.y[s] for s in SPLITS]),
        "att": np.concatenate([CACHE.p[s] for s in SPLITS]),
        "s": np.repeat(np.arange(3), list(SIZES.values())),
    } | changes
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".h5":
        with h5py.File(path, "w") as file:
            for name, value in arrays.items():
                file.create_dataset(name, data=value.tolist() if value.dtype.kind == "U" else value)
    elif path.suffix == ".safetensors":
        save_file(arrays, path)
    else:
        torch.save({name: torch.from_numpy(value) for name, value in arrays.items()}, path)
    return path, ImportSettings(keys={"features": "X", "labels": "lab", "attributes": "att", "split": "s"})


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".safetensors", ".pt"])
def test_arrays_of_any_name(tmp_path: Path, suffix: str) -> None:
    path, options = generic(tmp_path / f"mine{suffix}")
    result = import_features([path], tmp_path / "s.h5", settings=options)
    assert result.layout is CacheFormat.ARRAYS
    check(result)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_names_in_place_of_codes(tmp_path: Path, suffix: str) -> None:
    kinds = np.array(["duck", "gull"])[np.concatenate([CACHE.y[s] for s in SPLITS])]
    words = np.repeat(np.array(["train", "dev", "TEST"]), list(SIZES.values()))
    path, options = generic(tmp_path / f"mine{suffix}", lab=kinds, s=words)
    result = import_features([path], tmp_path / "s.h5", settings=options)
    check(result)
    assert FeatureStore(result.path).groups.class_names == ("duck", "gull")


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", ">f4", "bfloat16"])
def test_types_of_features(tmp_path: Path, dtype: str) -> None:
    cache = Cache(1)
    x = np.concatenate([cache.x[s] for s in SPLITS])
    if dtype == "bfloat16":
        save_torch({"X": torch.from_numpy(x).bfloat16(), "y": torch.from_numpy(np.concatenate([*cache.y.values()]))},
                   tmp_path / "m.safetensors")  # fmt: skip
        path, expected = tmp_path / "m.safetensors", torch.from_numpy(x).bfloat16().float().numpy()
    else:
        np.savez(tmp_path / "m.npz", X=x.astype(dtype), y=np.concatenate([*cache.y.values()]))
        path, expected = tmp_path / "m.npz", x.astype(dtype)
    settings = ImportSettings(keys={"features": "X", "labels": "y"}, split=Split.TEST)
    result = import_features([path], tmp_path / "s.h5", settings=settings)
    assert result.dtype == ("float16" if dtype == "float16" else "float32")
    features, groups = FeatureStore(result.path).load(Split.TEST)
    np.testing.assert_array_equal(features, expected.astype(np.float32))
    assert len(groups) == 120


def test_fortran_order_and_more_dimensions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((20, 2, 3, 2)).astype(np.float32), rng.integers(2, size=(20, 1)).astype(np.float64)
    for name, array in (("c", x), ("f", np.asfortranarray(x))):
        np.savez(tmp_path / f"{name}.npz", X=array, y=y)
        keys = {"features": "X", "labels": "y"}
        with pytest.raises(DataError, match="--flatten"):
            import_features([tmp_path / f"{name}.npz"], tmp_path / "s.h5", settings=ImportSettings(keys=keys))
        options = ImportSettings(keys=keys, split=Split.TRAIN, flatten=True)
        result = import_features([tmp_path / f"{name}.npz"], tmp_path / f"{name}.h5", settings=options)
        np.testing.assert_array_equal(FeatureStore(result.path).read(), x.reshape(20, 12))


def test_blocks_do_not_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows a block, over the borders of splits, of stored, compressed and foreign files."""
    monkeypatch.setattr("grobust.importing.importer.BLOCK_BYTES", 7 * DIM * 4)
    for suffix in (".npz", ".h5", ".safetensors", ".pt"):
        path, options = generic(tmp_path / f"mine{suffix}")
        seen: list[tuple[int, int]] = []
        result = import_features(
            [path], tmp_path / f"s{suffix}", settings=options, on_progress=lambda a, b, seen=seen: seen.append((a, b))
        )
        check(result)
        assert seen[-1] == (120, 120)
        assert len(seen) == 18


def test_an_interrupted_import_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grobust.importing.importer.BLOCK_BYTES", 7 * DIM * 4)
    path = sfl(tmp_path / "c.npz", splits=SPLITS)

    def stop(done: int, total: int) -> None:
        if done > 70:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_features([path], tmp_path / "s.h5", on_progress=stop)
    assert not (tmp_path / "s.h5").exists()
    before = len(list(parts_folder(tmp_path / "s.h5").glob("part-*")))
    assert before > 5
    check(import_features([path], tmp_path / "s.h5"))
    whole = import_features([path], tmp_path / "whole.h5")
    assert whole.path.read_bytes() == (tmp_path / "s.h5").read_bytes()


def test_the_same_files_are_not_imported_twice_and_others_never_taken_for_them(tmp_path: Path) -> None:
    path = sfl(tmp_path / "c.npz")
    assert not import_features([path], tmp_path / "s.h5").reused
    assert import_features([path], tmp_path / "s.h5").reused
    with pytest.raises(StoreMismatchError, match="dataset_digest"):
        import_features([path], tmp_path / "s.h5", settings=ImportSettings(renamed={Split.VAL: Split.TRAIN}))
    sfl(path, Cache(3))
    with pytest.raises(StoreMismatchError, match="weights_digest"):
        import_features([path], tmp_path / "s.h5")
    check(import_features([path], tmp_path / "s.h5", overwrite=True), Cache(3), splits=("val", "test"))


def test_heads_do_not_fit_features_of_another_unknown_backbone(tmp_path: Path) -> None:
    """Two imports know nothing of their backbones; that does not make them the same."""
    a = import_features([sfl(tmp_path / "a.npz")], tmp_path / "a.h5")
    b = import_features([sfl(tmp_path / "b.npz", Cache(7))], tmp_path / "b.h5")
    one, other = (FeatureStore(result.path).provenance for result in (a, b))
    assert set(one.difference(other)) >= {"weights_digest", "dataset_digest"}
    assert one.backbone == other.backbone == "imported:spurious_feature_learning"


def bad_labels(**labels: Any) -> Callable[[Path], Path]:
    return lambda folder: sfl(folder / "c.npz", **labels)


def with_objects(folder: Path) -> Path:
    return sfl(folder / "c.npz", y_val=np.array([{"a": 1}] * SIZES["val"], dtype=object))


def npy_objects(folder: Path) -> Path:
    np.save(folder / "features.npy", np.array([[1, None]], dtype=object), allow_pickle=True)
    return folder / "features.npy"


def pickled_extra(folder: Path) -> Path:
    afr(folder / "e.pt")
    content = torch.load(folder / "e.pt", weights_only=True) | {"when": Evil(folder)}
    torch.save(content, folder / "e.pt")
    return folder / "e.pt"


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder / "evil"),)


def h5_link(folder: Path) -> Path:
    with h5py.File(folder / "other.h5", "w") as file:
        file["features"] = np.zeros((3, 2))
    with h5py.File(folder / "x.hdf5", "w") as file:
        file["features"] = h5py.ExternalLink("other.h5", "features")
    return folder / "x.hdf5"


def h5_virtual(folder: Path) -> Path:
    layout = h5py.VirtualLayout(shape=(3, 2), dtype="f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", shape=(3, 2))
    with h5py.File(folder / "x.hdf5", "w") as file:
        file.create_virtual_dataset("features", layout)
    return folder / "x.hdf5"


def short_member(folder: Path) -> Path:
    """An array whose header promises more rows than there are."""
    path = sfl(folder / "c.npz")
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name)[: -4 if name == "embeddings_val.npy" else None])
    path.write_bytes(out.getvalue())
    return path


def cut(make: Callable[[Path], Path], share: float) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        path = make(folder)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        return path

    return made


def nan_row(folder: Path) -> Path:
    x = CACHE.x["val"].copy()
    x[3, 1] = np.nan
    return sfl(folder / "c.npz", embeddings_val=x)


def one_file(name: str, array: Any) -> Callable[[Path], Path]:
    def made(folder: Path) -> Path:
        np.save(folder / name, array)
        return folder / name

    return made


N = SIZES["val"]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (with_objects, r"array 'y_val' holds pickled Python objects"),
        (npy_objects, r"holds pickled Python objects"),
        (pickled_extra, r"beside tensors"),
        (h5_link, r"'features' is a link"),
        (h5_virtual, r"other files; refused"),
        (short_member, r"array 'embeddings_val' is cut short"),
        (nan_row, r"array 'embeddings_val', row 3 \(row-3\): a feature is not finite"),
        (bad_labels(y_val=np.zeros(N - 1, int)), r"shape \(23,\); expected the labels of 24 rows"),
        (bad_labels(y_val=np.full(N, -1)), r"array 'y_val', row 0: -1; expected labels 0, 1, 2"),
        (bad_labels(y_val=np.full(N, 0.5)), r"row 0: 0.5"),
        (bad_labels(y_val=np.full(N, np.nan)), r"row 0: nan"),
        (bad_labels(y_val=np.full(N, 2**62)), r"to 99999"),
        (bad_labels(y_val=np.zeros((N, 2), int)), r"shape \(24, 2\)"),
        (bad_labels(y_val=np.full(N, 1j)), r"dtype complex128"),
        (bad_labels(y_val=np.full(N, "bird")), r"labels are names in some parts"),
        (bad_labels(embeddings_val=np.zeros((N, DIM + 1))), r"different dimension"),
        (bad_labels(embeddings_val=np.zeros(N)), r"expected features, numbers of shape \(n, d\)"),
        (bad_labels(embeddings_val=np.full((N, DIM), "x")), r"expected features"),
        (bad_labels(embeddings_val=np.full((N, DIM), 1e300)), r"row 0 .* beyond float32"),
        (cut(lambda f: sfl(f / "c.npz"), 0.5), r"damaged, cut short"),
        (cut(lambda f: afr(f / "c.pt"), 0.5), r"cannot be read"),
        (cut(one_file("features.npy", np.zeros((30, 4))), 0.5), r"damaged, cut short"),
        (cut(one_file("features.npy", np.zeros((30, 4))), 0.02), r"damaged, cut short"),
        (one_file("features.npy", np.zeros((3, 2))), r"has no labels, and there is no CSV"),
        (one_file("features.npy", np.zeros((0, 2))), r"has no rows"),
        (one_file("weird.npy", np.zeros((3, 2))), r"layout of the cache is not known"),
        (lambda f: f / "no.npz", r"does not exist"),
        (lambda f: f, r"holds no feature cache"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_and_nothing_is_written(tmp_path: Path, make: Callable[[Path], Path], why: str) -> None:
    with pytest.raises(DataError, match=why):
        import_features([make(tmp_path)], tmp_path / "out" / "s.h5")
    assert not (tmp_path / "out" / "s.h5").exists()
    assert not (tmp_path / "evil").exists()


def test_other_formats_and_repeated_files_are_said(tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(b"1")
    with pytest.raises(DataError, match=r"unknown format '.mat'"):
        import_features([tmp_path / "x.mat"], tmp_path / "s.h5")
    path = sfl(tmp_path / "c.npz")
    with pytest.raises(DataError, match="given twice"):
        import_features([path, path], tmp_path / "s.h5")
    with pytest.raises(DataError, match="no cache of afr"):
        import_features([path], tmp_path / "s.h5", settings=ImportSettings(layout=CacheFormat.AFR))
    with pytest.raises(DataError, match="has names of its own"):
        import_features(
            [path], tmp_path / "s.h5", settings=ImportSettings(layout=CacheFormat.AFR, keys={"features": "x"})
        )
    for keys, why in (
        ({"labels": "y_val"}, "which array holds the features"),
        ({"features": "embedings_val"}, "Did you mean 'embeddings_val'"),
        ({"feature": "embeddings_val"}, "Unknown key 'feature'"),
        ({"features": "embeddings_val", "labels": "y_val"}, "have no split"),
    ):
        with pytest.raises(DataError, match=why):
            import_features([path], tmp_path / "s.h5", settings=ImportSettings(keys=keys))
    with pytest.raises(GroupError, match="has no name"):
        import_features([path], tmp_path / "s.h5", settings=ImportSettings(columns={"class_names": "bird"}))
    with pytest.raises(ConfigError, match="dtype"):
        ImportSettings(dtype="int8")
    with pytest.raises(ConfigError, match="printable"):
        ImportSettings(name="a\nb")


def test_groups_that_tell_no_attributes(tmp_path: Path) -> None:
    arrays = {"X": np.zeros((4, 2), np.float32), "y": np.array([0, 0, 1, 1]), "g": np.array([3, 0, 1, 2])}
    np.savez(tmp_path / "c.npz", **arrays)
    options = ImportSettings(keys={"features": "X", "labels": "y", "groups": "g"}, split=Split.TRAIN)
    with pytest.raises(DataError, match="not label \\* A"):
        import_features([tmp_path / "c.npz"], tmp_path / "s.h5", settings=options)


@pytest.mark.parametrize("shuffled", [np.random.default_rng(0).permutation, np.roll])
def test_a_table_in_another_order_is_noticed(tmp_path: Path, shuffled: Any) -> None:
    cache = Cache()
    order = shuffled(np.arange(SIZES["train"])) if shuffled is not np.roll else np.roll(np.arange(SIZES["train"]), 1)
    cache.y["train"], cache.p["train"] = cache.y["train"][order], cache.p["train"][order]
    csv = cache.csv(tmp_path / "m.csv")
    settings = ImportSettings(csv=csv, columns=PLACE)
    with pytest.raises(DataError, match="not in the same order"):
        import_features([clip(tmp_path / "c")], tmp_path / "s.h5", settings=settings)
    names = csv.read_text().splitlines()
    words = ["duck", "gull"]
    csv.write_text(
        "\n".join([names[0], *(f"{a},{words[int(b)]},{c},{d}" for a, b, c, d in (r.split(",") for r in names[1:]))])
    )
    with pytest.raises(DataError, match="not in the same order"):
        import_features([tmp_path / "c"], tmp_path / "s.h5", settings=settings)


def test_tables_that_do_not_fit(tmp_path: Path) -> None:
    path = sfl(tmp_path / "c.npz")
    whole = CACHE.csv(tmp_path / "m.csv").read_text().splitlines()
    csv = tmp_path / "x.csv"
    for lines, columns, why in (
        (whole[:-1], PLACE, "35 rows of the split 'test' for 36"),
        ([line.rsplit(",", 2)[0] for line in whole], {"label": "y"}, "120 rows for 60 rows of features"),
        (["b,c", "1,2"], {}, "no column for label, attribute or split"),
        (whole, {"attribute": "plce"}, "Did you mean 'place'"),
        (whole, {"atribute": "place"}, "Unknown column option"),
        (["img_filename,y,split,place", "a,0,9,0"], PLACE, r"column 'split': '9'"),
    ):
        csv.write_text("\n".join(lines) + "\n")
        with pytest.raises(DataError, match=why):
            import_features([path], tmp_path / "s.h5", settings=ImportSettings(csv=csv, columns=columns))


def test_rows_that_are_not_finite_can_be_left_out(tmp_path: Path) -> None:
    result = import_features([nan_row(tmp_path)], tmp_path / "s.h5", settings=ImportSettings(skip_bad=True))
    assert result.skipped == (("row-3", "a feature is not finite, or beyond float32"),)
    with FeatureStore(result.path) as store:
        assert store.n == result.n == SIZES["val"] + SIZES["test"] - 1
        np.testing.assert_array_equal(store.load(Split.VAL)[0], np.delete(CACHE.x["val"], 3, axis=0))
        assert store.skipped == result.skipped


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout if code == 0 else result.output


def test_import_then_probe_spectrum_verify_and_info(tmp_path: Path) -> None:
    store, heads = tmp_path / "s.h5", tmp_path / "h.safetensors"
    records = ("--records", tmp_path / "r.jsonl")
    names = ("--column", "class_names=landbird,waterbird", "--column", "attribute_names=land,water")
    report = json.loads(
        run("import", afr(tmp_path / "e.pt"), "--out", store, "--backbone", "resnet50", *names, "--json")
    )
    assert report["result"]["n"] == 120
    assert report["result"]["layout"] == "afr"
    probe = json.loads(run("probe", store, "--balance", "all", "--seeds", "1", "--save", heads, "--json", *records))
    groups = probe["runs"][0]["test"]["groups"]
    assert sum(group["n"] for group in groups) == SIZES["test"]
    assert groups[0]["name"] == "landbird / land"
    quick = ("--null", "20", "--interval", "0", "--permutations", "0", "--no-diagnostics")
    spectrum = json.loads(run("spectrum", store, *quick, "--json", *records))
    member = CACHE.x["train"][CACHE.g["train"] == 2].astype(np.float64)
    largest = np.linalg.eigvalsh(np.cov(member.T, bias=True))[-1]
    np.testing.assert_allclose(spectrum["groups"][2]["eigenvalues"][0], largest, rtol=1e-5)
    assert json.loads(run("verify", store, "--json"))["ok"] is True
    assert json.loads(run("info", store, "--json"))["provenance"]["backbone"] == "imported:resnet50"
    other = tmp_path / "o.h5"
    run("import", sfl(tmp_path / "c.npz", splits=SPLITS), "--out", other, *names)
    assert "weights_digest" in run("predict", other, heads, code=2)
    assert (
        "nothing to do"
        in CliRunner().invoke(app, ["import", str(tmp_path / "c.npz"), "--out", str(other), *names]).stderr
    )


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--format", "tfrecord"], "format must be one of auto, dfr"),
        (["--key", "features"], "--key expects NAME=VALUE"),
        (["--key", "features=a", "--key", "features=b"], "twice"),
        (["--column", "label=y"], "no CSV that has them"),
        (["--csv", "no.csv"], "does not exist"),
        (["--split", "dev"], "train, val or test"),
        (["--rename-split", "val=dev"], "train, val or test"),
        (["--on-error", "ignore"], "stop, skip"),
        (["--dtype", "int8"], "auto, float32, float16"),
    ],
)
def test_what_is_mistyped_gets_a_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert text in run("import", sfl(tmp_path / "c.npz"), "--out", "s.h5", *more, code=2)
    assert not (tmp_path / "s.h5").exists()


@settings(max_examples=30)
@given(
    st.integers(1, 40),
    st.integers(1, 6),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from(["npz", "packed", "pt", "h5"]),
    st.integers(1, 9),
    st.integers(0, 2**31),
)
def test_whatever_the_shape_the_store_holds_what_the_cache_held(
    n: int, d: int, k: int, a: int, kind: str, block: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d)).astype(rng.choice(["f2", "f4", "f8"]))
    arrays = {"x": x, "y": rng.integers(k, size=n), "p": rng.integers(a, size=n), "s": rng.integers(3, size=n)}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("grobust.importing.importer.BLOCK_BYTES", block * d * 4)
        path = Path(folder) / f"c.{'npz' if kind == 'packed' else kind}"
        if kind == "pt":
            torch.save({key: torch.from_numpy(value) for key, value in arrays.items()}, path)
        elif kind == "h5":
            with h5py.File(path, "w") as file:
                for key, value in arrays.items():
                    file[key] = value
        else:
            (np.savez_compressed if kind == "packed" else np.savez)(path, **arrays)
        keys = {"features": "x", "labels": "y", "attributes": "p", "split": "s"}
        result = import_features([path], Path(folder) / "s.h5", settings=ImportSettings(keys=keys))
        with FeatureStore(result.path) as store:
            np.testing.assert_array_equal(store.read(), x.astype(store.dtype))
            np.testing.assert_array_equal(store.groups.labels, arrays["y"])
            np.testing.assert_array_equal(store.groups.attributes, arrays["p"])
            np.testing.assert_array_equal(store.split, arrays["s"])


@settings(max_examples=60)
@given(st.sampled_from(["npz", "pt", "h5", "safetensors"]), st.data())
def test_whatever_is_damaged_there_is_no_other_error(kind: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, options = generic(Path(folder) / f"c.{kind}")
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        try:
            result = import_features([path], Path(folder) / "s.h5", settings=options)
        except (DataError, GroupError):
            assert not (Path(folder) / "s.h5").exists()
        else:
            assert FeatureStore(result.path).n == 120
