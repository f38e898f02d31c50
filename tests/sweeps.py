"""A tiny grid of every kind of step, and what its records must agree in; shared by the tests of sweeps."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from grobust.experiments.records import read_records

ROOT = Path(__file__).parents[1]
TINY = """
[vars]
rows = 120

[[finetune]]
name = "networks"
dataset = "digits:celeba"
backbone = "timm:test_resnet@random"
limit = "{rows}"
image_size = 32
epochs = 2
balance = ["none", "subsetting"]
seeds = [1]

[[extract]]
name = "features"
dataset = "digits:celeba"
backbone = "timm:test_resnet@random"
limit = "{rows}"
image_size = 32

[[extract]]
name = "trained"
backbone = "finetune:networks"

[[probe]]
name = "heads"
store = "features"
balance = "all"
seeds = "1..2"
l2 = [1e-2, 1.0]

[[trajectory]]
name = "curves"
store = "features"
balance = ["none", "mixture"]
seeds = [1]
sgd = { epochs = 2 }

[[spectrum]]
name = "spectra"
store = "trained"
balance = "run"
null = 20
interval = 20
permutations = 0
diagnostics = 0
"""
CELLS = 2 + 10 + 2 + 2


def write_grid(folder: Path, text: str = TINY) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "cli")])
    return os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def start(grid: Path, out: Path, *options: str, start_new_session: bool = False) -> "subprocess.Popen[bytes]":
    """`grobust sweep` as a process of its own, or of a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "grobust_cli", "sweep", str(grid), "--out", str(out), "--device", "cpu", *options],
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        # A shell that runs the tests in the background leaves Ctrl-C ignored, which children inherit.
        start_new_session=start_new_session, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL) and None,
    )  # fmt: skip


def contents(records: Path, *, digits: int | None = None) -> dict[str, Any]:
    """Records by cell, without what differs from run to run: times and places. A cell twice is an error."""
    found: dict[str, Any] = {}
    for record in read_records(records):
        assert record["cell"] not in found, f"cell {record['cell']} is recorded twice"
        results = json.loads(json.dumps(record["results"]), parse_float=lambda text: _rounded(text, digits))
        for name in ("seconds", "path", "store", "backbone", "run"):
            results.pop(name, None)
        found[record["cell"]] = (record["command"], record["section"], record["seed"], results)
    return found


def _rounded(text: str, digits: int | None) -> float:
    value = float(text)
    return value if digits is None else float(f"{value:.{digits}g}")
