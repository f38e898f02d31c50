"""`grobust select`, `compare` and `diagnose`: what they print, and what they refuse."""

import json
from pathlib import Path

import pytest
from helpers import gaussian_store
from typer.testing import CliRunner

from grobust.settings import SelectBy
from grobust_cli.main import app

RUNNER = CliRunner()


def run(*arguments: str | Path, code: int = 0) -> str:
    """stdout of a command that must end with `code`, without a traceback."""
    result = RUNNER.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout if code == 0 else " ".join(result.output.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    store = gaussian_store(folder / "f.h5")
    run("probe", store, "--balance", "all", "--seeds", "1..3", "--save", folder / "h.safetensors", "--records",
        folder / "r.jsonl", "--json")  # fmt: skip
    return folder


def test_select_prints_a_row_per_criterion(folder: Path) -> None:
    text = run("select", folder / "r.jsonl")
    for select in SelectBy:
        assert f"\n  {select} " in text
    assert "class, attribute" in text
    report = json.loads(run("select", folder / "r.jsonl", "--criterion", "wga,average", "--json"))
    (panel,) = report["panels"]
    assert [row["criterion"] for row in panel["selections"]] == ["wga", "average"]
    assert panel["selections"][0]["gap_to_oracle"]["value"] == 0
    assert panel["selections"][0]["n_seeds"] == 3
    assert "unknown score 'x'" in run("select", folder / "r.jsonl", "--criterion", "x", code=2)
    assert "expected last or each" in run("select", folder / "r.jsonl", "--epochs", "x", code=2)
    assert "No records" in run("select", folder / "none.jsonl", code=2)


def test_compare_prints_intervals_and_verdicts(folder: Path) -> None:
    text = run("compare", folder / "r.jsonl", "--baseline", "none")
    assert "mixture 2:1 − none" in text
    assert "not ranked" in text
    with_rows = run("compare", folder / "f.h5", "--heads", folder / "h.safetensors")
    assert "95% for new rows" in with_rows
    report = json.loads(run("compare", folder / "f.h5", "--heads", folder / "h.safetensors", "--baseline", "none",
                            "--metric", "average", "--split", "val", "--json"))  # fmt: skip
    (found,) = report["comparisons"]
    assert [pair["first"] for pair in found["pairs"]] == ["subsetting", "upsampling", "upweighting", "mixture 2:1"]
    assert all(pair["over_rows"]["low"] <= pair["over_rows"]["high"] for pair in found["pairs"])
    assert "must be wga" in run("compare", folder / "r.jsonl", "--metric", "bias_unsupervised", code=2)
    assert "is not a file" in run("compare", folder / "f.h5", "--heads", folder / "none.safetensors", code=2)


def test_diagnose_prints_a_page(folder: Path) -> None:
    arguments = ("diagnose", folder / "f.h5", "--replicates", "300", "--permutations", "40", "--null", "20")
    text = run(*arguments)
    for part in ("training groups", "accuracy gap inside each class", "the attribute in the features", "balancing",
                 "without group labels", "check on", "upsampling by group"):  # fmt: skip
        assert part in text
    report = json.loads(run(*arguments, "--records", folder / "d.jsonl", "--json"))
    assert report["verdict"]["finding"] in text.lower().replace("\n", " ")
    assert len(report["effects"]) >= 4
    assert (folder / "d.jsonl").is_file()
    assert "does not exist" in run("diagnose", folder / "none.h5", code=2)
    assert "folds must be at least 2" in run("diagnose", folder / "f.h5", "--folds", "1", code=2)


@pytest.mark.parametrize("command", ["select", "compare", "diagnose"])
def test_help_has_examples(command: str) -> None:
    assert "Examples" in run(command, "--help")


def test_probe_chooses_by_the_new_scores(folder: Path) -> None:
    report = json.loads(run("probe", folder / "f.h5", "--select", "bias_unsupervised", "--proxy-l2", "0.5", "--records",
                            folder / "p.jsonl", "--json"))  # fmt: skip
    assert "l2 0.5" in report["proxy"]["description"]
    assert report["runs"][0]["val_scores"]["bias_unsupervised"] is not None
