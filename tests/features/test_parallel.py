"""Several processes that extract together: the bytes of one, whoever dies when."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import CodesForward, SomeUnreadable, text_backbone, toy_texts
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from grobust.errors import BackboneError, ConfigError, DataError, DeviceError, StoreError, WorkerError
from grobust.experiments.crew_config import CrewConfig, gpu_numbers
from grobust.features.extract import ExtractSettings, OnError, Progress, extract_features, plan_of
from grobust.features.parallel.dispatch import ATTEMPTS, Dispatch, in_pieces, parts_ahead, rows_of
from grobust.features.parallel.local import ProcessCrew
from grobust.features.parts import PartsWriter
from grobust.features.store import FeatureStore, parts_folder
from grobust_cli.main import app

pytestmark = pytest.mark.usefixtures("one_torch_thread")

DATA = toy_texts(120)
SETTINGS = ExtractSettings(batch_size=2, part_rows=4)
SLOW = CodesForward(seconds=0.1)
BROKEN = SomeUnreadable(DATA.name, DATA.groups, DATA.split, DATA.sample_ids, DATA.texts)
LEADER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from helpers import CodesForward, text_backbone, toy_texts
from grobust.features.extract import ExtractSettings, extract_features
from grobust.features.parallel.local import ProcessCrew
try:
    extract_features(
        toy_texts(120), text_backbone(CodesForward(seconds=0.1)), sys.argv[1],
        settings=ExtractSettings(batch_size=2, part_rows=4), crew=ProcessCrew(("cpu", "cpu")),
    )
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The store of one process."""
    path = tmp_path_factory.mktemp("alone") / "f.h5"
    extract_features(DATA, text_backbone(), path, settings=SETTINGS)
    return path.read_bytes()


def workers_of(pid: int) -> list[psutil.Process]:
    """Worker processes below a process."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "grobust.features.parallel.worker" in child.cmdline():
                    found.append(child)
    return found


def test_the_command_writes_the_bytes_of_one_process(tmp_path: Path) -> None:
    command = ["extract", "--dataset", "digits", "--limit", "120", "--backbone", "timm:test_convnext@random",
               "--image-size", "32", "--batch-size", "8", "--json"]  # fmt: skip
    one = CliRunner().invoke(app, [*command, "--device", "cpu", "--out", str(tmp_path / "one.h5")])
    assert one.exit_code == 0, one.output
    # Loaders of the workers, and processes that have loaders.
    more = ["--devices", "cpu,cpu", "--workers", "1", "--out", str(tmp_path / "two.h5")]
    two = CliRunner().invoke(app, [*command, *more])
    assert two.exit_code == 0, two.output
    assert '"n_extracted": 120' in two.stdout
    assert '"device": "cpu, cpu"' in two.stdout
    assert (tmp_path / "two.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()
    assert not parts_folder(tmp_path / "two.h5").exists()


def test_processes_killed_at_random_moments_lose_nothing(tmp_path: Path, alone: bytes) -> None:
    moments = random.Random(3)
    targets = sorted(moments.sample(range(4, 90), 2))
    killed: list[int] = []
    seen: list[Progress] = []

    def kill(progress: Progress) -> None:
        seen.append(progress)
        if targets and progress.done >= targets[0]:
            targets.pop(0)
            victim = moments.choice(workers_of(os.getpid()))
            victim.send_signal(signal.SIGKILL)
            killed.append(victim.pid)

    path, crew = tmp_path / "f.h5", ProcessCrew(("cpu",) * 3)
    result = extract_features(DATA, text_backbone(SLOW), path, settings=SETTINGS, crew=crew, on_progress=kill)
    assert len(set(killed)) == 2
    assert sum("was ended by SIGKILL" in note for note in result.notes) == 2
    assert (result.n, result.n_extracted) == (120, 120)
    assert seen[-1].done == 120
    assert path.read_bytes() == alone
    assert not workers_of(os.getpid())


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_leader_that_ends_leaves_no_orphans_and_others_continue(
    end: signal.Signals, tmp_path: Path, alone: bytes
) -> None:
    path = tmp_path / "f.h5"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    leader = subprocess.Popen([sys.executable, "-c", LEADER, str(path)], env=environment)
    try:
        while len(list(parts_folder(path).glob("part-*.safetensors"))) < 6:
            assert leader.poll() is None
            time.sleep(0.01)
        workers = workers_of(leader.pid)
        assert len(workers) == 2
        leader.send_signal(end)
        started = time.monotonic()
        assert leader.wait(timeout=20) == (130 if end is signal.SIGINT else -signal.SIGKILL)
        psutil.wait_procs(workers, timeout=20)
        assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)
        assert time.monotonic() - started < 10
    finally:
        leader.kill()
        leader.wait()
    assert not path.exists()
    crew = ProcessCrew(("cpu",)) if end is signal.SIGKILL else None
    result = extract_features(DATA, text_backbone(), path, settings=SETTINGS, crew=crew)
    assert result.n_resumed >= 12
    assert result.n_resumed + result.n_extracted == 120
    assert path.read_bytes() == alone


def test_errors_and_skipped_inputs_are_those_of_one_process(tmp_path: Path) -> None:
    crew = ProcessCrew(("cpu",))
    with pytest.raises(DataError, match=r"input\(s\) of toy cannot be read:\n  t(3|11): text (3|11) is corrupt"):
        extract_features(BROKEN, text_backbone(), tmp_path / "f.h5", settings=SETTINGS, crew=crew)
    assert not (tmp_path / "f.h5").exists()
    skip = ExtractSettings(batch_size=2, part_rows=4, on_error=OnError.SKIP)
    one = extract_features(BROKEN, text_backbone(), tmp_path / "one.h5", settings=skip)
    two = extract_features(BROKEN, text_backbone(), tmp_path / "f.h5", settings=skip, crew=crew)
    assert sorted(two.skipped) == sorted(one.skipped) == [("t11", "text 11 is corrupt"), ("t3", "text 3 is corrupt")]
    assert (two.n, two.n_extracted + two.n_resumed) == (118, 118)
    np.testing.assert_array_equal(FeatureStore(tmp_path / "f.h5").read(), FeatureStore(tmp_path / "one.h5").read())
    assert (tmp_path / "f.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_when_all_have_died_it_says_so_and_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PartsWriter(tmp_path / "f.h5", plan_of(DATA, text_backbone(), SETTINGS)) as writer:
        writer.write(np.arange(10), np.zeros((10, 4), dtype=np.float32))
    # What is no interpreter of ours ends at once.
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkerError, match=r"All 2 processes have ended .* exit code 1\.\n10 of 120 rows are kept in"):
        extract_features(DATA, text_backbone(), tmp_path / "f.h5", settings=SETTINGS, crew=ProcessCrew(("cpu", "cpu")))
    assert list(parts_folder(tmp_path / "f.h5").glob("part-*"))


def test_what_cannot_be_given_to_other_processes_is_said(tmp_path: Path) -> None:
    backbone = text_backbone(lambda network, batch: batch["codes"])
    with pytest.raises(ConfigError, match=r"toy and timm:toy@random cannot be given to other processes: .*lambda"):
        extract_features(DATA, backbone, tmp_path / "f.h5", settings=SETTINGS, crew=ProcessCrew(("cpu",)))
    backbone = text_backbone()
    backbone.network.to("meta")
    with pytest.raises(BackboneError, match="is on meta; load it with device='cpu'"):
        extract_features(DATA, backbone, tmp_path / "f.h5", settings=SETTINGS, crew=ProcessCrew(("cpu",)))


def test_who_writes_for_another_needs_its_folder_and_plan(tmp_path: Path) -> None:
    plan = plan_of(DATA, text_backbone(), SETTINGS)
    with pytest.raises(StoreError, match="all machines see under the same path"):
        PartsWriter(tmp_path / "f.h5", plan, lead=False)
    assert not parts_folder(tmp_path / "f.h5").exists()
    with PartsWriter(tmp_path / "f.h5", plan):
        other = plan_of(DATA, text_backbone(), ExtractSettings(batch_size=3))
        with pytest.raises(StoreError, match="batch_size"):
            PartsWriter(tmp_path / "f.h5", other, lead=False)
        PartsWriter(tmp_path / "f.h5", plan, lead=False).write(np.arange(3), np.ones((3, 4), dtype=np.float32))
    with PartsWriter(tmp_path / "f.h5", plan) as writer:
        assert writer.done.sum() == 3


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=12), workers=st.integers(1, 4), data=st.data())
def test_every_part_is_done_once_whatever_happens(sizes: list[int], workers: int, data: st.DataObject) -> None:
    """Workers take, finish and die in any order; the last one left lives."""
    parts = [[np.arange(size) + 10 * number] for number, size in enumerate(sizes)]
    dispatch = Dispatch(parts)
    alive, held = list(range(workers)), {worker: [] for worker in range(workers)}
    done: list[int] = []
    while dispatch.left:
        worker = data.draw(st.sampled_from(alive))
        what = data.draw(st.sampled_from(["work", "work", "die"]))
        if what == "die" and len(alive) > 1:
            assert dispatch.lose(worker) == len(held[worker])
            alive.remove(worker)
            continue
        held[worker] += [number for number, _ in dispatch.take(worker)]
        assert len(held[worker]) <= 2
        if held[worker]:
            number = held[worker].pop(0)
            done += rows_of(dispatch.finish(worker, number)).tolist()
    assert sorted(done) == sorted(np.concatenate([rows_of(part) for part in parts]).tolist())


def test_a_part_that_ends_every_worker_is_given_up() -> None:
    dispatch = Dispatch([[np.array([7, 8])], [np.array([9])]])
    for worker in range(ATTEMPTS - 1):
        assert [number for number, _ in dispatch.take(worker)] == [0, 1]
        assert dispatch.lose(worker) == 2
    dispatch.take(ATTEMPTS)
    with pytest.raises(WorkerError, match="same 2 rows, from row 7 on"):
        dispatch.lose(ATTEMPTS)


@given(sizes=st.lists(st.integers(1, 70), min_size=1, max_size=30), workers=st.integers(1, 9))
def test_pieces_keep_batches_whole_and_go_round(sizes: list[int], workers: int) -> None:
    parts = [[np.array([10 * p + b]) for b in range(size)] for p, size in enumerate(sizes)]
    pieces = in_pieces(parts, workers)
    assert [b.tolist() for piece in pieces for b in piece] == [b.tolist() for part in parts for b in part]
    batches = sum(sizes)
    assert len(pieces) >= min(batches, 16 * workers) or max(map(len, pieces)) <= max(1, batches // (16 * workers))


@pytest.mark.parametrize(("batches", "workers", "ahead"), [(64, 0, 2), (2, 0, 4), (1, 0, 6), (1, 8, 18), (64, 8, 2)])
def test_workers_have_more_than_their_loaders_read_ahead(batches: int, workers: int, ahead: int) -> None:
    assert parts_ahead([[np.arange(3)] * batches], workers) == ahead


def test_devices_are_those_that_there_are() -> None:
    assert gpu_numbers(("0", "cuda:1"), ("5", "7")) == ("5", "7")
    assert gpu_numbers(("all",), ("5", "7")) == ("5", "7")
    assert gpu_numbers(("cpu", "cpu"), ()) == ("cpu", "cpu")
    with pytest.raises(DeviceError, match="GPU 2 was asked for, but torch does not see it: it sees 2"):
        gpu_numbers(("2",), ("5", "7"))
    with pytest.raises(DeviceError, match="torch sees none"):
        gpu_numbers(("all",), ())
    for bad in ({"devices": ("gpu",)}, {"devices": ("all", "0")}, {"actors": 0}, {"actors": 2}, {"address": "auto"}):
        with pytest.raises(ConfigError):
            CrewConfig(**bad)
    with pytest.raises(ConfigError, match="mix CPU and GPU"):
        ProcessCrew(("cpu", "0"))
    with pytest.raises(ConfigError, match="at least one"):
        ProcessCrew(())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--devices", "cpu,7"], "GPU 7 was asked for"),
        (["--devices", "cpu", "--device", "cpu"], "exclude each other"),
        (["--devices", "cpu", "--engine", "ray"], "of the local engine"),
        (["--engine", "slurm"], "one of local, ray"),
        (["--actors", "2"], "give --engine ray"),
    ],
)
def test_wrong_options_are_one_message(more: list[str], said: str, tmp_path: Path) -> None:
    command = ["extract", "--dataset", "digits", "--backbone", "timm:test_convnext@random", "--out"]
    result = CliRunner().invoke(app, [*command, str(tmp_path / "f.h5"), *more])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.gpu
def test_processes_on_one_gpu_write_the_bytes_of_one(tmp_path: Path) -> None:
    command = ["extract", "--dataset", "digits", "--limit", "400", "--backbone", "packaged:efficientnet_lite0",
               "--image-size", "64", "--batch-size", "16"]  # fmt: skip
    for name, more in (("one", ["--device", "cuda"]), ("two", ["--devices", "0,0"])):
        result = CliRunner().invoke(app, [*command, *more, "--out", str(tmp_path / f"{name}.h5")])
        assert result.exit_code == 0, result.output
    one, two = FeatureStore(tmp_path / "one.h5"), FeatureStore(tmp_path / "two.h5")
    assert one.sample_ids == two.sample_ids
    # A library may choose another kernel in another process; the same one gives the same bytes.
    np.testing.assert_allclose(two.read(), one.read(), atol=2e-2 * float(np.abs(one.read()).max()))
