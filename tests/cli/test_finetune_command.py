"""`grobust finetune` as it is typed, and mistyped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from grobust.finetune import FinetuneProgress
from grobust.finetune.curve import Curve, Evaluation
from grobust.groups import Groups
from grobust_cli._finetune_tables import curve_so_far
from grobust_cli.main import app

RUNNER = CliRunner()
START = ["finetune", "--dataset", "digits", "--backbone", "timm:test_resnet@random", "--image-size", "32", "--limit",
         "160", "--epochs", "2", "--device", "cpu"]  # fmt: skip


def test_tables_json_and_resume(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures"), "--balance", "all", "--seed", "7"]
    result = RUNNER.invoke(app, [*START, *out])
    assert result.exit_code == 0, result.output
    for word in ("WGA", "interpolation epoch", "subsetting", "digit >= 5 / orange", "repetition", "steps/epoch"):
        assert word in result.stdout
    assert "5 run(s) trained" in result.stderr
    assert "as a backbone: run:" in result.stderr
    assert (tmp_path / "figures" / "finetune.svg").is_file()
    again = RUNNER.invoke(app, [*START, *out, "--json"])
    report = json.loads(again.stdout)
    assert [run["method"] for run in report["runs"]] == [
        "none", "subsetting", "upsampling", "upweighting", "mixture"
    ]  # fmt: skip
    assert all(run["reused"] and run["seed"] == 7 for run in report["runs"])
    assert report["runs"][0]["epochs"]["test"]["wga"][-1] == report["runs"][0]["test"]["wga"]["value"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--lr", "-1"], "lr must be a positive number"),
        (["--keep", "few"], "--keep expects a number or 'all'"),
        (["--balance", "magic"], "unknown method 'magic'"),
        (["--precision", "float16"], "float16 training needs a GPU"),
        (["--backbone", "run:nowhere@3"], "no folder of a finetuning run"),
        (["--pool", "magic"], "pool must be one of"),
        (["--warmup", "5"], "leaves nothing of a run of 2"),
    ],
)
def test_mistakes_end_with_a_message_and_exit_code_2(options: list[str], words: str, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, [*START, "--out", str(tmp_path / "runs"), *options])
    assert result.exit_code == 2
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert not (tmp_path / "runs").exists()


def test_other_settings_in_the_same_folder_show_the_difference(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path), "--max-steps", "2"]
    assert RUNNER.invoke(app, [*START, *out]).exit_code == 0
    result = RUNNER.invoke(app, [*START, *out, "--batch-size", "8"])
    assert result.exit_code == 2
    assert "settings.batch_size: run has 32, requested 8" in result.output
    assert RUNNER.invoke(app, [*START, *out, "--batch-size", "8", "--overwrite"]).exit_code == 0


def test_the_curve_grows_in_the_progress_bar() -> None:
    """Nine validation rows in the worst group, of which 0, 5 and 9 are right."""
    groups = Groups.from_arrays([0] * 9 + [1] * 9)
    correct = [[0, 9], [5, 9], [9, 9]]
    evaluations = tuple(
        Evaluation(i + 1, 1, 1, 0.1, 0.1, {"val": each}, {"val": 0.1}) for i, each in enumerate(correct)
    )
    curve = Curve(evaluations, {"train": groups, "val": groups}, groups.counts)
    at = FinetuneProgress(3, 9, 3, 9, 1.0, curve)
    assert curve_so_far(at) == " val WGA ▁▅█ 100.0"
    assert curve_so_far(replace(at, curve=replace(curve, evaluations=()))) == ""


def test_help_has_examples_and_loads_no_torch() -> None:
    result = RUNNER.invoke(app, ["finetune", "--help"])
    assert result.exit_code == 0
    for word in ("Examples", "--match", "--extract-every", "--processes", "run:"):
        assert word in result.output
