"""The local engine: worker processes of this machine, each with its share of the cores and a GPU of its own."""

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grobust.child_processes import child_environment, how_it_ended
from grobust.experiments.sweep.engine import News
from grobust.experiments.sweep.execute import Outcome, Task

__all__ = ["LocalEngine"]

STOP_SECONDS = 5.0
LAST_LINES = 15


@dataclass
class _Worker:
    number: int
    process: "subprocess.Popen[str]"
    log: Path
    task: Task | None = None


@dataclass
class LocalEngine:
    """Processes that serve one step after the other; one that dies fails its step alone, and another takes its place.

    Parameters
    ----------
    jobs : processes
    logs : folder for what they print
    gpus : numbers of the GPUs that they share; none for the CPU
    """

    jobs: int
    logs: Path
    gpus: tuple[str, ...] = ()
    _workers: list[_Worker] = field(default_factory=list)
    _said: "queue.SimpleQueue[tuple[_Worker, dict[str, Any] | None]]" = field(default_factory=queue.SimpleQueue)

    @property
    def slots(self) -> int:
        """Number of processes."""
        return self.jobs

    @property
    def about(self) -> str:
        """Processes and GPUs, in words."""
        where = f", GPUs {', '.join(self.gpus)}" if self.gpus else ""
        return f"{self.jobs} process{'es' * (self.jobs > 1)} of this machine{where}"

    def start(self, task: Task) -> None:
        """Give the task to a process without one."""
        worker = next((w for w in self._workers if w.task is None), None) or self._hire()
        worker.task = task
        assert worker.process.stdin is not None
        # If it died between two tasks, its end is in the queue, and fails the task.
        with contextlib.suppress(BrokenPipeError):
            worker.process.stdin.write(json.dumps(task.as_dict()) + "\n")
            worker.process.stdin.flush()

    def news(self, seconds: float) -> list[News]:
        """See `Engine.news`."""
        found: list[News] = []
        while True:
            try:
                worker, said = self._said.get(timeout=0 if found else seconds)
            except queue.Empty:
                return found
            found += self._heard(worker, said)

    def close(self) -> None:
        """End all processes; what they had begun is continued by the next sweep."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            _end(worker.process)
        self._workers.clear()

    def _heard(self, worker: _Worker, said: dict[str, Any] | None) -> list[News]:
        task = worker.task
        if said is None:
            if worker in self._workers:
                self._workers.remove(worker)
            code = _end(worker.process)
            return [] if task is None else [News(task.step.key, outcome=_died(code, worker.log))]
        if task is None or "ready" in said:
            return []
        if "outcome" in said:
            worker.task = None
            return [News(task.step.key, outcome=Outcome(**said["outcome"]))]
        return [News(task.step.key, said["done"], said["total"])]

    def _hire(self) -> _Worker:
        taken = {w.number for w in self._workers}
        number = next(n for n in range(self.jobs + 1) if n not in taken)
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"worker-{number}.log"
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "grobust.experiments.sweep.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, text=True, env=self._environment(number),
                # Ctrl-C reaches the sweep alone, which ends its workers.
                start_new_session=True,
            )  # fmt: skip
        worker = _Worker(number, process, log)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        self._workers.append(worker)
        return worker

    def _listen(self, worker: _Worker) -> None:
        assert worker.process.stdout is not None
        # Closed, or a line that death cut short.
        with contextlib.suppress(ValueError):
            for line in worker.process.stdout:
                self._said.put((worker, json.loads(line)))
        self._said.put((worker, None))

    def _environment(self, number: int) -> dict[str, str]:
        return child_environment(self.jobs, gpus=self.gpus[number % len(self.gpus)] if self.gpus else None)


def _end(process: "subprocess.Popen[str]") -> int:
    """Wait for a process that is ending, not too long, and let go of its pipes."""
    try:
        code = process.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):
            pipe.close()
    return code


def _died(code: int, log: Path) -> Outcome:
    hint = " The machine may be out of memory; try fewer --jobs." if code == -signal.SIGKILL else ""
    last = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
    return Outcome(
        error="WorkerDiedError",
        message=f"The process that did this step {how_it_ended(code)}.{hint} Its log: {log}",
        traceback=last,
    )
