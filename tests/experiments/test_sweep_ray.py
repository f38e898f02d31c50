"""The Ray engine: the same numbers as the local one, and a worker that dies."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from sweeps import contents, write_grid

from grobust.experiments.sweep.config import EngineName, SweepConfig
from grobust.experiments.sweep.run import run_sweep

ray = pytest.importorskip("ray")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    # Ray's own processes and sockets, which it ends with the interpreter.
    pytest.mark.filterwarnings("ignore"),
]


def test_ray_gives_the_numbers_of_the_local_engine_and_survives_a_killed_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Sums over other numbers of threads round otherwise, which training makes visible.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    grid = str(write_grid(tmp_path))
    local = run_sweep(SweepConfig(grid, out=tmp_path / "local"))
    killed: list[int] = []

    def kill_one() -> None:
        """The first worker that has begun a step."""
        psutil = pytest.importorskip("psutil")
        while not killed:
            for process in psutil.Process(os.getpid()).children(recursive=True):
                try:
                    if "ray::_execute" in " ".join(process.cmdline()):
                        process.send_signal(signal.SIGKILL)
                        killed.append(process.pid)
                        return
                except psutil.Error:
                    continue
            time.sleep(0.02)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    far = run_sweep(SweepConfig(grid, out=tmp_path / "ray", engine=EngineName.RAY, jobs=1))
    assert not far.failures, far.failures
    assert len(killed) == 1
    assert "Ray cluster" in far.engine
    assert contents(far.records, digits=5) == contents(local.records, digits=5)
