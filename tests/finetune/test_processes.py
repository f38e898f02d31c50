"""Several processes that train together: the same draws, the same metrics, one record each."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from grobust.errors import ConfigError
from grobust.experiments.records import read_records
from grobust.finetune.launch import launch
from grobust.models.run_files import RunFiles
from grobust_cli.main import app

COMMAND = [
    "finetune", "--dataset", "digits:celeba", "--backbone", "timm:test_convnext@random", "--image-size", "32",
    "--limit", "160", "--balance", "none,upweighting", "--epochs", "2", "--lr", "1e-3", "--batch-size", "25",
    "--clip-norm", "0.5", "--device", "cpu", "--json",
]  # fmt: skip
ACCELERATE = [
    "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision",
    "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m",
]  # fmt: skip
SOLO = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in SOLO} | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    result = CliRunner().invoke(app, [*COMMAND, "--out", str(out)])
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize("how", ["--processes", "accelerate"])
def test_two_processes_do_what_one_does(how: str, alone: Path, tmp_path: Path) -> None:
    launcher, more = ([], ["--processes", "2"]) if how == "--processes" else (ACCELERATE, [])
    finished = subprocess.run(
        [sys.executable, "-m", *launcher, "grobust_cli", *COMMAND, *more, "--out", str(tmp_path)],
        capture_output=True, text=True, check=False, env=environment(), timeout=280,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    # One process speaks.
    report = json.loads(finished.stdout)
    records, expected = (read_records(folder / "records.jsonl") for folder in (tmp_path, alone))
    assert [r["results"]["method"] for r in records] == ["none", "upweighting"]
    for run, record, one in zip(report["runs"], records, expected, strict=True):
        assert run["processes"] == record["results"]["processes"] == 2
        assert record["results"]["run"] == one["results"]["run"]
        found, wanted = record["results"]["epochs"], one["results"]["epochs"]
        assert (found["steps"], found["rows"]) == (wanted["steps"], wanted["rows"])
        assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-5)
        for split in ("train", "val", "test"):
            assert found[split]["correct"] == wanted[split]["correct"]
            assert found[split]["loss"] == pytest.approx(wanted[split]["loss"], abs=1e-5)
        paths = [Path(r["results"]["path"]) for r in (record, one)]
        (_, tensors), (_, reference) = (RunFiles(path).read_network(2) for path in paths)
        for name, tensor in reference.items():
            torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=2e-5, msg=name)
        assert len((paths[0] / "curve.jsonl").read_text().splitlines()) == 2


def test_an_error_ends_all_processes_and_is_said_once(alone: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "grobust_cli", *COMMAND, "--out", str(alone), "--lr", "2e-3", "--processes", "2"],
        capture_output=True, text=True, check=False, env=environment(), timeout=280,
    )  # fmt: skip
    assert finished.returncode == 2
    assert finished.stderr.count("RunMismatchError") == 1
    assert "settings.lr: run has 0.001, requested 0.002" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_first_to_fail_decides_and_the_others_are_ended(capfd: pytest.CaptureFixture[str]) -> None:
    script = (
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    sys.stderr.write('I am the one'); sys.exit(7)\n"
        "time.sleep(60)"
    )
    started = time.monotonic()
    assert launch([sys.executable, "-c", script], 3) == 7
    assert time.monotonic() - started < 30
    assert "I am the one" in capfd.readouterr().err
    counted = "import os; print(os.environ['RANK'], os.environ['WORLD_SIZE'], os.environ['LOCAL_RANK'])"
    assert launch([sys.executable, "-c", counted], 2) == 0
    assert capfd.readouterr().out == "0 2 0\n"
    with pytest.raises(ConfigError, match="processes must be at least 1"):
        launch([sys.executable, "-c", ""], 0)
