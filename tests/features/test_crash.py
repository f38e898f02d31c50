"""Real processes killed at random moments: whatever happens, the folder stays usable and the end is the same.

A child process imports everything once and forks a grandchild per attempt, so that an attempt costs no start-up.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import make_plan

from grobust.errors import StoreIncompleteError, StoreLockedError
from grobust.features.parts import PartsWriter
from grobust.features.store import FeatureStore, parts_folder

SERVER = """
import os, sys, signal, warnings
# A shell starts what it puts in the background with Ctrl-C ignored; here it has its usual meaning.
signal.signal(signal.SIGINT, signal.default_int_handler)
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from pathlib import Path
from grobust.data.digits import load_digits
from grobust.data.tables import take_rows
from grobust.features.extract import ExtractSettings, extract_features
from grobust.models.backbones import load_backbone

data = take_rows(load_digits(), range(240))
backbone = load_backbone("packaged:efficientnet_lite0", image_size=32)
settings = ExtractSettings(batch_size=8, part_rows=8)
print("ready", flush=True)
for line in sys.stdin:
    path = line.strip()
    child = os.fork()
    if child == 0:
        try:
            extract_features(data, backbone, path, settings=settings)
            os._exit(0)
        except KeyboardInterrupt:
            os._exit(130)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(3)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
KILLS = 32
# 240 rows in parts of 8.
PARTS = 30


class Server:
    """Starts extractions of the same data, each in a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, path: Path) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return int(self.line())

    def wait(self) -> int:
        return int(self.line())

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server():
    running = Server()
    yield running
    running.close()


@pytest.fixture(scope="module")
def whole(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """An uninterrupted run and how long it takes."""
    path = tmp_path_factory.mktemp("whole") / "f.h5"
    started = time.monotonic()
    server.start(path)
    assert server.wait() == 0
    return path, time.monotonic() - started


def test_killed_at_random_moments(server: Server, whole: tuple[Path, float], tmp_path: Path) -> None:
    reference, seconds = whole
    moments = random.Random(7)
    kills = finished = 0
    while kills < KILLS:
        path = tmp_path / f"{finished}.h5"
        child = server.start(path)
        time.sleep(moments.uniform(0, seconds * 0.6))
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        if server.wait() == -signal.SIGKILL:
            kills += 1
        # Complete or absent: the file is a whole store, or says that it is not finished.
        if path.exists():
            FeatureStore(path).verify()
            assert path.read_bytes() == reference.read_bytes()
            finished += 1
        else:
            with pytest.raises(StoreIncompleteError):
                FeatureStore(path)
    path = tmp_path / f"{finished}.h5"
    server.start(path)
    assert server.wait() == 0
    assert path.read_bytes() == reference.read_bytes()
    assert not parts_folder(path).exists()
    assert finished >= 1


@contextlib.contextmanager
def paused_midway(server: Server, path: Path) -> Iterator[int]:
    """An extraction that stands still with some parts written and some not; it goes on afterwards."""
    while True:
        child = server.start(path)
        while not list(parts_folder(path).glob("part-*")) and not path.exists():
            time.sleep(0.002)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGSTOP)
        # On a busy machine it may be almost through by now: only a run with much left to do tells anything.
        if 0 < len(list(parts_folder(path).glob("part-*"))) < PARTS - 5:
            try:
                yield child
            finally:
                os.kill(child, signal.SIGCONT)
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGCONT)
        assert server.wait() == 0
        path.unlink()


def test_interrupt_keeps_the_parts(server: Server, whole: tuple[Path, float], tmp_path: Path) -> None:
    reference, _ = whole
    path = tmp_path / "f.h5"
    with paused_midway(server, path) as child:
        os.kill(child, signal.SIGINT)
    assert server.wait() == 130
    assert list(parts_folder(path).glob("part-*"))
    server.start(path)
    assert server.wait() == 0
    assert path.read_bytes() == reference.read_bytes()


def test_of_two_processes_one_wins(server: Server, whole: tuple[Path, float], tmp_path: Path) -> None:
    """While a process extracts, another that wants the same store gets a clear error and disturbs nothing."""
    reference, _ = whole
    path = tmp_path / "f.h5"
    with paused_midway(server, path), pytest.raises(StoreLockedError, match="Another process"):
        PartsWriter(path, make_plan())
    assert server.wait() == 0
    with FeatureStore(reference) as store:
        np.testing.assert_array_equal(FeatureStore(path).read(), store.read())
