"""`plan_sweep` and `run_sweep`: what a grid asks for and what of it exists; and doing the rest, each step once."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grobust.errors import DataError
from grobust.experiments.extract import torch_device, visible_gpus
from grobust.experiments.sweep.config import EngineName, SweepConfig
from grobust.experiments.sweep.engine import Engine
from grobust.experiments.sweep.folder import Failure, SweepFolder
from grobust.experiments.sweep.grid import read_grid
from grobust.experiments.sweep.local import LocalEngine
from grobust.experiments.sweep.plan import Plan, make_plan
from grobust.experiments.sweep.schedule import Scheduler, SweepProgress
from grobust.experiments.sweep.state import Standing, states_of
from grobust.experiments.sweep.step import Step

__all__ = ["PlanReport", "SweepReport", "plan_sweep", "run_sweep"]

DEFAULT_OUT = Path("sweeps")


@dataclass(frozen=True, eq=False)
class PlanReport:
    """A plan, and how each of its steps stands."""

    plan: Plan
    out: Path
    standings: tuple[Standing, ...]

    @property
    def recorded(self) -> int:
        """Cells that are done."""
        return sum(standing.recorded for standing in self.standings)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "grid": self.plan.grid.source,
            "out": str(self.out),
            "cells": self.plan.cells,
            "recorded": self.recorded,
            "wanted_steps": self.plan.wanted,
            "missing": list(self.plan.missing),
            "steps": [_step(standing, self.plan) for standing in self.standings],
        }


@dataclass(frozen=True, eq=False)
class SweepReport:
    """A sweep that went through.

    Parameters
    ----------
    before, after : how everything stood
    failures : steps that failed, with their errors
    blocked : steps that need one of those
    engine, seconds : what did the work, and how long
    """

    before: PlanReport
    after: PlanReport
    failures: tuple[tuple[Step, Failure], ...]
    blocked: tuple[Step, ...]
    engine: str
    seconds: float
    notes: tuple[str, ...] = field(default=())

    @property
    def records(self) -> Path:
        """The file of records."""
        return SweepFolder(self.after.out).records

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return self.after.as_dict() | {
            "recorded_before": self.before.recorded,
            "records": str(self.records),
            "engine": self.engine,
            "seconds": round(self.seconds, 3),
            "failures": [{"step": step.label, "section": step.section, "error": why.error, "message": why.message,
                          "attempts": why.attempts} for step, why in self.failures],
            "blocked": [step.label for step in self.blocked],
            "notes": list(self.notes),
        }  # fmt: skip


def plan_sweep(config: SweepConfig) -> PlanReport:
    """What the grid asks for, and what of it exists. Nothing is written; data sets may be missing.

    Raises
    ------
    ConfigError
        If the grid asks for what cannot be; section and line are named.
    """
    return _planned(config, allow_missing=True)


def run_sweep(config: SweepConfig, *, on_progress: Callable[[SweepProgress], None] | None = None) -> SweepReport:
    """Do what is left of the grid.

    A cell whose record is in the folder is not computed again; a step that failed before is tried again. Several
    processes and machines may run the same sweep in the same folder. Killed at any moment, it can be run again.

    Raises
    ------
    ConfigError, DataError, DeviceError
        If the grid asks for what cannot be, or data or device are not there; before anything runs.
    """
    started = time.perf_counter()
    torch_device(config.device)
    before = _planned(config, allow_missing=False)
    folder = SweepFolder(before.out)
    folder.root.mkdir(parents=True, exist_ok=True)
    for step in before.plan.steps:
        folder.commit(step)
    engine = _engine(config, folder)
    try:
        scheduler = Scheduler(config, before.plan, folder, engine, on_progress)
        scheduler.run()
        about = engine.about
    finally:
        engine.close()
    after = PlanReport(before.plan, before.out, states_of(before.plan, SweepFolder(before.out)))
    return SweepReport(
        before, after, tuple(scheduler.failures.values()), tuple(scheduler.blocked), about,
        time.perf_counter() - started,
    )  # fmt: skip


def _planned(config: SweepConfig, *, allow_missing: bool) -> PlanReport:
    grid = read_grid(config.grid, config.variables).only(config.only)
    plan = make_plan(grid, allow_missing=allow_missing)
    out = config.out or DEFAULT_OUT / grid.name
    if plan.missing and not allow_missing:
        raise DataError("\n".join(plan.missing))
    return PlanReport(plan, out, states_of(plan, SweepFolder(out)))


def _engine(config: SweepConfig, folder: SweepFolder) -> Engine:
    if config.engine is EngineName.RAY:
        from grobust.experiments.sweep.ray_engine import RayEngine

        return RayEngine.connect(
            address=config.address, jobs=config.jobs, cpus=config.step_cpus, gpu=torch_device(config.device) == "cuda"
        )  # fmt: skip
    gpus = visible_gpus() if torch_device(config.device) == "cuda" else ()
    return LocalEngine(jobs=config.jobs or max(len(gpus), 1), logs=folder.logs, gpus=gpus)


def _step(standing: Standing, plan: Plan) -> dict[str, Any]:
    step = standing.step
    return {
        "kind": step.kind, "section": step.section, "label": step.label, "key": step.key, "state": str(standing.state),
        "cells": len(step.cells), "recorded": standing.recorded, "readers": plan.readers(step.key),
    }  # fmt: skip
