"""A worker process of the local engine: tasks in, how far they are and how they ended out, a line of JSON each.

When the process that started it is gone, whatever way, its input ends and so does the worker.
"""

import json
import os
import queue
import threading
import time
from dataclasses import asdict
from typing import Any, TextIO

__all__ = ["main"]

TELL_EVERY_SECONDS = 0.2


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What libraries print is no answer. A forked loader closes stdin, and waits for ever if a thread was reading it.
    told = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    tasks: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(told, tasks), daemon=True).start()
    # After the listener: these load torch for seconds, in which the sweep can be killed too.
    from grobust.experiments.sweep.execute import Task, execute

    _say(answers, {"ready": os.getpid()})
    while True:
        task = Task.from_dict(json.loads(tasks.get()))
        _say(answers, {"outcome": asdict(execute(task, _Teller(answers)))})


def _listen(source: TextIO, tasks: "queue.SimpleQueue[str]") -> None:
    for line in source:
        tasks.put(line)
    os._exit(0)


class _Teller:
    """Tells progress, but not too often."""

    def __init__(self, answers: TextIO) -> None:
        self._answers = answers
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + TELL_EVERY_SECONDS
            _say(self._answers, {"done": done, "total": total})


def _say(answers: TextIO, content: dict[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
