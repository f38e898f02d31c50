"""The order of things: what can be done is done where there is a place for it, until nothing is left."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from grobust.experiments.sweep.claims import Claims
from grobust.experiments.sweep.config import SweepConfig
from grobust.experiments.sweep.engine import Engine, News
from grobust.experiments.sweep.execute import Outcome, Task
from grobust.experiments.sweep.folder import Failure, SweepFolder
from grobust.experiments.sweep.plan import Plan
from grobust.experiments.sweep.state import output_of, recorded, states_of
from grobust.experiments.sweep.step import Step, without_finished

__all__ = ["Scheduler", "SweepProgress"]

NEWS_SECONDS = 0.5
# Before a step that another process held is looked at again.
BUSY_SECONDS = 2.0


@dataclass(frozen=True)
class SweepProgress:
    """Where a sweep stands.

    Parameters
    ----------
    cells_done, cells : recorded, and of the whole grid
    steps_left : to be done, those that run included
    running : labels and shares done of the steps that run
    seconds_left : estimated from steps of the same kind; None where none of a kind has finished
    message : what has just happened; None for nothing new
    """

    cells_done: int
    cells: int
    steps_left: int
    running: tuple[tuple[str, float | None], ...]
    seconds_left: float | None
    message: str | None = None


@dataclass
class _Running:
    step: Step
    started: float
    share: float | None = None


@dataclass
class Scheduler:
    """Does the steps of a plan that are left."""

    config: SweepConfig
    plan: Plan
    folder: SweepFolder
    engine: Engine
    on_progress: Callable[[SweepProgress], None] | None
    failures: dict[str, tuple[Step, Failure]] = field(default_factory=dict)
    blocked: list[Step] = field(default_factory=list)
    _left: list[Step] = field(default_factory=list)
    _running: dict[str, _Running] = field(default_factory=dict)
    _not_before: dict[str, float] = field(default_factory=dict)
    _seconds: dict[str, list[float]] = field(default_factory=dict)
    _outputs: dict[str, Path] = field(default_factory=dict)

    def run(self) -> None:
        """Until everything is done, has failed, or needs what has."""
        claims = Claims(self.folder.root, stale_seconds=self.config.stale_seconds)
        self._by_key = {step.key: step for step in self.plan.steps}
        for standing in states_of(self.plan, self.folder):
            self._left += standing.left
            done = self.folder.done(standing.step)
            if done is not None:
                self._seconds.setdefault(standing.step.kind, []).append(float(done.get("seconds", 0.0)))
        try:
            self._tell(f"{len(self._left)} steps to do on {self.engine.about}" if self._left else None)
            while self._left or self._running:
                self._drop_blocked()
                self._fill(claims)
                if not self._left and not self._running:
                    break
                for news in self.engine.news(NEWS_SECONDS):
                    self._take(news, claims)
                self._tell(None)
        finally:
            claims.close()

    def _fill(self, claims: Claims) -> None:
        """Start what can be started."""
        for step in list(self._left):
            if len(self._running) >= self.engine.slots:
                return
            if time.monotonic() < self._not_before.get(step.key, 0.0) or not self._has_inputs(step):
                continue
            if not claims.take(self.folder.of(step)):
                self._later(step)
                continue
            # Another machine may have finished it before its claim was gone.
            rest = self._rest(step)
            if rest != (step,):
                self._left[self._left.index(step) : self._left.index(step) + 1] = rest
                claims.release(self.folder.of(step))
                return
            self._left.remove(step)
            self._running[step.key] = _Running(step, time.monotonic())
            self.engine.start(Task(step, self.folder.root.resolve(), self._source(step), self.config.device))

    def _rest(self, step: Step) -> tuple[Step, ...]:
        self.folder.commit(step)
        if step.kind in ("extract", "finetune"):
            return () if self.folder.done(step) is not None else (step,)
        return without_finished(step, recorded(step, self.folder, self._by_key))

    def _has_inputs(self, step: Step) -> bool:
        for key in step.inputs:
            if key not in self._outputs:
                output = output_of(self._by_key[key], self.folder)
                if output is None:
                    return False
                self._outputs[key] = output
        return True

    def _source(self, step: Step) -> str | None:
        if not step.inputs:
            return step.store
        path = self._outputs[step.inputs[0]].resolve()
        return f"run:{path}@{step.epoch}" if step.kind == "extract" else str(path)

    def _take(self, news: News, claims: Claims) -> None:
        running = self._running.get(news.key)
        if running is None:
            return
        if news.outcome is None:
            running.share = news.done / news.total if news.total else None
            return
        del self._running[news.key]
        step, outcome = running.step, news.outcome
        if outcome.busy:
            self._left.insert(0, step)
            self._later(step)
            message = None
        elif outcome.error is None:
            self.folder.commit(step)
            self.folder.write_done(
                step, output=None if outcome.output is None else Path(outcome.output), seconds=outcome.seconds
            )
            self._seconds.setdefault(step.kind, []).append(outcome.seconds)
            message = f"{step.label}: done in {outcome.seconds:.1f} s"
        else:
            message = f"{step.label}: {self._fail(step, outcome)}"
        claims.release(self.folder.of(step))
        self._tell(message)

    def _fail(self, step: Step, outcome: Outcome) -> str:
        before = self.folder.failure(step)
        failure = Failure(
            label=step.label, error=str(outcome.error), message=outcome.message, traceback=outcome.traceback,
            attempts=1 if before is None else before.attempts + 1, time=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        self.folder.write_failure(step, failure)
        self.failures[step.key] = (step, failure)
        return f"{failure.error}: {(failure.message.splitlines() or [''])[0]}"

    def _drop_blocked(self) -> None:
        """What needs a failed step is not tried."""
        lost = set(self.failures) | {step.key for step in self.blocked}
        while True:
            found = [step for step in self._left if lost & set(step.inputs)]
            if not found:
                return
            self.blocked += found
            lost |= {step.key for step in found}
            self._left = [step for step in self._left if step.key not in lost]

    def _later(self, step: Step) -> None:
        self._not_before[step.key] = time.monotonic() + BUSY_SECONDS

    def _tell(self, message: str | None) -> None:
        if self.on_progress is None:
            return
        there = self.folder.cells()
        done = sum(name in there for step in self.plan.steps for name in step.cells.values())
        self.on_progress(
            SweepProgress(
                done, self.plan.cells, len(self._left) + len(self._running),
                tuple((r.step.label, r.share) for r in self._running.values()), self._seconds_left(), message,
            )
        )  # fmt: skip

    def _seconds_left(self) -> float | None:
        """Work left, spread over the places there are."""
        total = 0.0
        for step in self._left:
            known = self._seconds.get(step.kind)
            if not known:
                return None
            total += sum(known) / len(known)
        for running in self._running.values():
            elapsed = time.monotonic() - running.started
            known = self._seconds.get(running.step.kind)
            if running.share:
                total += elapsed * (1 - running.share) / running.share
            elif known:
                total += max(sum(known) / len(known) - elapsed, 0.0)
            else:
                return None
        return total / max(self.engine.slots, 1)
