"""The local engine without a GPU: which one every process would see, and who takes the place of a process that died."""

import sys
import time
from pathlib import Path

import pytest
from sweeps import write_grid

from grobust.experiments.extract import visible_gpus
from grobust.experiments.sweep.config import SweepConfig
from grobust.experiments.sweep.engine import News
from grobust.experiments.sweep.execute import Task
from grobust.experiments.sweep.folder import SweepFolder
from grobust.experiments.sweep.local import LocalEngine
from grobust.experiments.sweep.run import _engine, plan_sweep

# Stands where Python stands, and answers a task with what it sees; `die` in the source of a task ends it.
WORKER = """#!/bin/sh
while read -r task; do
  case "$task" in
    *'"source": "die"'*) kill -9 $$ ;;
    *) echo '{"outcome": {"output": "'"$CUDA_VISIBLE_DEVICES/$OMP_NUM_THREADS/$$"'", "seconds": 0.0}}' ;;
  esac
done
"""


@pytest.fixture
def tasks(tmp_path: Path) -> list[Task]:
    plan = plan_sweep(SweepConfig(str(write_grid(tmp_path)), out=tmp_path / "out")).plan
    return [Task(step, tmp_path, None, "cuda") for step in plan.steps]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    script = tmp_path / "worker"
    script.write_text(WORKER)
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    # Eight cores, by either way of counting them.
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    engine = LocalEngine(jobs=4, logs=tmp_path / "logs", gpus=("3", "GPU-7f"))
    yield engine
    engine.close()


def answers(engine: LocalEngine, n: int) -> list[News]:
    found: list[News] = []
    deadline = time.monotonic() + 60
    while len(found) < n and time.monotonic() < deadline:
        found += engine.news(0.2)
    assert len(found) == n
    return found


def test_processes_share_the_gpus_in_turn_and_the_cores_evenly(engine: LocalEngine, tasks: list[Task]) -> None:
    for task in tasks[:4]:
        engine.start(task)
    seen = [str(news.outcome.output).split("/")[:2] for news in answers(engine, 4) if news.outcome is not None]
    assert sorted(seen) == [["3", "2"], ["3", "2"], ["GPU-7f", "2"], ["GPU-7f", "2"]]
    # Free processes serve again: none is started beside them.
    engine.start(tasks[0])
    assert len(engine._workers) == 4
    answers(engine, 1)


def test_the_place_of_a_process_that_died_keeps_its_gpu(engine: LocalEngine, tasks: list[Task]) -> None:
    first, second = tasks[:2]
    engine.start(first)
    engine.start(Task(second.step, second.root, "die", "cuda"))
    by_key = {news.key: news.outcome for news in answers(engine, 2)}
    alive, dead = by_key[first.step.key], by_key[second.step.key]
    assert alive is not None
    assert dead is not None
    assert str(alive.output).startswith("3/")
    assert (dead.error, "SIGKILL" in dead.message) == ("WorkerDiedError", True)
    engine.start(first)
    engine.start(second)
    places = [str(news.outcome.output).split("/")[0] for news in answers(engine, 2) if news.outcome is not None]
    assert sorted(places) == ["3", "GPU-7f"]


def test_one_step_per_gpu_unless_jobs_say_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 1")
    assert visible_gpus() == ("5", "1")
    folder = SweepFolder(tmp_path)
    found = _engine(SweepConfig("quick", device="cuda"), folder)
    assert isinstance(found, LocalEngine)
    assert (found.slots, found.gpus) == (2, ("5", "1"))
    assert _engine(SweepConfig("quick", device="cuda", jobs=3), folder).slots == 3
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_gpus() == ("0", "1")
    on_cpu = _engine(SweepConfig("quick", device="cpu"), folder)
    assert isinstance(on_cpu, LocalEngine)
    assert (on_cpu.slots, on_cpu.gpus) == (1, ())
