"""Several processes on this machine that train together. Loads no torch.

Each process runs the same command with the variables that torch's launchers set, so ``accelerate launch`` and
``torchrun`` do as well; they reach further machines too.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO

from grobust.errors import ConfigError

__all__ = ["is_main_process", "launch", "launched"]

POLL_SECONDS = 0.05
# How long processes have to end by themselves after one of them has failed.
GRACE_SECONDS = 10.0


def launched() -> bool:
    """Whether this process was started by a launcher, ours or another."""
    return "LOCAL_RANK" in os.environ


def is_main_process() -> bool:
    """Whether this process speaks for the others; True without a launcher."""
    return int(os.environ.get("RANK", "0")) == 0


def launch(command: Sequence[str], processes: int) -> int:
    """Run a command in several processes that find each other; the exit code, that of the first one to fail.

    The first process writes to this one's streams. What another one writes to stderr is shown if it is the first to
    fail; the others are ended then.

    Raises
    ------
    ConfigError
        If there are fewer than one.
    """
    if processes < 1:
        raise ConfigError(f"processes must be at least 1, got {processes}.")
    started: list[subprocess.Popen[bytes]] = []
    port = _free_port()
    with ExitStack() as stack:
        errors = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(processes)]
        stack.callback(_end, started)
        for rank, error in enumerate(errors):
            environment = _environment(rank, processes, port)
            out, err = (None, None) if rank == 0 else (subprocess.DEVNULL, error)
            started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=err))  # noqa: S603
        return _wait(started, errors)


def _wait(started: Sequence["subprocess.Popen[bytes]"], errors: Sequence[IO[bytes]]) -> int:
    while True:
        codes = [process.poll() for process in started]
        failed = next((rank for rank, code in enumerate(codes) if code not in (None, 0)), None)
        if failed is not None:
            if failed > 0:
                errors[failed].seek(0)
                sys.stderr.buffer.write(errors[failed].read())
                sys.stderr.flush()
            # Ended by a signal counts as in a shell.
            code = started[failed].returncode
            return code if code > 0 else 128 - code
        if all(code == 0 for code in codes):
            return 0
        time.sleep(POLL_SECONDS)


def _end(started: Sequence["subprocess.Popen[bytes]"]) -> None:
    running = [process for process in started if process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(rank: int, processes: int, port: int) -> dict[str, str]:
    threads = max(1, (os.cpu_count() or 1) // processes)
    shared = {"OMP_NUM_THREADS": str(threads), **os.environ}
    if sys.platform == "linux":
        # gloo takes the interface of the machine's name, which need not lead anywhere.
        shared.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return shared | {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
