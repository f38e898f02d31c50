"""Ctrl-C as an event: once it is noted, inside and out; twice it is itself; afterwards everything is as before."""

import os
import signal
import threading
import time

import pytest

from grobust.interrupts import interrupts


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0)


@pytest.fixture(autouse=True)
def usual_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_once_is_noted_by_all_and_twice_interrupts() -> None:
    with interrupts() as outer:
        with interrupts() as inner:
            assert not inner.is_set()
            press()
            assert inner.is_set()
        assert outer.is_set()
        with pytest.raises(KeyboardInterrupt):
            press()
    with interrupts() as later:
        assert not later.is_set()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        press()


def test_other_threads_have_an_event_of_their_own() -> None:
    found: list[threading.Event] = []

    def work() -> None:
        with interrupts() as event:
            found.append(event)

    with interrupts() as event:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        assert found[0] is not event
