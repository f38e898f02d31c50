"""Every benchmark runs at its smallest size, so that none can rot; its answers are checked, its times are not."""

import json
import os
import subprocess
import sys
from pathlib import Path

from grobust.arrays import cuda_available

ROOT = Path(__file__).parents[1]


def test_all_benchmarks_run(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    command = [sys.executable, "benchmarks/run.py", "--size", "tiny", "--json", str(out)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    results = json.loads(out.read_text())
    assert results["failed"] == []
    scripts = {path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py")}
    assert {result["benchmark"] for result in results["benchmarks"]} == scripts
    assert all(row["answer"] for result in results["benchmarks"] for row in result["rows"])


def test_gpu_script_says_what_it_skipped(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = ["bash", "benchmarks/gpu.sh", "tiny", str(out)]
    environment = {**os.environ, "PYTHON": sys.executable}
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    if cuda_available():
        assert json.loads(out.read_text())["failed"] == []
    else:
        assert "bench_probe_gpu.py --device cuda: skipped, no GPU" in finished.stdout
        assert json.loads((tmp_path / "gpu.skipped.json").read_text())["benchmarks"] == []
