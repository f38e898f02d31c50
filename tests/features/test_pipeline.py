"""The stages of an extraction: batches by tokens, writing beside the network, profiles, batch sizes, compiling."""

import io
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import CodesForward, text_backbone, toy_texts
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_images

from grobust.data.catalog import load_dataset
from grobust.data.digits import load_digits
from grobust.data.tables import ImageFiles, Texts, decoded_image, smallest_side, stratified_subset, take_rows
from grobust.errors import BackboneError, ConfigError, DataError, StoreError, StoreMismatchError
from grobust.features._batches import load_batches
from grobust.features._encode import Encoded
from grobust.features._write import PartQueue
from grobust.features.batch_size import earlier_batch_size, find_batch_size
from grobust.features.extract import ExtractSettings, Progress, extract_features, planned_parts, provenance_of
from grobust.features.profile import STAGES, StageClock
from grobust.features.store import FeatureStore, parts_folder
from grobust.models.backbones import load_backbone
from grobust.models.collate import ImageCollate

DATA = toy_texts()


class Sink:
    """Keeps what it is given; refuses the n-th write."""

    def __init__(self, refuse: int | None = None) -> None:
        self.written: list[tuple[np.ndarray, np.ndarray]] = []
        self.skipped: list[tuple[int, str]] = []
        self.refuse, self.threads = refuse, set[str]()

    def write(self, rows: np.ndarray, features: np.ndarray) -> None:
        self.threads.add(threading.current_thread().name)
        if len(self.written) == self.refuse:
            raise StoreError("the disk is full")
        self.written.append((rows, features))

    def skip(self, row: int, reason: str) -> None:
        self.skipped.append((row, reason))


def encoded(rows: list[int], dim: int = 3) -> Encoded:
    features = torch.tensor([[float(row)] * dim for row in rows])
    return Encoded(np.array(rows), ((features,), (-features,)), None)


def hand_over(sink: Sink, n: int, then: BaseException | None = None) -> None:
    with PartQueue([sink], [None], StageClock()) as writing:
        for i in range(n):
            writing.put([encoded([i])])
            time.sleep(0.005)
        if then is not None:
            raise then


@given(
    parts=st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), max_size=8),
    there=st.sets(st.integers(0, 60)),
)
def test_parts_are_written_whole_in_order_by_another_thread(parts: list[list[int]], there: set[int]) -> None:
    """Two outputs, one of which has some rows already."""
    sinks = (Sink(), Sink())
    done = np.isin(np.arange(200), list(there))
    given_, row = [], 0
    with PartQueue(sinks, (None, done), StageClock()) as writing:
        for part in parts:
            batches = []
            for size in part:
                batches.append(encoded(list(range(row, row + size))))
                row += size
            given_.append(np.concatenate([batch.rows for batch in batches]))
            writing.put(batches)
        writing.skip(199, "gone")
    assert [rows.tolist() for rows, _ in sinks[0].written] == [rows.tolist() for rows in given_]
    left = [[r for r in rows.tolist() if r not in there] for rows in given_]
    assert [rows.tolist() for rows, _ in sinks[1].written] == [rows for rows in left if rows]
    for sink, sign in zip(sinks, (1, -1), strict=True):
        assert all((features == sign * rows[:, None]).all() for rows, features in sink.written)
        assert sink.skipped == [(199, "gone")]
        assert sink.threads <= {"grobust-writer"}


def test_what_the_writer_meets_is_raised_and_ends_the_writing() -> None:
    sink = Sink(refuse=1)
    with pytest.raises(StoreError, match="disk is full"):
        hand_over(sink, 10)
    assert [rows.tolist() for rows, _ in sink.written] == [[0]]
    # The last part's error comes at the end.
    with pytest.raises(StoreError, match="disk is full"):
        hand_over(Sink(refuse=0), 1)


def test_what_was_handed_over_before_an_interrupt_is_written() -> None:
    sink = Sink()
    with pytest.raises(KeyboardInterrupt):
        hand_over(sink, 2, then=KeyboardInterrupt())
    assert [rows.tolist() for rows, _ in sink.written] == [[0], [1]]


def test_texts_are_batched_by_tokens() -> None:
    data = stratified_subset(load_dataset("tweets"), 300, seed=1)
    backbone = load_backbone("packaged:all-MiniLM-L6-v2")
    settings = ExtractSettings(batch_size=16)
    alone = np.array([backbone.collate([data[row]])["attention_mask"].sum().item() for row in range(len(data))])
    order = np.concatenate([batch for part in planned_parts(data, settings, backbone) for batch in part])
    np.testing.assert_array_equal(order, np.argsort(-alone, kind="stable"))

    def padded(parts: Any) -> int:
        return sum(batch.size * alone[batch].max() for part in parts for batch in part)

    assert padded(planned_parts(data, settings, backbone)) < padded(planned_parts(data, settings))
    assert provenance_of(data, backbone, settings).options["batching"] == "by tokens"


def test_tokenizing_in_threads_and_then_in_processes(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = stratified_subset(load_dataset("tweets"), 60, seed=1)
    backbone = load_backbone("packaged:all-MiniLM-L6-v2", max_tokens=16)
    for workers in (0, 1):
        settings = ExtractSettings(workers=workers)
        extract_features(data, backbone, tmp_path / f"{workers}.h5", settings=settings)
    assert (tmp_path / "0.h5").read_bytes() == (tmp_path / "1.h5").read_bytes()
    assert "parallelism" not in capfd.readouterr().err


class Numbers:
    """Item i is the number i; some take two milliseconds, some cannot be read. Notes who reads."""

    def __init__(self, unreadable: set[int], slow: bool) -> None:
        self.unreadable, self.slow, self.readers = unreadable, slow, set[str]()

    def __getitem__(self, index: int) -> int:
        self.readers.add(threading.current_thread().name)
        if self.slow:
            time.sleep(0.002)
        if index in self.unreadable:
            raise DataError(f"item {index}")
        return index


def numbers(items: Any) -> dict[str, torch.Tensor]:
    return {"numbers": torch.tensor(items)}


@hypothesis_settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), unreadable=st.sets(st.integers(0, 35)),
    threads=st.integers(1, 4), slow=st.booleans(),
)  # fmt: skip
def test_threads_load_the_batches_of_one(sizes: list[int], unreadable: set[int], threads: int, slow: bool) -> None:
    batches = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    items = Numbers(unreadable, slow)
    found = list(load_batches(items, numbers, batches, workers=0, threads=threads))
    assert len(found) == len(batches)
    for batch, rows in zip(found, batches, strict=True):
        readable = [row for row in rows.tolist() if row not in unreadable]
        assert batch.rows.tolist() == readable
        assert batch.failures == tuple((row, f"item {row}") for row in rows.tolist() if row in unreadable)
        if readable:
            assert batch.tensors["numbers"].tolist() == readable
        else:
            assert not batch.tensors


def test_only_items_that_take_long_are_shared() -> None:
    for slow, readers in ((False, 1), (True, 3)):
        items = Numbers(set(), slow)
        list(load_batches(items, numbers, [np.arange(40)] * 2, workers=0, threads=3))
        assert len(items.readers) == readers


def photos(folder: Path, n: int) -> ImageFiles:
    """scikit-learn's two photos as files, and narrower parts of them."""
    for i in range(n):
        pixels = load_sample_images().images[i % 2]
        Image.fromarray(pixels[:, 40 * (i // 2) :]).save(folder / f"{i}.jpg", quality=95)
    rows = toy_texts(n)
    return ImageFiles("photos", rows.groups, rows.split, tuple(f"{i}.jpg" for i in range(n)), folder)


@pytest.mark.parametrize("side", [None, 40])
def test_threads_decode_and_collate_as_one_does(tmp_path: Path, side: int | None, monkeypatch: Any) -> None:
    monkeypatch.setattr("grobust.features._batches.WORTH_THREADS", 0.0)
    data = photos(tmp_path, 7)
    collate = load_backbone("timm:test_resnet@random", image_size=32).collate
    assert isinstance(collate, ImageCollate)
    rows = np.arange(len(data))
    (found,) = load_batches(data, collate, [rows], workers=0, threads=3, side=side)
    with smallest_side(side):
        expected = collate([data[int(row)] for row in rows])
    assert torch.equal(found.tensors["pixels"], expected["pixels"])
    assert found.decode_seconds > 0
    assert found.collate_seconds > 0


def test_on_a_cpu_nothing_is_read_while_the_network_runs(tmp_path: Path) -> None:
    running = threading.Event()
    overlaps: list[int] = []

    class Forward(CodesForward):
        def __call__(self, network: Any, batch: Any) -> Any:
            running.set()
            time.sleep(0.005)
            try:
                return super().__call__(network, batch)
            finally:
                running.clear()

    class Watched(Texts):
        def __getitem__(self, index: int) -> str:
            time.sleep(0.002)
            if running.is_set():
                overlaps.append(index)
            return self.texts[index]

    data = Watched(DATA.name, DATA.groups, DATA.split, DATA.sample_ids, DATA.texts)
    for workers in (0, 1):
        path = tmp_path / f"{workers}.h5"
        extract_features(data, text_backbone(Forward()), path, settings=ExtractSettings(batch_size=5, workers=workers))
    assert not overlaps
    assert (tmp_path / "0.h5").read_bytes() == (tmp_path / "1.h5").read_bytes()


class Slow(Texts):
    """Reading a text takes a millisecond."""

    def __getitem__(self, index: int) -> str:
        time.sleep(0.001)
        return self.texts[index]


def test_a_profile_accounts_for_the_run(tmp_path: Path) -> None:
    settings = ExtractSettings(batch_size=5)
    quick, slow = CodesForward(), CodesForward(seconds=0.03)
    reading = Slow(DATA.name, DATA.groups, DATA.split, DATA.sample_ids, DATA.texts)
    found = extract_features(reading, text_backbone(quick), tmp_path / "a.h5", settings=settings, profile=True).profile
    assert found is not None
    assert [each.stage for each in found.stages] == list(STAGES)
    at = {each.stage: each for each in found.stages}
    assert found.rows == 50
    assert at["decode"].seconds >= 0.05
    assert found.limit == "loader"
    main = sum(each.seconds for each in found.stages if each.place == "main")
    assert 0.5 * found.seconds < main <= found.seconds
    assert at["decode"].rows_per_second == pytest.approx(50 / at["decode"].seconds)
    assert sum(each.share for each in found.stages if each.place == "main") == pytest.approx(main / found.seconds)
    found = extract_features(DATA, text_backbone(slow), tmp_path / "b.h5", settings=settings, profile=True).profile
    assert found is not None
    assert found.limit == "network"
    assert {each.stage: each for each in found.stages}["network"].seconds >= 0.1
    assert extract_features(DATA, text_backbone(), tmp_path / "c.h5", settings=settings).profile is None


@pytest.mark.parametrize(
    ("seconds", "device", "limit", "text"),
    [
        ({"decode": 30.0, "network": 2.0, "wait for loader": 6.0}, "cuda:0", "loader", "try --workers"),
        (
            {"decode": 9.0, "network": 6.0, "wait for loader": 4.0},
            "cpu",
            "loader",
            "--workers 1 reads beside the network",
        ),
        ({"decode": 5.0, "network": 9.0, "wait for loader": 0.2}, "cuda:0", "network", "--precision bfloat16"),
        ({"decode": 5.0, "network": 9.0, "wait for loader": 0.2}, "cpu", "network", "sets the pace"),
        ({"network": 3.0, "write": 9.0, "wait for writer": 6.0}, "cpu", "writer", "100 rows/s"),
        ({"network": 3.0, "copy to device": 4.0}, "cuda", "copies", "larger --batch-size"),
    ],
)
def test_advice_follows_from_the_numbers(seconds: dict[str, float], device: str, limit: str, text: str) -> None:
    clock = StageClock(rows=900)
    for name, value in seconds.items():
        clock.add(name, value)
    found = clock.profile(10.0, workers=0, device=device, precision="float32", batch_size=64, cores=4)
    assert found.limit == limit
    assert text in " ".join(found.advice)
    assert found.padding is None


def test_padding_is_worth_a_word() -> None:
    clock = StageClock(rows=10, tokens=60, padded=100)
    found = clock.profile(1.0, workers=0, device="cpu", precision="float32", batch_size=64, cores=4)
    assert found.padding == pytest.approx(0.4)
    assert "40% of the text batches is padding" in found.advice[-1]


def test_the_batch_grows_until_memory_runs_out_or_it_brings_nothing() -> None:
    # A pass takes as long for any number of rows, so only memory ends it.
    assert find_batch_size(DATA, [text_backbone(CodesForward(limit=40, seconds=0.005))], ExtractSettings()) == 32
    with pytest.raises(BackboneError, match="smaller --batch-size"):
        find_batch_size(DATA, [text_backbone(CodesForward(limit=3))], ExtractSettings())
    rows = 1e-2

    class PerRow(CodesForward):
        def __call__(self, network: Any, batch: Any) -> Any:
            time.sleep(rows * len(batch["codes"]))
            return super().__call__(network, batch)

    assert find_batch_size(DATA, [text_backbone(PerRow())], ExtractSettings()) == 8


def test_a_run_that_continues_keeps_its_batch_size(tmp_path: Path) -> None:
    path, settings = tmp_path / "f.h5", ExtractSettings(batch_size=7, part_rows=7)
    assert earlier_batch_size([path], resume=True, overwrite=False) is None

    def stop(progress: Progress) -> None:
        if progress.done >= 21:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_features(DATA, text_backbone(), path, settings=settings, on_progress=stop)
    assert list(parts_folder(path).glob("part-*"))
    assert earlier_batch_size([tmp_path / "other.h5", path], resume=True, overwrite=False) == 7
    assert earlier_batch_size([path], resume=False, overwrite=False) is None
    extract_features(DATA, text_backbone(), path, settings=settings)
    assert earlier_batch_size([path], resume=False, overwrite=False) == 7
    assert earlier_batch_size([path], resume=True, overwrite=True) is None
    damaged = tmp_path / "d.h5"
    parts_folder(damaged).mkdir()
    (parts_folder(damaged) / "plan.json").write_text("[]")
    with pytest.raises(StoreError, match="damaged"):
        earlier_batch_size([damaged], resume=True, overwrite=False)


@given(width=st.integers(20, 900), height=st.integers(20, 900), side=st.integers(16, 300))
def test_no_side_gets_smaller_than_asked(width: int, height: int, side: int) -> None:
    content = io.BytesIO()
    Image.new("RGB", (width, height), (90, 120, 30)).save(content, "JPEG")
    with smallest_side(side):
        found = decoded_image(io.BytesIO(content.getvalue()), "it").size
    scale = max((s for s in (1, 2, 4, 8) if min(width, height) // side >= s), default=1)
    assert found == (-(-width // scale), -(-height // scale))
    assert min(found) >= min(side, width, height)
    assert decoded_image(io.BytesIO(content.getvalue()), "it").size == (width, height)


def test_fast_decoding_is_part_of_the_provenance_and_close(tmp_path: Path) -> None:
    data = photos(tmp_path, 2)
    backbone = load_backbone("packaged:efficientnet_lite0", image_size=96)
    exact = extract_features(data, backbone, tmp_path / "f.h5")
    fast = ExtractSettings(fast_decode=True)
    with pytest.raises(StoreMismatchError, match="decoding"):
        extract_features(data, backbone, tmp_path / "f.h5", settings=fast)
    other = extract_features(data, backbone, tmp_path / "g.h5", settings=fast)
    assert "sides of at least 110" in FeatureStore(other.path).provenance.options["decoding"]
    a, b = FeatureStore(exact.path).read(), FeatureStore(other.path).read()
    assert not np.array_equal(a, b)
    for x, y in zip(a, b, strict=True):
        assert x @ y / np.linalg.norm(x) / np.linalg.norm(y) > 0.97
    with pytest.raises(ConfigError, match="input size"):
        provenance_of(DATA, _without_input("image"), fast)
    assert "decoding" not in provenance_of(DATA, text_backbone(), fast).options


def _without_input(kind: Any) -> Any:
    return replace(text_backbone(), kind=kind)


def test_compiled_networks_give_the_same(tmp_path: Path) -> None:
    expected = extract_features(DATA, text_backbone(), tmp_path / "a.h5")
    settings = ExtractSettings(compile=True, batch_size=25)
    found = extract_features(DATA, text_backbone(_Plain()), tmp_path / "b.h5", settings=settings)
    np.testing.assert_allclose(FeatureStore(found.path).read(), FeatureStore(expected.path).read(), rtol=1e-5)
    assert FeatureStore(found.path).provenance.options["compile"] == "torch.compile"


class _Plain(CodesForward):
    """Without the count of its calls, which is no part of a graph."""

    def __call__(self, network: Any, batch: Any) -> Any:
        codes = batch["codes"]
        return network(torch.stack([codes.sum(1), (codes > 0).sum(1).float(), codes.amax(1)], dim=1) / 100)


def test_the_memory_layout_is_an_option_and_part_of_the_provenance(tmp_path: Path) -> None:
    data = take_rows(load_digits(), range(6))
    backbone = load_backbone("timm:test_resnet@random", image_size=64)
    seen: list[tuple[bool, bool]] = []
    convolution = next(m for m in backbone.network.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_pre_hook(
        lambda module, given: seen.append(tuple(
            t.is_contiguous(memory_format=torch.channels_last) for t in (given[0], module.weight)
        ))
    )  # fmt: skip
    first = ExtractSettings(channels_last=False)
    paths = [tmp_path / f"{name}.h5" for name in ("last", "first", "again")]
    for path, settings in zip(paths, (ExtractSettings(), first, ExtractSettings()), strict=True):
        extract_features(data, backbone, path, settings=settings)
    assert seen == [(True, True), (False, False), (True, True)]
    assert paths[2].read_bytes() == paths[0].read_bytes()
    stores = [FeatureStore(path) for path in paths]
    np.testing.assert_allclose(stores[1].read(), stores[0].read(), rtol=1e-3, atol=1e-4)
    assert stores[1].provenance.options["memory"] == "channels first"
    assert "memory" not in stores[0].provenance.options
    with pytest.raises(StoreMismatchError, match="memory"):
        extract_features(data, backbone, paths[0], settings=first)
    # Texts have no such layout.
    assert provenance_of(DATA, text_backbone(), first) == provenance_of(DATA, text_backbone(), ExtractSettings())


def test_without_a_compiler_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(call: Any, **options: Any) -> Any:
        from torch._inductor.exc import InvalidCxxCompiler

        def fails(batch: Any) -> Any:
            raise InvalidCxxCompiler

        return fails

    monkeypatch.setattr(torch, "compile", no_compiler)
    with pytest.raises(BackboneError, match="Leave out --compile"):
        extract_features(DATA, text_backbone(), tmp_path / "f.h5", settings=ExtractSettings(compile=True))
    assert not (tmp_path / "f.h5").exists()
