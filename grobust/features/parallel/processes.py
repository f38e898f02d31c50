"""Worker processes of this machine: started, spoken to, ended."""

import contextlib
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grobust.child_processes import child_environment
from grobust.errors import ConfigError
from grobust.features.parallel.worker import HEADER_BYTES

__all__ = ["CPU", "Said", "WorkerProcess", "pickled", "start_workers", "torch_kind"]

CPU = "cpu"
LAST_LINES = 15


@dataclass(eq=False)
class WorkerProcess:
    """A process of `grobust.features.parallel.worker`.

    Parameters
    ----------
    number : its place among those started together
    device : ``cpu``, or a GPU as CUDA_VISIBLE_DEVICES names it
    log : file of its stderr
    ready : whether it has read its share; its input belongs to this before
    finished, through : rows of parts that it has finished, and that are through its network
    clock : where its time went, as it said last
    ended : whether it has said its last word
    """

    number: int
    device: str
    process: "subprocess.Popen[bytes]"
    log: Path
    ready: bool = False
    finished: int = 0
    through: int = 0
    clock: dict[str, Any] | None = None
    ended: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        return f"process {self.number} ({CPU if self.device == CPU else f'GPU {self.device}'})"

    def send(self, content: bytes) -> None:
        """Write to its input; if it is gone, its end is on the way."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(content)
            self.process.stdin.flush()

    def end(self) -> int:
        """End it and what it has started, at once: parts are durable or absent. Returns its exit code."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                self.process.kill()
        code = self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        return code

    def end_orphans(self) -> None:
        """If it has ended, it may have left loaders behind that keep its output open."""
        if self.process.poll() is not None and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def last_lines(self) -> str:
        """The end of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-LAST_LINES:])


# What a worker says, or None when it will say no more.
Said = queue.SimpleQueue[tuple[WorkerProcess, dict[str, Any] | None]]


def start_workers(devices: Sequence[str], contents: dict[str, bytes], logs: Path, said: Said) -> list[WorkerProcess]:
    """A process for each device.

    Parameters
    ----------
    contents : what each kind of device (``cpu``, ``cuda``) is to serve, pickled
    logs : folder of their logs
    said : takes what they say
    """
    workers: list[WorkerProcess] = []
    try:
        for number, device in enumerate(devices):
            log = logs / f"worker-{number}.log"
            with log.open("wb") as stream:
                process = subprocess.Popen(
                    [sys.executable, "-m", "grobust.features.parallel.worker"],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream,
                    env=child_environment(len(devices), gpus="" if device == CPU else device),
                    # Ctrl-C reaches this process alone, which ends the others.
                    start_new_session=True,
                )  # fmt: skip
            worker = WorkerProcess(number, device, process, log)
            workers.append(worker)
            threading.Thread(target=_listen, args=(worker, said), daemon=True).start()
            # It is larger than a pipe holds, and is read once the process has started.
            share = contents[torch_kind(device)]
            content = len(share).to_bytes(HEADER_BYTES, "big") + share
            threading.Thread(target=worker.send, args=(content,), daemon=True).start()
    except BaseException:
        for worker in workers:
            worker.end()
        raise
    return workers


def torch_kind(device: str) -> str:
    """Of a process that sees the device alone."""
    return CPU if device == CPU else "cuda"


def pickled(share: Any, what: str) -> bytes:
    """For another process.

    Raises
    ------
    ConfigError
        If it cannot be given to one.
    """
    try:
        return pickle.dumps(share)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"{what} cannot be given to other processes: {error}. Classes and functions that they are made of must "
            "stand at the top of an importable module."
        ) from error


def _listen(worker: WorkerProcess, said: Said) -> None:
    assert worker.process.stdout is not None
    # Closed, or a line that death cut short.
    with contextlib.suppress(ValueError, OSError):
        for line in worker.process.stdout:
            said.put((worker, json.loads(line)))
    said.put((worker, None))
