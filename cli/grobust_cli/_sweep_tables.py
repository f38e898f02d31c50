"""Tables of `grobust sweep`."""

import shlex
from typing import TYPE_CHECKING

from grobust_cli._output import note, show_json, show_table

if TYPE_CHECKING:
    from grobust.experiments.sweep.run import PlanReport, SweepReport

__all__ = ["show_grids", "show_plan", "show_sweep"]


def show_grids(*, json: bool) -> None:
    """The grids that come with grobust."""
    from grobust.experiments.sweep.grid import grid_about, grid_names

    found = {name: grid_about(name) for name in grid_names()}
    if json:
        show_json({"grids": found})
        return
    show_table("grids that come with grobust", ["name", "what"], list(found.items()), text_columns=2)
    note("grobust sweep NAME --dry-run shows one; a file of your own is given by its path")


def show_plan(report: "PlanReport") -> None:
    """Steps in the order they are done, and how each stands."""
    plan = report.plan
    rows = []
    for standing in report.standings:
        step, readers = standing.step, plan.readers(standing.step.key)
        cells = f"{standing.recorded}/{len(step.cells)}" if step.cells else f"shared by {readers}" if readers else "–"
        rows.append([step.section, step.label, str(standing.state), cells])
    show_table(f"{plan.grid.source} in {report.out}", ["section", "step", "state", "cells"], rows, text_columns=3)
    for missing in plan.missing:
        note(f"not there: {missing}")
    shared = plan.wanted - len(plan.steps)
    more = f" ({shared} more are the same as one of them)" if shared else ""
    note(f"{plan.cells} cells in {len(plan.steps)} steps{more}; {report.recorded} cells are recorded")


def show_sweep(report: "SweepReport") -> None:
    """What was done, and what failed."""
    after = report.after
    done = after.recorded - report.before.recorded
    title = f"{after.plan.grid.source} in {after.out}"
    sections = list(dict.fromkeys(standing.step.section for standing in after.standings))
    rows = []
    for section in sections:
        own = [standing for standing in after.standings if standing.step.section == section]
        cells, recorded = sum(len(s.step.cells) for s in own), sum(s.recorded for s in own)
        rows.append([section, own[0].step.kind, str(sum(not s.left for s in own)), str(len(own)),
                     f"{recorded}/{cells}" if cells else "–"])  # fmt: skip
    show_table(title, ["section", "kind", "steps done", "steps", "cells"], rows, text_columns=2)
    if report.failures:
        failed = [[step.label, why.error, why.message, str(why.attempts)] for step, why in report.failures]
        show_table(
            "failed; the same command tries again", ["step", "error", "message", "attempts"], failed, text_columns=3
        )
    if report.blocked:
        note(f"{len(report.blocked)} steps need one that failed: {', '.join(s.label for s in report.blocked[:3])}")
    note(
        f"{done} cells new, {after.recorded} of {after.plan.cells} recorded in {report.records}; "
        f"{report.seconds:.1f} s on {report.engine}"
    )
    if after.recorded:
        out = shlex.quote(str(after.out))
        note(f"to read them: grobust table {out}; grobust report {out} --out report.html")
