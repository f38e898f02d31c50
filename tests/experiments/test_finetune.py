"""run_finetune: one record per run whatever happens, curves in records and figures, networks for other commands."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from grobust.errors import ConfigError, RunLockedError, RunMismatchError
from grobust.experiments.config import ExtractConfig, ProbeConfig
from grobust.experiments.extract import run_extract
from grobust.experiments.finetune import run_finetune
from grobust.experiments.finetune_config import FinetuneConfig
from grobust.experiments.probe import run_probe
from grobust.experiments.records import read_records
from grobust.finetune.recipes import recipe_for
from grobust.models.run_files import RunFiles
from grobust.settings import BalanceMethod

VALUES = {"epochs": 2, "eval_every": 1, "lr": 1e-3, "batch_size": 16}


def config(out: Path, **changes: Any) -> FinetuneConfig:
    settings = {"dataset": "digits:celeba", "backbone": "timm:test_convnext@random", "image_size": 32, "limit": 160,
                "values": VALUES, "records": out / "records.jsonl", "out": out, **changes}  # fmt: skip
    return FinetuneConfig(**settings)


def test_every_method_and_seed_is_recorded_once(tmp_path: Path) -> None:
    asked = config(
        tmp_path, balance=(BalanceMethod.SUBSETTING, BalanceMethod.MIXTURE), seeds=(1, 2), figures=tmp_path / "figures"
    )
    seen: list[tuple[str, int, int]] = []
    report = run_finetune(asked, on_progress=lambda name, number, runs, at: seen.append((name, number, runs)))
    assert [(r.method, r.seed, r.reused) for r in report.runs] == [
        ("subsetting", 1, False), ("subsetting", 2, False), ("mixture", 1, False), ("mixture", 2, False)
    ]  # fmt: skip
    assert dict.fromkeys(seen) == dict.fromkeys((r.path.name, i, 4) for i, r in enumerate(report.runs, start=1))
    records = read_records(tmp_path / "records.jsonl", command="finetune")
    assert [r["results"] for r in records] == json.loads(json.dumps([r.results for r in report.runs]))
    first = records[0]
    assert (first["seed"], first["config"]["balance"], first["config"]["seeds"]) == (1, ["subsetting"], [1])
    assert first["config"]["settings"]["lr"] == 1e-3
    assert first["config"]["settings"]["schedule"] == recipe_for("digits", "timm:x").finetune_settings().schedule
    assert first["label_ledger"] == {"train": ["class"], "selection": [], "evaluation": ["class", "attribute"]}
    assert first["provenance"]["dataset"].startswith("digits:celeba")
    curve = first["results"]["epochs"]
    assert curve["epochs"] == [1, 2]
    assert curve["test"]["wga"][-1] == first["results"]["test"]["wga"]["value"]
    with Path(report.figures[2]).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["wga"]) for r in rows[:2]] == curve["test"]["wga"]
    # Again: nothing is trained, nothing is recorded twice; more seeds are trained alone.
    again = run_finetune(replace(asked, seeds=(1, 2, 3), figures=None))
    assert [r.reused for r in again.runs] == [True, True, False] * 2
    assert len(read_records(tmp_path / "records.jsonl")) == 6
    assert again.runs[0].results == first["results"]


def test_a_run_whose_record_was_lost_is_recorded_and_one_whose_folder_was_lost_is_not_trained(tmp_path: Path) -> None:
    asked = config(tmp_path)
    report = run_finetune(asked)
    records = tmp_path / "records.jsonl"
    content = records.read_text()
    records.unlink()
    assert run_finetune(asked).runs[0].reused
    assert json.loads(records.read_text())["results"] == json.loads(content)["results"]
    report.runs[0].path.rename(tmp_path / "elsewhere")
    moved = run_finetune(asked)
    assert moved.runs[0].reused
    assert not report.runs[0].path.exists()
    assert any("not trained again" in note for note in moved.notes)
    other = run_finetune(replace(asked, values={**VALUES, "lr": 2e-3}))
    assert not other.runs[0].reused
    with pytest.raises(RunMismatchError, match=r"settings.lr: run has 0.002, requested 0.003"):
        run_finetune(replace(asked, values={**VALUES, "lr": 3e-3}))


def test_runs_side_by_side_leave_each_other_alone(tmp_path: Path) -> None:
    asked = config(tmp_path, seeds=(1, 2))
    folder = run_finetune(config(tmp_path / "first")).runs[0].path.name
    busy = tmp_path / folder
    busy.mkdir()
    with FileLock(RunFiles(busy).lock):
        report = run_finetune(asked)
        assert [run.seed for run in report.runs] == [2]
        assert any("Another process is training" in note for note in report.notes)
        with pytest.raises(RunLockedError):
            run_finetune(replace(asked, seeds=(1,)))
    assert [run.seed for run in run_finetune(asked).runs] == [1, 2]


def test_last_layer_retraining_is_extract_and_probe(tmp_path: Path) -> None:
    path = run_finetune(config(tmp_path)).runs[0].path
    store = tmp_path / "f.h5"
    extraction = ExtractConfig(dataset="digits:celeba", backbone=f"run:{path}@2", out=store, limit=160)
    assert run_extract(extraction).result.n == 160
    report = run_probe(ProbeConfig(store=store, l2=(1e-2,), seeds=(1,)))
    assert report.provenance.backbone == f"run:{path}@2"
    assert report.provenance.options["epoch"] == "2"


def test_configs_check_themselves(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'seed' is no setting of every run"):
        config(tmp_path, values={"seed": 3})
    with pytest.raises(ConfigError, match="seeds needs at least one value, and none twice; got 1, 1"):
        config(tmp_path, seeds=(1, 1))
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        replace(config(tmp_path), out=tmp_path / "file")
    with pytest.raises(ConfigError, match="'learning_rate' is no setting"):
        run_finetune(config(tmp_path, values={"learning_rate": 1.0}))
