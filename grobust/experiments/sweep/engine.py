"""What a sweep needs of an engine: places to work in, and news of what happens there."""

from dataclasses import dataclass
from typing import Protocol

from grobust.experiments.sweep.execute import Outcome, Task

__all__ = ["Engine", "News"]


@dataclass(frozen=True)
class News:
    """Of a step: how far it is, or how it ended.

    Parameters
    ----------
    key : of the step
    done, total : amounts of work
    outcome : None while it runs
    """

    key: str
    done: int = 0
    total: int = 0
    outcome: Outcome | None = None


class Engine(Protocol):
    """Where steps are done: processes of this machine, or a Ray cluster."""

    @property
    def slots(self) -> int:
        """Steps that can be done at the same time."""

    @property
    def about(self) -> str:
        """What it is, in words."""

    def start(self, task: Task) -> None:
        """Begin a step; there must be a free slot."""

    def news(self, seconds: float) -> list[News]:
        """What has happened since the last call; waits up to so many seconds for something to."""

    def close(self) -> None:
        """Stop everything that runs."""
