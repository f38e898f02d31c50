"""What runs say about methods: chosen on validation rows, reported on test rows, with what that leaves open."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from grobust.report.comparisons import ScorePoint
from grobust.report.figures import MethodResult
from grobust.report.page.content import SummaryCard
from grobust.report.tables import Cell, mean_cell

__all__ = ["MethodSummary", "chosen_by", "newcombe", "summarize_methods", "summary_card"]

# Scores that choose, best first: worst-group accuracy needs the attributes of validation rows, worst-class does not.
PREFERRED = ("wga", "worst_class", "average")
WORDS = {"wga": "worst-group accuracy", "worst_class": "worst-class accuracy", "average": "average accuracy"}
BASELINE = "none"
FEW_ROWS = 100


@dataclass(frozen=True)
class MethodSummary:
    """One method of one panel: its cell as in tables, and the results of its seeds."""

    method: str
    cell: Cell
    results: tuple[MethodResult, ...]

    @property
    def average(self) -> float:
        """Mean over seeds of the plain average."""
        return sum(r.average for r in self.results) / len(self.results)

    @property
    def worst(self) -> str:
        """The worst groups of the seeds, with their sizes."""
        return "; ".join(dict.fromkeys(f"{r.worst_group} (n = {r.n_worst_group})" for r in self.results))


def summarize_methods(results: Sequence[MethodResult]) -> list[MethodSummary]:
    """Results of one panel by method, in order."""
    own: dict[str, list[MethodResult]] = {}
    for result in results:
        own.setdefault(result.method, []).append(result)
    return [
        MethodSummary(method, mean_cell([r.wga for r in found], [(r.low, r.high) for r in found]), tuple(found))
        for method, found in own.items()
    ]


def chosen_by(scores: Sequence[ScorePoint], score: str) -> str | None:
    """The method with the largest mean of a validation score, the first on a tie; None where no run has it."""
    values: dict[str, list[float]] = {}
    for point in scores:
        if point.score == score and math.isfinite(point.val):
            values.setdefault(point.method, []).append(point.val)
    return max(values, key=lambda m: sum(values[m]) / len(values[m])) if values else None


def newcombe(first: Cell, second: Cell) -> tuple[float, float]:
    """95% interval of first minus second from the intervals of both (Newcombe 1998, method 10), as if independent.

    With Wilson intervals this is Newcombe's score interval of a difference of proportions.
    """
    difference = first.mean - second.mean
    low = difference - math.hypot(first.mean - first.low, second.high - second.mean)
    high = difference + math.hypot(first.high - first.mean, second.mean - second.low)
    return low, high


def summary_card(title: str, results: Sequence[MethodResult], scores: Sequence[ScorePoint]) -> SummaryCard:
    """The conclusion for one panel.

    Parameters
    ----------
    title : of the panel
    results : test metrics of its runs, at least one
    scores : validation scores of its runs; none where there were no validation rows
    """
    methods = {m.method: m for m in summarize_methods(results)}
    score = next((s for s in PREFERRED if chosen_by(scores, s) is not None), None)
    chosen = methods[name] if score is not None and (name := chosen_by(scores, score)) in methods else None
    if len(methods) == 1:
        (shown,) = methods.values()
        sentences = [f"The only method run is {shown.method}; there is nothing to compare it with."]
    elif chosen is None:
        shown = max(methods.values(), key=lambda m: m.cell.mean)
        sentences = [
            "There are no validation scores, so nothing can be chosen without looking at test rows.",
            f"The largest test mean is that of {shown.method}; as a choice it would be optimistic.",
        ]
    else:
        shown = chosen
        sentences = [f"Validation {WORDS[score or 'wga']} chooses {shown.method} among {len(methods)} methods."]
    sentences.append(f"On test rows its worst group is {shown.worst}; the plain average is {_percent(shown.average)}%.")
    if BASELINE in methods and shown.method != BASELINE:
        sentences.append(_against(shown, methods[BASELINE]))
    return SummaryCard(
        title=title,
        figure=f"{_percent(shown.cell.mean)}% [{_percent(shown.cell.low)}, {_percent(shown.cell.high)}]",
        figure_of=f"test worst-group accuracy, {shown.method}, n = {shown.cell.n} seed(s)",
        sentences=tuple(sentences),
        cautions=tuple(_cautions(shown, scores, score)),
        method=shown.method,
    )


def _against(shown: MethodSummary, baseline: MethodSummary) -> str:
    low, high = newcombe(shown.cell, baseline.cell)
    gain = shown.cell.mean - baseline.cell.mean
    numbers = f"{100 * gain:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]"
    start = f"Against no balancing ({_percent(baseline.cell.mean)}%) that is {numbers}"
    # One seed shows nothing of the spread over seeds.
    one_seed = min(shown.cell.n, baseline.cell.n) == 1
    beyond = "test rows leave open; another seed may differ" if one_seed else "seeds and test rows leave open"
    if low > 0:
        return f"{start}: better beyond what {beyond}."
    if high < 0:
        return f"{start}: worse, beyond what {beyond}."
    return f"{start}: these runs cannot tell the two apart."


def _cautions(shown: MethodSummary, scores: Sequence[ScorePoint], score: str | None) -> list[str]:
    found = []
    smallest = min(r.n_worst_group for r in shown.results)
    if smallest < FEW_ROWS:
        found.append(f"The worst group has {smallest} test rows: the interval is wide whatever the method.")
    if score == "wga":
        found.append("This choice used the attributes of validation rows.")
        blind = chosen_by(scores, "worst_class")
        if blind is not None and blind != shown.method:
            found.append(f"Without them, by worst-class accuracy, it would be {blind}.")
    if len({r.worst_group for r in shown.results}) > 1:
        found.append("The worst group differs from seed to seed.")
    return found


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"
