"""Plans: every step once, keys by content, and the paper's grids on fixtures in the real layouts."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import gaussian_store
from sweeps import CELLS, TINY

from grobust.data.fixtures import write_celeba, write_civilcomments, write_multinli, write_waterbirds
from grobust.experiments.config import ProbeConfig
from grobust.experiments.probe import run_probe
from grobust.experiments.records import read_records
from grobust.experiments.sweep.config import SweepConfig
from grobust.experiments.sweep.grid import parse_grid, read_grid
from grobust.experiments.sweep.plan import make_plan
from grobust.experiments.sweep.run import plan_sweep, run_sweep
from grobust.experiments.sweep.state import State
from grobust.settings import BalanceMethod

WRITERS = {
    "waterbirds": write_waterbirds, "celeba": write_celeba, "civilcomments": write_civilcomments,
    "multinli": write_multinli,
}  # fmt: skip
# Sizes × (methods and ratios) × seeds, and so on; multiplied out by hand from the paper's lists.
NETWORKS = {
    "waterbirds": 6 * 5 * 3 + 5 * 3 + 3 + 8 * 5 * 3,
    "celeba": 6 * 6 * 3 + 4 * 3 + 3 + 8 * 5 * 3,
    "civilcomments": 5 * 6 * 3 + 3 * 3 + 3,
    "multinli": 5 * 1 * 3,
}
SPECTRA = {"waterbirds": 5 * 3, "celeba": 6 * 3, "civilcomments": 3, "multinli": 3}


@pytest.mark.parametrize("name", WRITERS)
def test_the_papers_grids_plan_on_fixture_folders(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / "data")
    config = SweepConfig(f"paper-{name}", out=tmp_path / "out", variables={"data_dir": str(tmp_path / "data")})
    report = plan_sweep(config)
    kinds = Counter(step.kind for step in report.plan.steps)
    assert kinds == {"finetune": NETWORKS[name], "extract": SPECTRA[name], "spectrum": SPECTRA[name]}
    assert report.plan.cells == NETWORKS[name] + SPECTRA[name]
    assert len({step.key for step in report.plan.steps}) == len(report.plan.steps)
    assert {standing.state for standing in report.standings} == {State.TO_DO}
    assert not (tmp_path / "out").exists()


def test_a_plan_without_the_data_can_be_shown_and_not_run(tmp_path: Path) -> None:
    config = SweepConfig("paper-celeba", out=tmp_path / "out", variables={"data_dir": str(tmp_path / "none")})
    report = plan_sweep(config)
    assert report.plan.cells == NETWORKS["celeba"] + SPECTRA["celeba"]
    assert "none" in report.plan.missing[0]
    with pytest.raises(ValueError, match="line 1"):
        run_sweep(config)
    assert not (tmp_path / "out").exists()


def test_shared_steps_are_planned_once() -> None:
    plan = make_plan(parse_grid(TINY, "g"))
    assert Counter(step.kind for step in plan.steps) == {
        "finetune": 2, "extract": 3, "probe": 1, "trajectory": 1, "spectrum": 2
    }  # fmt: skip
    assert plan.cells == CELLS
    features = next(step for step in plan.steps if step.section == "features")
    assert plan.readers(features.key) == 2
    seen: set[str] = set()
    for step in plan.steps:
        assert set(step.inputs) <= seen, "a step comes after those that it reads"
        seen.add(step.key)


def test_keys_are_of_content_and_not_of_names_or_places() -> None:
    def keys(text: str) -> set[str]:
        return {step.key for step in make_plan(parse_grid(text, "g")).steps}

    assert keys(TINY.replace('"features"', '"other"').replace('"heads"', '"renamed"')) == keys(TINY)
    assert keys(TINY.replace("rows = 120", "rows = 121")).isdisjoint(keys(TINY))
    assert len(keys(TINY.replace("l2 = [1e-2, 1.0]", "l2 = [1e-2]")) - keys(TINY)) == 1
    # What only says how much memory to take changes nothing.
    assert keys(TINY.replace("l2 = [1e-2, 1.0]", "l2 = [1e-2, 1.0]\nmax_bytes = 1000000000")) == keys(TINY)


def test_heads_are_those_of_one_call_and_one_more_seed_adds_its_cells_alone(tmp_path: Path) -> None:
    store = gaussian_store(tmp_path / "f.h5")
    text = f'[[probe]]\nstore = "{store}"\nbalance = "all"\nseeds = [1, 2]\nratio = 1.5\nl2 = [1e-2, 1.0]\n'
    grid = tmp_path / "g.toml"
    grid.write_text(text)
    config = SweepConfig(str(grid), out=tmp_path / "out")
    report = run_sweep(config)
    assert (len(report.after.plan.steps), report.after.recorded) == (1, 10)
    direct = run_probe(ProbeConfig(store=store, balance=tuple(BalanceMethod), seeds=(1, 2), ratio=1.5, l2=(1e-2, 1.0)))
    records = read_records(report.records)
    expected = {(str(r.method), r.seed): r.test.wga.value for r in direct.runs}
    found = {(r["results"]["method"], r["seed"]): r["results"]["test"]["wga"]["value"] for r in records}
    assert found == pytest.approx(expected)
    objectives = [r["results"]["fit"]["objective"] for r in records]
    np.testing.assert_allclose(objectives, [r.fit.objective for r in direct.runs], rtol=1e-6)

    assert run_sweep(config).after.recorded == 10
    assert len(read_records(report.records)) == 10
    # A record that lost what it was computed from counts for nothing.
    lines = report.records.read_text().splitlines()
    damaged = json.loads(lines[3]) | {"provenance": None}
    report.records.write_text("\n".join([*lines[:3], json.dumps(damaged), *lines[4:]]) + "\n")
    assert plan_sweep(config).recorded == 9
    report.records.write_text("\n".join(lines) + "\n")
    grid.write_text(text.replace("seeds = [1, 2]", "seeds = [1, 2, 3]"))
    (standing,) = plan_sweep(config).standings
    assert (standing.state, standing.recorded, sum(len(step.cells) for step in standing.left)) == (State.PARTLY, 10, 5)
    run_sweep(config)
    records = read_records(report.records)
    assert len(records) == len({record["cell"] for record in records}) == 15
    # The ratio is of the mixture alone: another one computes that method and no other.
    grid.write_text(text.replace("ratio = 1.5", "ratio = 1.7"))
    (standing,) = plan_sweep(config).standings
    assert [(step.methods, step.seeds) for step in standing.left] == [(("mixture",), (1, 2))]


def test_quick_grid_plans() -> None:
    plan = make_plan(read_grid("quick"))
    assert plan.cells == 67
    assert plan.missing == ()
