"""What of a plan is done, and what is left to do."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from grobust.experiments.sweep.folder import SweepFolder
from grobust.experiments.sweep.plan import Plan
from grobust.experiments.sweep.step import Step, without_finished

__all__ = ["Standing", "State", "output_of", "recorded", "states_of"]


class State(StrEnum):
    """How a step stands."""

    DONE = "done"
    NOT_NEEDED = "not needed"
    PARTLY = "partly"
    BEGUN = "begun"
    FAILED = "failed"
    TO_DO = "to do"


@dataclass(frozen=True)
class Standing:
    """A step, how it stands, how many of its cells are recorded, and what is to do, in pieces."""

    step: Step
    state: State
    recorded: int
    left: tuple[Step, ...]


def states_of(plan: Plan, folder: SweepFolder) -> tuple[Standing, ...]:
    """How every step stands; an output that no step still reads is not asked for."""
    found: dict[str, Standing] = {}
    by_key = {step.key: step for step in plan.steps}
    for step in reversed(plan.steps):
        readers = [s for s in plan.steps if step.key in s.inputs]
        needed = any(found[s.key].left for s in readers)
        left = _left(step, folder, by_key, needed=needed, leaf=not readers)
        n = sum(recorded(step, folder, by_key).values())
        found[step.key] = Standing(step, _state(step, folder, n, left, readers), n, left)
    return tuple(found[step.key] for step in plan.steps)


def recorded(step: Step, folder: SweepFolder, by_key: dict[str, Step]) -> dict[tuple[str, int], bool]:
    """Which cells of a step are recorded, from the features that are there now."""
    there = folder.cells()
    made_of = {folder.provenance(folder.store(by_key[key])) for key in step.inputs} - {None}
    return {
        cell: bool(there.get(name, set()) & made_of if made_of else there.get(name))
        for cell, name in step.cells.items()
    }


def output_of(step: Step, folder: SweepFolder) -> Path | None:
    """The store or run that a finished step left; None if it is not there."""
    done = folder.done(step)
    return None if done is None or done["output"] is None else folder.root / done["output"]


def _left(step: Step, folder: SweepFolder, by_key: dict[str, Step], *, needed: bool, leaf: bool) -> tuple[Step, ...]:
    if step.kind == "extract":
        return (step,) if (needed or leaf) and folder.done(step) is None else ()
    left = without_finished(step, recorded(step, folder, by_key))
    if step.kind == "finetune" and needed and folder.done(step) is None:
        return (step,)
    return left


def _state(step: Step, folder: SweepFolder, n: int, left: tuple[Step, ...], readers: list[Step]) -> State:
    if not left:
        return State.NOT_NEEDED if step.kind == "extract" and readers and folder.done(step) is None else State.DONE
    if folder.failure(left[0]) is not None:
        return State.FAILED
    if n:
        return State.PARTLY
    begun = folder.of(left[0]).exists() or Path(f"{folder.store(step)}.parts").exists()
    return State.BEGUN if begun else State.TO_DO
