"""`grobust reproduce`: what is missing, what agrees, what differs, against records made here."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from grobust.data.fixtures import write_waterbirds
from grobust.experiments.records import Record, append_records
from grobust.experiments.reproduce.compare import Agreement, interval
from grobust.experiments.reproduce.published import published_targets
from grobust.experiments.reproduce.run import ReproduceConfig, run_reproduce
from grobust.groups import Split
from grobust_cli.main import app

SPEC = "transformers:facebook/convnextv2-nano-1k-224"
# paper.md, section 7: every figure and table.
NAMES = {"collapse", "mixture", "selection", "scaling", "eigenvalues", "rho", "composition", "recipes", "sizes",
         "mixture-ablation", "other-backbones", "eigenvalues-methods", "rho-gap", "rho-methods"}  # fmt: skip


def record(method: str, seed: int, wga: float, **settings: Any) -> Record:
    estimate = {"value": wga, "low": 0.0, "high": 1.0, "n": 642}
    results = {
        "method": method, "seed": seed, "run": f"{method}-{seed}", "parameters": 14_984_082,
        "interpolation_epoch": 90, "group_names": [f"{y} / {a}" for y in "lw" for a in "lw"],
        "test": {"wga": estimate, "groups": []},
        "epochs": {"epochs": [50, 100], "test": {"wga": [0.5, wga]}},
    }  # fmt: skip
    made = {"dataset": "waterbirds", "backbone": SPEC, "options": {}}
    config = {"settings": {"ratio": 2.0, "epochs": 100, **settings}}
    return Record("finetune", config, made, {}, "cpu", seed, {}, results)


def spectrum(seed: int, rho: tuple[float, float]) -> Record:
    results = {
        "balance": "mixture", "split": "train", "groups": [{"eigenvalues": [v]} for v in (54.1, 68.4, 71.1, 400.0)],
        "norm_ratios": [{"rho": r, "against": "majority"} for r in rho],
    }  # fmt: skip
    made = {"dataset": "waterbirds", "backbone": "run:x@100", "options": {"run": f"mixture-{seed}"}}
    return Record("spectrum", {}, made, {}, "cpu", seed, {}, results)


def test_every_target_of_the_specification_is_there_with_sources() -> None:
    targets = published_targets()
    assert {target.name for target in targets} == NAMES
    for target in targets:
        numbers = [row for value in target.table.values() if isinstance(value, list) for row in value
                   if isinstance(row, dict)]  # fmt: skip
        assert all(row["source"] in target.sources for row in numbers)


def test_got_beside_expected(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    values = {"none": [0.75, 0.77, 0.76], "subsetting": [0.80, 0.81, 0.79], "mixture": [0.78, 0.79, 0.795]}
    append_records(path, [record(m, s, v) for m, own in values.items() for s, v in enumerate(own, start=1)])
    report = run_reproduce(ReproduceConfig("collapse", (tmp_path,)))
    rows = {(row.of, row.what): row for row in report.rows}
    none = rows["waterbirds, convnextv2-nano, none", "test WGA, epoch 100"]
    assert (none.agreement, none.expected, none.n) == (Agreement.AGREES, 76.0, 3)
    assert none.got == pytest.approx(76.0)
    # Published 64.1 ± 4.5: 80 is 15.9 away, more than 2.3 sd.
    subsetting = rows["waterbirds, convnextv2-nano, subsetting", "test WGA, epoch 100"]
    assert subsetting.agreement is Agreement.DIFFERS
    assert subsetting.tolerance == pytest.approx(2.3 * 4.5)
    missing = rows["celeba, convnextv2-nano, none", "test WGA, epoch 20"]
    assert missing.agreement is Agreement.MISSING
    assert "grobust sweep paper-celeba" in missing.note
    assert not report.reproduced
    mixture = next(r for r in run_reproduce(ReproduceConfig("mixture", (path,))).rows if "waterbirds" in r.of)
    assert mixture.agreement is Agreement.AGREES


def test_spectra_are_joined_to_their_runs(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    rho = [(1.2, 1.5), (1.4, 1.6), (1.3, 1.9)]
    append_records(path, [record("mixture", s, 0.79) for s in (1, 2, 3)])
    append_records(path, [spectrum(s, r) for s, r in enumerate(rho, start=1)])
    rows = [r for r in run_reproduce(ReproduceConfig("rho", (path,))).rows if r.of.startswith("waterbirds")]
    assert [r.got for r in rows] == pytest.approx(np.mean(rho, axis=0).tolist())
    assert [r.expected for r in rows] == pytest.approx([(1.20 + 1.48 + 1.25) / 3, (1.54 + 1.57 + 1.77) / 3])
    assert {r.agreement for r in rows} == {Agreement.AGREES}
    largest = [r for r in run_reproduce(ReproduceConfig("eigenvalues", (path,))).rows if r.of.startswith("waterbirds")]
    assert [r.agreement for r in largest] == [Agreement.AGREES] * 3 + [Agreement.DIFFERS]


def test_interval_is_students() -> None:
    values = [0.3, 0.5, 0.45]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=np.std(values, ddof=1) / math.sqrt(3))
    assert interval(values) == pytest.approx((low, high))
    assert interval([0.3]) == (None, None)
    # Two seeds leave a mean anywhere; a percentage is still one.
    assert interval([10.0, 40.0], within=(0.0, 100.0)) == (0.0, 100.0)


def test_composition_says_which_folder_is_missing_and_counts(tmp_path: Path) -> None:
    fixture = write_waterbirds(tmp_path)
    report = run_reproduce(ReproduceConfig("composition", data={"waterbirds": tmp_path}))
    got = [r.got for r in report.rows if r.of == "waterbirds" and r.what.startswith("train")]
    assert got == fixture.counts(Split.TRAIN)
    assert next(r for r in report.rows if r.of == "celeba").note == "no folder; give --data celeba=DIR"


def test_command(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    append_records(path, [record("none", s, 0.76) for s in (1, 2, 3)])
    result = CliRunner().invoke(app, ["reproduce", "sizes", "--records", str(path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["counts"] == {"agrees": 1}
    assert CliRunner().invoke(app, ["reproduce", "rho", "--records", str(path)]).exit_code == 1
    wrong = CliRunner().invoke(app, ["reproduce", "roh"])
    assert wrong.exit_code == 2
    assert "Did you mean 'rho'" in " ".join(wrong.output.split())
