"""Sweeps that are killed or interrupted, that fail, and that several processes run at once: real processes."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from sweeps import CELLS, contents, start, write_grid

from grobust.experiments.sweep.config import SweepConfig
from grobust.experiments.sweep.run import run_sweep

KILLS = 20


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The grid run through, and how long that takes."""
    folder = tmp_path_factory.mktemp("straight")
    started = time.monotonic()
    process = start(write_grid(folder), folder / "out")
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said.decode()
    return folder / "out" / "records.jsonl", time.monotonic() - started


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_twenty_moments_it_ends_in_the_same_records(
    straight: tuple[Path, float], tmp_path: Path, rng: np.random.Generator
) -> None:
    expected, seconds = straight
    wanted = contents(expected)
    assert len(wanted) == CELLS
    grid, folders, killed = write_grid(tmp_path), 1, 0
    while killed < KILLS:
        out = tmp_path / f"out-{folders}"
        process = start(grid, out)
        try:
            # What was done before a kill is not done again, so that later ones meet later steps.
            process.communicate(timeout=float(rng.uniform(0.0, 0.4 * seconds)))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
        else:
            # Done before its time, after however many kills: the next one begins from nothing.
            assert process.returncode == 0
            assert contents(out / "records.jsonl") == wanted
            folders += 1
    last = start(grid, tmp_path / f"out-{folders}")
    _, said = last.communicate(timeout=900)
    assert last.returncode == 0, said.decode()
    assert contents(tmp_path / f"out-{folders}" / "records.jsonl") == wanted


@pytest.mark.timeout(900)
def test_ctrl_c_stops_soon_and_loses_nothing(straight: tuple[Path, float], tmp_path: Path) -> None:
    """As a terminal sends it: to every process of the sweep's group."""
    psutil = pytest.importorskip("psutil")
    grid, out = write_grid(tmp_path), tmp_path / "out"
    process = start(grid, out, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(out.glob("steps/*/done.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    before = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    # A worker has five seconds to end; the rest is a loaded machine.
    assert time.monotonic() - before < 30
    assert process.returncode == 130, said.decode()
    assert "Interrupted: What was finished is kept" in said.decode()
    assert "Traceback" not in said.decode()
    assert [w for w in workers if w.is_running() and w.status() != psutil.STATUS_ZOMBIE] == []
    assert list(out.glob("steps/*/claim.json")) == []
    kept = {path: path.stat().st_mtime_ns for path in out.glob("steps/*/done.json")}
    assert 0 < len(kept) < CELLS
    again = start(grid, out)
    _, said = again.communicate(timeout=900)
    assert again.returncode == 0, said.decode()
    assert contents(out / "records.jsonl") == contents(straight[0])
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.timeout(900)
def test_two_processes_share_the_work(straight: tuple[Path, float], tmp_path: Path) -> None:
    grid, out = write_grid(tmp_path), tmp_path / "out"
    both = [start(grid, out) for _ in range(2)]
    for process in both:
        _, said = process.communicate(timeout=900)
        assert process.returncode == 0, said.decode()
    assert contents(out / "records.jsonl") == contents(straight[0])


def test_a_failure_is_recorded_and_tried_again(tmp_path: Path) -> None:
    text = """
    [[finetune]]
    name = "bad"
    dataset = "digits:celeba"
    backbone = "timm:no_such_network@random"
    limit = 120
    [[extract]]
    name = "features"
    backbone = "finetune:bad"
    [[extract]]
    name = "good"
    dataset = "digits:celeba"
    backbone = "timm:test_resnet@random"
    image_size = 32
    limit = 120
    [[probe]]
    store = "good"
    seeds = [1]
    [[spectrum]]
    store = "features"
    balance = "run"
    """
    config = SweepConfig(str(write_grid(tmp_path, text)), out=tmp_path / "out")
    for attempt in (1, 2):
        report = run_sweep(config)
        ((step, failure),) = report.failures
        assert (step.section, failure.attempts) == ("bad", attempt)
        assert "no_such_network" in failure.message
        assert failure.traceback == ""
        assert {s.section for s in report.blocked} == {"features", "spectrum-1"}
        assert report.after.recorded == 1
    kept = json.loads((tmp_path / "out" / "steps" / f"finetune-{step.key[:16]}" / "failed.json").read_text())
    assert kept["error"] == "BackboneError"
