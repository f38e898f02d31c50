"""Features larger than the memory allowed: probes, trajectories and predictions never hold them whole."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import make_plan

from grobust.data.synthetic import gaussian_groups
from grobust.features.parts import PartsWriter, StorePlan

N_PER_GROUP, DIM = (36_000, 3_500, 3_000, 29_500), 512
ALLOWED = sum(N_PER_GROUP) * DIM * 4 // 4

# Private memory in use, sampled: mapped files do not count. What does not grow with the features is loaded, compiled
# and allocated before.
SCRIPT = """
import sys, threading, time
from dataclasses import replace
from pathlib import Path
from grobust.experiments.config import PredictConfig, ProbeConfig, TrajectoryConfig
from grobust.experiments.predict import run_predict
from grobust.experiments.probe import run_probe
from grobust.experiments.trajectory import run_trajectories
from grobust.features.store import FeatureStore
from grobust.groups import Split
from grobust.probe import SGD
from grobust.settings import BalanceMethod

def private():
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    return (int(resident) - int(shared)) * 4096

peaks = {}
def sample():
    while True:
        peaks[step] = max(peaks.get(step, 0), private())
        time.sleep(0.002)

small, large = Path(sys.argv[1]), Path(sys.argv[2])
methods = (BalanceMethod.NONE, BalanceMethod.SUBSETTING)
heads = large.with_suffix(".safetensors")
probe = ProbeConfig(
    store=small, balance=methods, seeds=(1,), l2=(1e-2, 1e-1), rtol=1e-2, max_bytes=8 << 20, save=heads
)
train = TrajectoryConfig(store=small, balance=methods, seeds=(1,), sgd=SGD(epochs=1))
predict = PredictConfig(store=small, heads=heads, out=small.with_suffix(".csv"))
steps = {"probe": (run_probe, probe), "train": (run_trajectories, train), "predict": (run_predict, predict)}
for run, config in steps.values():
    run(config)
step = "before"
threading.Thread(target=sample, daemon=True).start()
time.sleep(0.05)
for step, (run, config) in steps.items():
    run(replace(config, store=large))
step = "load"
FeatureStore(large).load(Split.TRAIN)
print(*(f"{name}={peak - peaks['before']}" for name, peak in peaks.items()))
"""


def written(path: Path, counts: tuple[int, int, int, int], *, together: bool) -> Path:
    data = gaussian_groups(counts, DIM, seed=1, core=1.5)
    n = len(data.groups)
    split = np.random.default_rng(0).choice(3, size=n, p=(0.7, 0.1, 0.2)).astype(np.int8)
    split = np.sort(split) if together else split
    plan = StorePlan(make_plan().provenance, data.groups, split, tuple(map(str, range(n))), DIM)
    # Rows of a group follow each other: mix them, or sorted splits would lack groups.
    order = np.random.default_rng(1).permutation(n)
    plan = replace(plan, groups=data.groups.take(order))
    with PartsWriter(path, plan) as writer:
        writer.write(np.arange(n), data.features[order])
        return writer.finish()


@pytest.mark.skipif(sys.platform != "linux", reason="reads private memory as Linux counts it")
@pytest.mark.parametrize("together", [True, False])
def test_features_of_four_times_the_memory(tmp_path: Path, together: bool) -> None:
    small = written(tmp_path / "small.h5", (400, 60, 50, 300), together=together)
    large = written(tmp_path / "large.h5", N_PER_GROUP, together=together)
    arguments = [sys.executable, "-c", SCRIPT, str(small), str(large)]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    more = {name: int(value) for name, _, value in (pair.partition("=") for pair in result.stdout.split())}
    # What is measured would show a split that is loaded.
    assert more["load"] > 2 * ALLOWED
    assert max(more["probe"], more["train"], more["predict"]) < ALLOWED, (more, ALLOWED)
