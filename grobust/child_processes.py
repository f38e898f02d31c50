"""What processes that are started here are given, and how they ended."""

import os
import signal
import sys
from typing import BinaryIO, TextIO

__all__ = ["child_environment", "how_it_ended", "pipes_to_parent"]

# Those of OpenMP (torch among them), OpenBLAS, MKL and numba.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def child_environment(processes: int, *, gpus: str | None = None) -> dict[str, str]:
    """Environment of one of several Python processes that work side by side, with the import paths of this one.

    Parameters
    ----------
    processes : among which the cores are shared out, where the environment does not say how many threads to take
    gpus : names of the GPUs that it may see; empty for none, None for those that this process sees
    """
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(path for path in sys.path if path))
    if gpus is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpus
    if processes > 1:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        for name in _THREADS:
            environment.setdefault(name, str(max(cores // processes, 1)))
    return environment


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def pipes_to_parent() -> tuple[BinaryIO, TextIO]:
    """What this process was given as stdin and stdout, for the caller alone.

    What libraries print goes to stderr, since it is no answer, and stdin is empty: a loader that is forked closes it,
    and would wait for ever for a thread that reads it.
    """
    told, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return told, answers
