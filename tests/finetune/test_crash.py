"""Real processes killed at random moments: the end is the same to the last bit, and so is the record.

A child process imports everything once and forks a grandchild per attempt, so that an attempt costs no start-up.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from grobust.models.run_files import RunFiles
from grobust.models.tensor_file import read_tensors

SERVER = """
import os, resource, sys, signal, warnings
# A shell starts what it puts in the background with Ctrl-C ignored; here it has its usual meaning.
signal.signal(signal.SIGINT, signal.default_int_handler)
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from grobust.data.digits import load_digits
from grobust.data.tables import stratified_subset
from grobust.finetune.run import finetune
from grobust.finetune.settings import FinetuneSettings
from grobust.models.backbones import load_backbone

data = stratified_subset(load_digits("celeba"), 160, seed=1)
backbone = load_backbone("timm:test_resnet@random", image_size=32)
settings = FinetuneSettings(
    balance="mixture", epochs=4, batch_size=8, lr=1e-3, head_dropout=0.2, state_every=3, eval_every=2, keep=2,
    eval_batch_size=16,
)
print("ready", flush=True)
for line in sys.stdin:
    limit, path = line.strip().split(" ", 1)
    child = os.fork()
    if child == 0:
        if int(limit):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
        try:
            finetune(data, backbone, settings, out=path)
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(130)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(3)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
KILLS = 12


class Server:
    """Starts runs of the same settings, each in a process of its own."""

    def __init__(self, errors: Path) -> None:
        self.errors = errors.open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, path: Path, *, file_bytes: int = 0) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{file_bytes} {path}\n")
        self.process.stdin.flush()
        return int(self.line())

    def wait(self) -> int:
        return int(self.line())

    def said(self) -> str:
        self.errors.seek(0)
        return self.errors.read()

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    running = Server(tmp_path_factory.mktemp("server") / "stderr")
    yield running
    running.close()


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run and how long it takes."""
    path = tmp_path_factory.mktemp("whole") / "run"
    started = time.monotonic()
    server.start(path)
    assert server.wait() == 0, server.said()
    return path, time.monotonic() - started


def what_came_out(path: Path) -> dict[str, Any]:
    """The record of a run without what belongs to a process."""
    result = json.loads(RunFiles(path).result.read_text())
    for line in result["evaluations"]:
        del line["seconds"]
    return {key: result[key] for key in ("evaluations", "interpolation_epoch")}


def assert_same_run(path: Path, reference: Path) -> None:
    files, expected = RunFiles(path), RunFiles(reference)
    assert files.epochs() == expected.epochs() == (2, 4)
    for epoch in files.epochs():
        about, tensors = files.read_network(epoch)
        expected_about, expected_tensors = expected.read_network(epoch)
        assert about == expected_about
        assert tensors.keys() == expected_tensors.keys()
        assert all(torch.equal(tensors[name], expected_tensors[name]) for name in tensors)
    assert what_came_out(path) == what_came_out(reference)
    lines = [[json.loads(line) for line in f.curve.read_text().splitlines()] for f in (files, expected)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    assert not files.state.exists()
    assert not list(path.rglob("*.tmp"))


def test_killed_at_random_moments(server: Server, whole: tuple[Path, float], tmp_path: Path) -> None:
    reference, seconds = whole
    moments = random.Random(7)
    kills, runs = 0, 0
    while kills < KILLS:
        path = tmp_path / f"run{runs}"
        child = server.start(path)
        time.sleep(moments.uniform(0.1, 0.8) * seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        if server.wait() == -signal.SIGKILL:
            kills += 1
        if RunFiles(path).result.exists():
            runs += 1
    for run in range(runs):
        assert_same_run(tmp_path / f"run{run}", reference)
    last = tmp_path / f"run{runs}"
    server.start(last)
    assert server.wait() == 0, server.said()
    assert_same_run(last, reference)


def test_interrupted_with_ctrl_c_keeps_the_steps_that_are_done(
    server: Server, whole: tuple[Path, float], tmp_path: Path
) -> None:
    reference, seconds = whole
    path, files = tmp_path / "run", RunFiles(tmp_path / "run")
    child = server.start(path)
    deadline = time.monotonic() + 20 * seconds
    while not files.state.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child, signal.SIGINT)
    assert server.wait() == 130, server.said()
    about, _ = read_tensors(files.state)
    assert about["step"] > 0
    server.start(path)
    assert server.wait() == 0, server.said()
    assert json.loads(files.result.read_text())["resumed_step"] == about["step"]
    assert_same_run(path, reference)


def test_a_full_disk_leaves_the_checkpoint_before_usable(
    server: Server, whole: tuple[Path, float], tmp_path: Path
) -> None:
    reference, _ = whole
    path, files = tmp_path / "run", RunFiles(tmp_path / "run")
    # The networks fit, the checkpoints with their moments do not.
    server.start(path, file_bytes=2_500_000)
    assert server.wait() == 3
    said = server.said()
    assert "RunError" in said
    assert str(files.state) in said
    assert "Make room" in said
    assert not files.state.exists()
    assert not list(path.rglob("*.tmp"))
    server.start(path)
    assert server.wait() == 0, server.said()
    assert_same_run(path, reference)


def damaged_run(server: Server, path: Path) -> RunFiles:
    """A run stopped after two checkpoints, whose last one has one bit changed."""
    files = RunFiles(path)
    child = server.start(path)
    deadline = time.monotonic() + 60
    while not (files.state.exists() and files.previous_state.exists()) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child, signal.SIGINT)
    assert server.wait() == 130, server.said()
    content = bytearray(files.state.read_bytes())
    content[-7] ^= 1
    files.state.write_bytes(content)
    return files


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    server: Server, whole: tuple[Path, float], tmp_path: Path
) -> None:
    reference, _ = whole
    files = damaged_run(server, tmp_path / "run")
    server.start(files.root)
    assert server.wait() == 3
    said = server.said()
    assert f"RunCorruptError {files.state} is damaged" in said
    assert f"{files.previous_state} (step " in said
    assert "is whole: delete state.safetensors" in said
    files.state.unlink()
    server.start(files.root)
    assert server.wait() == 0, server.said()
    assert json.loads(files.result.read_text())["resumed_step"] > 0
    assert_same_run(files.root, reference)
