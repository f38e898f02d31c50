"""Actors of a Ray cluster: the bytes of one process, whichever of them die."""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from helpers import CodesForward, Deadly, SomeUnreadable, text_backbone, text_outputs, toy_texts
from typer.testing import CliRunner

from grobust.errors import BackboneError, DataError, DeviceError, WorkerError
from grobust.features.extract import ExtractSettings, OnError, Progress, extract_features, extract_together
from grobust.features.parallel.ray_crew import RayCrew
from grobust.features.store import FeatureStore, parts_folder
from grobust_cli.main import app

ray = pytest.importorskip("ray")
pytest.importorskip("pyarrow")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Ray's own processes and sockets, which it ends with the interpreter.
    pytest.mark.filterwarnings("ignore"),
]

DATA = toy_texts(120)
SETTINGS = ExtractSettings(batch_size=2, part_rows=4)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        # Actors import what the data set and the network are made of.
        patch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, configure_logging=False)
    yield
    ray.shutdown()
    torch.set_num_threads(before)


@pytest.fixture
def crew(cluster: None) -> Iterator[RayCrew]:
    crew = RayCrew.connect(address=None, actors=2, cpus=1, device="auto")
    yield crew
    crew.close()


def actors() -> list[psutil.Process]:
    """Processes with an actor of ours in them."""
    found = []
    for process in psutil.Process(os.getpid()).children(recursive=True):
        try:
            if "_Actor" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_actors_killed_at_random_moments_lose_nothing(crew: RayCrew, tmp_path: Path) -> None:
    """Two outputs of one network, and a profile of all actors."""
    one, two = ([tmp_path / f"{name}.{output}.h5" for output in "ab"] for name in ("one", "two"))
    extract_together(DATA, text_outputs(), one, settings=SETTINGS)
    moments = random.Random(5)
    targets = sorted(moments.sample(range(4, 100), 3))
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if targets and progress.done >= targets[0] and (there := actors()):
            targets.pop(0)
            victim = moments.choice(there)
            victim.send_signal(signal.SIGKILL)
            killed.append(victim.pid)

    results = extract_together(
        DATA, text_outputs(0.1), two, settings=SETTINGS, crew=crew, on_progress=kill, profile=True
    )
    assert len(killed) == 3
    assert [(result.n, result.n_extracted) for result in results] == [(120, 120)] * 2
    assert [path.read_bytes() for path in two] == [path.read_bytes() for path in one]
    assert not any(parts_folder(path).exists() for path in two)
    profile = results[0].profile
    assert profile is not None
    assert 2 <= profile.processes <= 5
    # What an actor told of with a part that it finished; the dead took the time of a part with them.
    assert 5.5 <= next(each.seconds for each in profile.stages if each.stage == "network") < 20


def test_the_smallest_batch_size_of_all_actors(crew: RayCrew) -> None:
    # A pass takes as long for any number of rows, so only memory ends it.
    assert crew.batch_size(DATA, [text_backbone(CodesForward(limit=40, seconds=0.005))], SETTINGS) == 32
    with pytest.raises(BackboneError, match="runs out of memory on 8 rows"):
        crew.batch_size(DATA, [text_backbone(CodesForward(limit=3))], SETTINGS)


def test_an_interrupted_run_is_continued_by_one_process(crew: RayCrew, tmp_path: Path) -> None:
    extract_features(DATA, text_backbone(), tmp_path / "one.h5", settings=SETTINGS)

    def stop(progress: Progress) -> None:
        if progress.done >= 30:
            raise KeyboardInterrupt

    slow = text_backbone(CodesForward(seconds=0.1))
    with pytest.raises(KeyboardInterrupt):
        extract_features(DATA, slow, tmp_path / "two.h5", settings=SETTINGS, crew=crew, on_progress=stop)
    assert not (tmp_path / "two.h5").exists()
    deadline = time.monotonic() + 60
    while actors() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not actors()
    result = extract_features(DATA, text_backbone(), tmp_path / "two.h5", settings=SETTINGS)
    assert result.n_resumed >= 30
    assert (tmp_path / "two.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()


def test_errors_and_skipped_inputs_are_those_of_one_process(crew: RayCrew, tmp_path: Path) -> None:
    broken = SomeUnreadable(DATA.name, DATA.groups, DATA.split, DATA.sample_ids, DATA.texts)
    with pytest.raises(DataError, match=r"t(3|11): text (3|11) is corrupt"):
        extract_features(broken, text_backbone(), tmp_path / "f.h5", settings=SETTINGS, crew=crew)
    skip = ExtractSettings(batch_size=2, part_rows=4, on_error=OnError.SKIP)
    result = extract_features(broken, text_backbone(), tmp_path / "f.h5", settings=skip, crew=crew)
    assert sorted(result.skipped) == [("t11", "text 11 is corrupt"), ("t3", "text 3 is corrupt")]
    assert FeatureStore(tmp_path / "f.h5").n == 118


def test_an_input_that_ends_every_actor_ends_the_run(crew: RayCrew, tmp_path: Path) -> None:
    deadly = Deadly(DATA.name, DATA.groups, DATA.split, DATA.sample_ids, DATA.texts)
    with pytest.raises(WorkerError, match="3 workers have ended at the same 2 rows"):
        extract_features(deadly, text_backbone(), tmp_path / "f.h5", settings=SETTINGS, crew=crew)
    assert list(parts_folder(tmp_path / "f.h5").glob("part-*"))


def test_the_command_and_what_a_cluster_does_not_have(cluster: None, tmp_path: Path) -> None:
    command = ["extract", "--dataset", "digits", "--limit", "60", "--backbone", "timm:test_convnext@random",
               "--image-size", "32", "--batch-size", "8"]  # fmt: skip
    one = CliRunner().invoke(app, [*command, "--device", "cpu", "--out", str(tmp_path / "one.h5")])
    assert one.exit_code == 0, one.output
    two = CliRunner().invoke(app, [*command, "--engine", "ray", "--actors", "2", "--out", str(tmp_path / "two.h5")])
    assert two.exit_code == 0, two.output
    assert (tmp_path / "two.h5").read_bytes() == (tmp_path / "one.h5").read_bytes()
    # What Ray says of dead workers goes to stdout otherwise, and results alone belong there.
    there = RayCrew.connect(address=None, actors=1, cpus=1, device="cpu")
    assert sys.stdout is sys.stderr
    there.close()
    assert sys.stdout is not sys.stderr
    with pytest.raises(DeviceError, match="a GPU, and one core besides"):
        RayCrew.connect(address=None, actors=None, cpus=1, device="cuda")
    with pytest.raises(DeviceError, match=r"4 actor\(s\) of 1 core\(s\), and one core besides"):
        RayCrew.connect(address=None, actors=4, cpus=1, device="cpu")
