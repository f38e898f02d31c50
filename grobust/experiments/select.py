"""`run_select`: the paper's Table 1 from records: what each criterion chooses, and what its choice is worth."""

import math
from dataclasses import asdict, dataclass
from statistics import fmean, pstdev
from typing import Any

import numpy as np

from grobust.comparison import Difference, mean_interval, paired_over_seeds
from grobust.experiments.evidence_config import Epochs, SelectConfig
from grobust.experiments.recorded import Candidate, Panel, Point, read_panels
from grobust.experiments.records import jsonable
from grobust.ledger import LabelLedger, LabelUse
from grobust.selection import Choice, choose
from grobust.settings import SelectBy

__all__ = ["PanelSelection", "SelectReport", "Selection", "run_select"]


@dataclass(frozen=True)
class Selection:
    """One criterion's choice and what it is worth on test rows.

    Parameters
    ----------
    criterion : the score
    choice : what it chose on validation rows; None where no run has the score
    epoch : of the chosen point; None for a solved head
    test_wga : (s) worst-group accuracy on test rows of the choice, by seed
    average : mean of its plain accuracy on test rows over seeds
    gap_to_oracle : test WGA of the choice by validation WGA less that of this one, paired over seeds, with Student's
        interval; None without an oracle
    gap_to_best : that of the candidate best on test rows, which nobody can choose, less that of this one; its interval
        does not account for having picked the best
    ledger : labels used: to train the choice, by every choice inside the runs and by this one, and to report
    reason : why there is no choice
    """

    criterion: SelectBy
    choice: Choice | None
    epoch: int | None
    test_wga: tuple[float, ...]
    average: float | None
    gap_to_oracle: Difference | None
    gap_to_best: Difference | None
    ledger: LabelLedger | None
    reason: str = ""

    @property
    def mean(self) -> float | None:
        """Mean test WGA over seeds."""
        return fmean(self.test_wga) if self.test_wga else None

    @property
    def sd(self) -> float | None:
        """Population standard deviation over seeds."""
        return pstdev(self.test_wga) if self.test_wga else None

    @property
    def interval(self) -> tuple[float, float]:
        """Student's 95% interval of the mean, for new seeds on the same test rows; NaN for one seed."""
        return mean_interval(np.array(self.test_wga)) if self.test_wga else (math.nan, math.nan)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; NaN becomes None."""
        chosen = self.choice
        low, high = jsonable(self.interval)
        return {
            "criterion": str(self.criterion),
            "choice": None if chosen is None else chosen.name,
            "epoch": self.epoch,
            "score": None if chosen is None else chosen.score,
            "tied": [] if chosen is None else list(chosen.tied),
            "n_seeds": len(self.test_wga),
            "test_wga": {"mean": self.mean, "sd": self.sd, "low": low, "high": high, "values": list(self.test_wga)},
            "test_average": self.average,
            "gap_to_oracle": jsonable(self.gap_to_oracle),
            "gap_to_best": jsonable(self.gap_to_best),
            "label_ledger": None if self.ledger is None else asdict(self.ledger),
            "reason": self.reason,
        }


@dataclass(frozen=True)
class PanelSelection:
    """All criteria on one panel; `best` is the candidate with the largest mean test WGA, for the gaps alone."""

    panel: Panel
    selections: tuple[Selection, ...]
    best: str
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "command": self.panel.command,
            "dataset": self.panel.dataset,
            "backbone": self.panel.backbone,
            "candidates": [candidate.name for candidate in self.panel.candidates],
            "seeds": list(self.panel.seeds),
            "best_on_test": self.best,
            "selections": [selection.as_dict() for selection in self.selections],
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class SelectReport:
    """Table 1 of every panel of a file of records."""

    config: SelectConfig
    panels: tuple[PanelSelection, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "records": str(self.config.records),
            "epochs": str(self.config.epochs),
            "panels": [panel.as_dict() for panel in self.panels],
        }


def run_select(config: SelectConfig) -> SelectReport:
    """Choose by every criterion among the recorded runs, on their validation scores; report the choices' test metrics.

    Raises
    ------
    DataError
        If the records cannot be read, or hold nothing to choose from; see `read_panels`.
    """
    panels = read_panels(config.records, command=config.command)
    return SelectReport(config, tuple(_on_panel(config, panel) for panel in panels))


@dataclass(frozen=True)
class _Option:
    """A candidate at one point of its runs; `at` is None for the last."""

    candidate: Candidate
    at: int | None
    name: str

    def points(self, seeds: tuple[int, ...]) -> list[Point]:
        return [self.candidate.runs[seed].points[-1 if self.at is None else self.at] for seed in seeds]


def _on_panel(config: SelectConfig, panel: Panel) -> PanelSelection:
    options = [option for candidate in panel.candidates for option in _options(config, candidate)]
    worth = [fmean(point.test[SelectBy.WGA] for point in option.points(panel.seeds)) for option in options]
    oracle = _chosen(SelectBy.WGA, panel, options)
    best = int(np.nanargmax(worth))
    rows = []
    for criterion in config.criteria:
        found = _chosen(criterion, panel, options)
        if isinstance(found, str):
            rows.append(Selection(criterion, None, None, (), None, None, None, None, found))
            continue
        option = options[found.index]
        points = option.points(panel.seeds)
        gap = None if isinstance(oracle, str) else _gap(panel, options[oracle.index], option)
        rows.append(
            Selection(
                criterion, found, points[0].epoch, tuple(point.test[SelectBy.WGA] for point in points),
                fmean(point.test[SelectBy.AVERAGE] for point in points), gap, _gap(panel, options[best], option),
                _ledger(found, option, panel),
            )
        )  # fmt: skip
    return PanelSelection(panel, tuple(rows), options[best].name, (*panel.notes, *_other_rows(panel)))


def _gap(panel: Panel, first: _Option, second: _Option) -> Difference:
    """Test WGA of the first less that of the second, paired over seeds."""
    values = [np.array([point.test[SelectBy.WGA] for point in o.points(panel.seeds)]) for o in (first, second)]
    return paired_over_seeds(*values).difference


def _other_rows(panel: Panel) -> tuple[str, ...]:
    """A note where candidates were scored on different validation rows."""
    sizes = {point.n_val for c in panel.candidates for run in c.runs.values() for point in run.points} - {None, 0}
    if len(sizes) < 2:
        return ()
    listed = ", ".join(str(n) for n in sorted(n for n in sizes if n is not None))
    return (f"scores are of different validation rows (n = {listed}): some methods train on part of them",)


def _options(config: SelectConfig, candidate: Candidate) -> list[_Option]:
    """The last point, or every one that all seeds have."""
    n = min(len(run.points) for run in candidate.runs.values())
    if config.epochs is Epochs.LAST or n == 1:
        return [_Option(candidate, None, candidate.name)]
    first = next(iter(candidate.runs.values()))
    return [_Option(candidate, i, f"{candidate.name}, epoch {first.points[i].epoch}") for i in range(n)]


def _chosen(criterion: SelectBy, panel: Panel, options: list[_Option]) -> Choice | str:
    """The choice, or why there is none."""
    scores = np.array(
        [[point.val.get(criterion, np.nan) for point in option.points(panel.seeds)] for option in options]
    )
    lacking = {o.candidate.name for o, row in zip(options, scores, strict=True) if np.isnan(row).any()}
    if len(lacking) == len(panel.candidates):
        if criterion.needs_groups:
            return "no run has it: without validation rows or attributes there is none"
        return "no run has it: record runs with validation rows again"
    if lacking:
        return f"these runs lack it: {', '.join(sorted(lacking))}; record them again"
    return choose(criterion, scores, names=[option.name for option in options])


def _ledger(choice: Choice, option: _Option, panel: Panel) -> LabelLedger:
    """Every label that the chosen number depends on; the runs' own choices among strengths are part of it."""
    runs = [run for candidate in panel.candidates for run in candidate.runs.values()]
    # A curve has every epoch, so nothing was chosen inside its run.
    inside = tuple(label for run in runs if run.points[0].epoch is None for label in run.selection_labels)
    trained = {label for run in option.candidate.runs.values() for label in run.train_labels} | {*choice.ledger.train}
    train = tuple(str(use) for use in LabelUse if use in trained)
    return LabelLedger(train=train, selection=()).with_selection((*choice.ledger.selection, *inside))
