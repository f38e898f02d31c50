"""The scaling study from one command: accuracy against parameters, and the mixture's rows without its sampler."""

import csv
from pathlib import Path

import pytest

from grobust.experiments.finetune import run_finetune
from grobust.experiments.finetune_config import FinetuneConfig
from grobust.experiments.plot import run_plot
from grobust.experiments.records import read_records
from grobust.experiments.report_config import PlotConfig
from grobust.experiments.reproduce.run import ReproduceConfig, run_reproduce
from grobust.experiments.sweep.config import SweepConfig
from grobust.experiments.sweep.run import plan_sweep, run_sweep
from grobust.report.choices import PlotKind
from grobust.settings import BalanceMethod

SMALL = {"backbones": ["timm:test_convnext@random", "timm:test_convnext3@random"], "limit": 120, "image_size": 32,
         "epochs": 1, "seeds": [1]}  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.timeout(600)
def test_the_scaling_study_runs_and_is_drawn(tmp_path: Path) -> None:
    report = run_sweep(SweepConfig("scaling", out=tmp_path / "s", variables=SMALL))
    assert not report.failures, report.failures
    records = read_records(report.records)
    assert {(r["provenance"]["backbone"], r["results"]["method"]) for r in records} == {
        (b, str(m)) for b in SMALL["backbones"] for m in BalanceMethod
    }  # fmt: skip
    files = run_plot(PlotConfig(PlotKind.SCALING, (tmp_path / "s",), tmp_path / "scaling.png")).files
    drawn = sorted(
        (int(float(r["x"])), r["method"], float(r["value"]), r["interpolates"]) for r in rows_of(Path(files[1]))
    )
    assert drawn == sorted(
        (r["results"]["parameters"], r["results"]["method"], r["results"]["test"]["wga"]["value"],
         str(r["results"]["interpolation_epoch"] is not None))
        for r in records
    )  # fmt: skip
    assert len({x for x, *_ in drawn}) == 2
    shown = run_reproduce(ReproduceConfig("scaling", (tmp_path / "s",))).rows
    assert len(shown) == 10


def test_the_ablation_has_a_line_without_the_sampler(tmp_path: Path) -> None:
    path = tmp_path / "s" / "records.jsonl"
    for sampler in (True, False):
        run_finetune(
            FinetuneConfig(
                dataset="digits:celeba", backbone="timm:test_convnext@random", out=tmp_path / str(sampler), limit=120,
                image_size=32, balance=(BalanceMethod.MIXTURE,), values={"epochs": 1, "sampler": sampler}, records=path,
            )
        )  # fmt: skip
    with_sampler, without = read_records(path)
    # The same rows, drawn otherwise; of the two the digest of the one that was always there is as it was.
    assert with_sampler["results"]["balance"]["kept"] == without["results"]["balance"]["kept"]
    assert "sampler" not in with_sampler["config"]["settings"]
    assert without["config"]["settings"]["sampler"] is False
    shares = [list(r["results"]["balance"]["batch_share"].values()) for r in (with_sampler, without)]
    assert sum(shares[0][:2]) == pytest.approx(0.5)
    kept = list(without["results"]["balance"]["kept"].values())
    assert shares[1] == pytest.approx([n / sum(kept) for n in kept])
    drawn = rows_of(
        Path(run_plot(PlotConfig(PlotKind.MIXTURE_ABLATION, (tmp_path / "s",), tmp_path / "a.png")).files[1])
    )
    assert [r["method"] for r in drawn] == ["mixture", "mixture without sampler"]
    rows = run_reproduce(ReproduceConfig("mixture-ablation", (tmp_path / "s",))).rows
    assert [r.of.split(", ")[-1] for r in rows] == ["mixture 2:1", "mixture without sampler 2:1"]


def test_a_grid_plans_both_and_knows_that_other_methods_have_no_sampler(tmp_path: Path) -> None:
    text = """
    [[finetune]]
    dataset = "digits:celeba"
    backbone = "timm:test_convnext@random"
    balance = ["none", "mixture"]
    seeds = [1]
    product.sampler = [true, false]
    """
    (tmp_path / "grid.toml").write_text(text)
    steps = plan_sweep(SweepConfig(str(tmp_path / "grid.toml"))).plan.steps
    assert sorted(step.methods[0] for step in steps) == ["mixture", "mixture", "none"]
    (tmp_path / "grid.toml").write_text(text.replace("product.sampler = [true, false]", ""))
    plain = plan_sweep(SweepConfig(str(tmp_path / "grid.toml"))).plan.steps
    # A setting that is what it was before there was one makes no other cell.
    assert {step.key for step in plain} < {step.key for step in steps}
