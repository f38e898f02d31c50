"""The scaling study from one command: accuracy against parameters, and the mixture's rows without its sampler."""

import csv
from pathlib import Path

import pytest

from grobust.experiments.plot import run_plot
from grobust.experiments.records import read_records
from grobust.experiments.report_config import PlotConfig
from grobust.experiments.reproduce.run import ReproduceConfig, run_reproduce
from grobust.experiments.sweep.config import SweepConfig
from grobust.experiments.sweep.run import run_sweep
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
    text = """
    [[finetune]]
    dataset = "digits:celeba"
    backbone = "timm:test_convnext@random"
    limit = 120
    image_size = 32
    epochs = 1
    balance = "mixture"
    seeds = [1]
    product.sampler = [true, false]
    """
    (tmp_path / "grid.toml").write_text(text)
    report = run_sweep(SweepConfig(str(tmp_path / "grid.toml"), out=tmp_path / "s"))
    assert not report.failures, report.failures
    with_sampler, without = read_records(report.records)
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
