"""Ctrl-C between two pieces of work instead of anywhere."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interrupts"]

# The event of the work under way in the main thread.
_ours: threading.Event | None = None


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """Ctrl-C as an event that is looked at between batches, and as itself when pressed twice.

    Work within work shares the event, so that the inner one stops too. Raised wherever the interpreter happens to be,
    an interrupt is lost inside a destructor or a callback of a library.
    """
    global _ours
    if _ours is not None and threading.current_thread() is threading.main_thread():
        yield _ours
        return
    event = threading.Event()
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is not signal.default_int_handler:
        yield event
        return

    def note(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            signal.default_int_handler(number, frame)
        event.set()

    signal.signal(signal.SIGINT, note)
    _ours = event
    try:
        yield event
    finally:
        _ours = None
        signal.signal(signal.SIGINT, usual)
