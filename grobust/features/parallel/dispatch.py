"""Who has which parts: one queue that everybody takes from, so that nobody waits while there is work."""

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from grobust.errors import WorkerError
from grobust.features._batches import AHEAD
from grobust.features.extract import Part

__all__ = ["ATTEMPTS", "Dispatch", "ended_often", "in_pieces", "parts_ahead", "rows_of"]

# A part that has ended so many workers will end the next one too.
ATTEMPTS = 3
# Pieces per worker: the last ones to finish are then not long alone.
PIECES = 16
# Batches that a loader process reads ahead.
PREFETCH = 2


@dataclass
class _Piece:
    part: Part
    lost: int = 0


class Dispatch:
    """Parts handed out, given back and finished.

    Parameters
    ----------
    parts : what there is to do; numbered by their place
    ahead : parts that a worker has at a time, so that it never waits for the next one
    """

    def __init__(self, parts: Sequence[Part], *, ahead: int = 2) -> None:
        self._pieces = [_Piece(part) for part in parts]
        self._waiting = deque(range(len(parts)))
        self._held: dict[Hashable, list[int]] = {}
        self._ahead = ahead
        self.left = len(parts)

    def take(self, worker: Hashable) -> list[tuple[int, Part]]:
        """What the worker is to do besides what it has."""
        held = self._held.setdefault(worker, [])
        taken = []
        while self._waiting and len(held) < self._ahead:
            number = self._waiting.popleft()
            held.append(number)
            taken.append((number, self._pieces[number].part))
        return taken

    def finish(self, worker: Hashable, number: int) -> Part:
        """Count a part as done; it is returned."""
        self._held[worker].remove(number)
        self.left -= 1
        return self._pieces[number].part

    def lose(self, worker: Hashable) -> int:
        """Take back what a worker had that is gone; the next to ask get it. Returns how many parts.

        Raises
        ------
        WorkerError
            If the part that it worked on has ended several workers.
        """
        held = self._held.pop(worker, [])
        self._waiting.extendleft(reversed(held))
        # Parts are done in the order taken, so the first one was under way.
        for number in held[:1]:
            piece = self._pieces[number]
            piece.lost += 1
            if piece.lost >= ATTEMPTS:
                raise ended_often(piece.part)
        return len(held)


def ended_often(part: Part) -> WorkerError:
    """The error of a part that has ended too many workers."""
    rows = rows_of(part)
    return WorkerError(
        f"{ATTEMPTS} workers have ended at the same {rows.size} rows, from row {rows[0]} on: they may take more memory "
        "than there is (a smaller --batch-size helps), or an input of theirs breaks a library."
    )


def parts_ahead(parts: Sequence[Part], loader_workers: int) -> int:
    """Parts that a worker needs at a time so that its loader, which reads ahead, never finds the queue empty."""
    batches_ahead = max(AHEAD, PREFETCH * loader_workers)
    return 2 + batches_ahead // max(map(len, parts))


def in_pieces(parts: Sequence[Part], workers: int) -> list[Part]:
    """The same batches in smaller parts, if there are too few parts to go round; a batch stays whole."""
    batches = sum(map(len, parts))
    size = max(1, batches // (PIECES * workers))
    return [part[start : start + size] for part in parts for start in range(0, len(part), size)]


def rows_of(part: Part) -> NDArray[np.int64]:
    """Row numbers of all batches."""
    return np.concatenate(part)
