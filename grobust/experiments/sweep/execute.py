"""One step, done in this process."""

import os
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grobust.arrays import resolve_device
from grobust.errors import GrobustError, RunLockedError, StoreLockedError
from grobust.experiments.config import ExtractConfig, ProbeConfig, SpectrumConfig, TrajectoryConfig
from grobust.experiments.extract import run_extract, torch_device
from grobust.experiments.finetune import run_finetune
from grobust.experiments.finetune_config import FinetuneConfig
from grobust.experiments.probe import run_probe
from grobust.experiments.records import read_records
from grobust.experiments.spectrum import run_spectrum
from grobust.experiments.sweep.folder import SweepFolder
from grobust.experiments.sweep.step import Config, Step, config_of
from grobust.experiments.trajectory import run_trajectories

__all__ = ["Outcome", "Task", "execute"]

Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class Task:
    """A step with what only the scheduler knows.

    Parameters
    ----------
    root : folder of the sweep
    source : store or backbone that the step reads; None where its values say it
    device : ``cpu`` or ``cuda``
    """

    step: Step
    root: Path
    source: str | None
    device: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-able task, which `from_dict` reads."""
        return {"step": self.step.as_dict(), "root": str(self.root), "source": self.source, "device": self.device}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Task":
        """Inverse of `as_dict`."""
        return cls(Step.from_dict(content["step"]), Path(content["root"]), content["source"], content["device"])


@dataclass(frozen=True)
class Outcome:
    """How a step ended.

    Parameters
    ----------
    output : store or run that later steps read
    seconds : that it took
    error, message, traceback : of a failure; the traceback is empty for what a user can mend
    busy : whether another process held what it needs, so that it can be tried again
    """

    output: str | None = None
    seconds: float = 0.0
    error: str | None = None
    message: str = ""
    traceback: str = ""
    busy: bool = False


def execute(task: Task, tell: Tell) -> Outcome:
    """Do a step and leave its records, complete, in its folder; whatever goes wrong is an outcome.

    Parameters
    ----------
    tell : called with the amounts of work done and of all work
    """
    started = time.perf_counter()
    folder, step = SweepFolder(task.root), task.step
    # A name of its own: the process of a sweep that was killed may not have noticed yet.
    part = folder.of(step) / f"records.{os.getpid()}.part"
    try:
        folder.of(step).mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        out = folder.store(step) if step.kind == "extract" else folder.runs(step)
        config = config_of(
            step.kind, step.values, methods=step.methods, seeds=step.seeds, source=task.source, out=out, records=part,
            device=(torch_device if step.kind in ("extract", "finetune") else resolve_device)(task.device),
        )  # fmt: skip
        if isinstance(config, ProbeConfig):
            config = replace(config, save=folder.heads_of(step))
        output = _run(config, tell)
        if step.kind != "extract":
            folder.write_own(step, read_records(part))
            part.unlink()
        return Outcome(None if output is None else str(output), time.perf_counter() - started)
    except (StoreLockedError, RunLockedError) as error:
        return Outcome(error=type(error).__name__, message=str(error), busy=True)
    except (GrobustError, OSError) as error:
        notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        return Outcome(None, time.perf_counter() - started, type(error).__name__, f"{error}{notes}")
    except Exception as error:
        seconds = time.perf_counter() - started
        return Outcome(None, seconds, type(error).__name__, str(error), traceback.format_exc())


def _run(config: Config, tell: Tell) -> Path | None:
    if isinstance(config, ExtractConfig):
        return run_extract(config, on_progress=lambda at: tell(at.done, at.total)).result.path
    if isinstance(config, FinetuneConfig):
        report = run_finetune(config, on_progress=lambda name, number, runs, at: tell(at.step, at.steps))
        return report.runs[0].path
    if isinstance(config, ProbeConfig):
        run_probe(config, on_progress=tell)
    elif isinstance(config, TrajectoryConfig):
        run_trajectories(config, on_progress=tell)
    else:
        assert isinstance(config, SpectrumConfig)
        run_spectrum(config)
    return None
