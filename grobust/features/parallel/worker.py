"""A worker process: parts in, a line of JSON for each that is durable out.

When the process that started it is gone, whatever way, its input ends, and so does it with all that it started.
"""

import json
import os
import pickle
import queue
import signal
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO, TextIO

from grobust.child_processes import pipes_to_parent

__all__ = ["HEADER_BYTES", "main"]

HEADER_BYTES = 8


def main() -> None:
    """Serve until the input ends: a `Share` of an extraction, or a `Trial` of batch sizes."""
    parts, answers = pipes_to_parent()
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(parts, inbox), daemon=True).start()
    share = inbox.get()
    # From the parent, over a pipe that nobody else writes to. After the listener: this loads torch for seconds, in
    # which the parent can be killed too.
    pickle.loads(share).serve(inbox, _Answers(answers))  # noqa: S301
    # The listener still reads, and an interpreter that ends as usual would trip over it.
    os._exit(0)


class _Answers:
    """Lines of JSON from several threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def __call__(self, content: Mapping[str, Any]) -> None:
        with self._lock:
            self._stream.write(json.dumps(content) + "\n")
            self._stream.flush()


def _listen(source: BinaryIO, inbox: "queue.SimpleQueue[bytes]") -> None:
    size = int.from_bytes(source.read(HEADER_BYTES), "big")
    share = source.read(size)
    if len(share) == size > 0:
        inbox.put(share)
        for line in source:
            inbox.put(line)
    # The whole group, which is this process and its loaders, if it was started as one.
    if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    main()
