"""Collapse against a plain loop over the curve, and against what trajectories of real heads record."""

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from helpers import gaussian_store
from hypothesis import given
from hypothesis import strategies as st

from grobust.errors import DataError
from grobust.experiments.collapse import Collapse, MeanSd, collapse, collapse_by_method, collapses_of_records
from grobust.experiments.config import TrajectoryConfig
from grobust.experiments.records import read_records
from grobust.experiments.trajectory import run_trajectories
from grobust.settings import SGD, BalanceMethod, SelectBy

ACCURACY = st.integers(0, 8).map(lambda correct: correct / 8)
CURVES = st.integers(1, 12).flatmap(
    lambda n: st.tuples(*(st.lists(ACCURACY, min_size=n, max_size=n) for _ in range(3)))
)


def columns(val: list[float], test: list[float], train: list[float], every: int = 2) -> dict[str, object]:
    n = len(val)
    return {
        "epochs": [every * (i + 1) for i in range(n)], "steps": [7 * every * (i + 1) for i in range(n)],
        "val": {"wga": val}, "test": {"wga": test}, "train": {"average": train},
    }  # fmt: skip


@given(CURVES)
def test_equals_a_walk_along_the_curve(curve: tuple[list[float], list[float], list[float]]) -> None:
    val, test, train = curve
    found = collapse(columns(val, test, train), method="mixture", seed=3)
    peak, at, interpolation = -1.0, 0, None
    for i in range(len(val)):
        if val[i] > peak:
            peak, at = val[i], i
        if train[i] == 1 and interpolation is None:
            interpolation = 2 * (i + 1)
    assert (found.peak, found.peak_epoch, found.peak_step) == (peak, 2 * (at + 1), 14 * (at + 1))
    assert (found.end, found.end_epoch, found.end_step) == (val[-1], 2 * len(val), 14 * len(val))
    assert found.drop == peak - val[-1] >= 0
    assert (found.test_at_peak, found.test_end, found.test_drop) == (test[at], test[-1], test[at] - test[-1])
    assert found.interpolation_epoch == interpolation


@given(CURVES, st.randoms(use_true_random=False))
def test_test_accuracies_decide_nothing(curve: tuple[list[float], list[float], list[float]], random: object) -> None:
    val, test, train = curve
    other = [1 - accuracy for accuracy in test]
    first, second = (collapse(columns(val, each, train), method="none", seed=1) for each in (test, other))
    chosen = ("peak", "peak_epoch", "peak_step", "end", "drop", "interpolation_epoch")
    assert [getattr(first, name) for name in chosen] == [getattr(second, name) for name in chosen]


@given(st.lists(st.tuples(ACCURACY, ACCURACY), min_size=1, max_size=5))
def test_over_seeds_as_numpy_has_it(ends: list[tuple[float, float]]) -> None:
    runs = [
        collapse(columns([peak, end], [end, peak], [1.0, 0.5]), method=method, seed=seed)
        for method in ("upsampling", "none") for seed, (peak, end) in enumerate(ends)
    ]  # fmt: skip
    first, second = collapse_by_method(runs)
    assert (first.method, second.method) == ("upsampling", "none")
    drops = np.array([max(peak, end) - end for peak, end in ends])
    assert first.drop is not None
    assert first.drop.mean == pytest.approx(drops.mean(), abs=1e-12)
    assert first.drop.sd == pytest.approx(drops.std(), abs=1e-12)
    assert (first.drop.n, first.interpolating) == (len(ends), len(ends))


def test_the_papers_shape() -> None:
    """CelebA, ConvNeXt-V2 Nano (LaBonte et al., records): upsampling falls back, 66.7 at epoch 2 to 42.2 at 20."""
    curve = columns([0.667, 0.6, 0.422], [0.667, 0.6, 0.422], [0.99, 1.0, 1.0])
    run = collapse(curve, method="upsampling", seed=1)
    assert run.peak_epoch == 2
    assert run.drop == pytest.approx(0.245)
    assert run.interpolation_epoch == 4


def test_splits_that_were_not_evaluated() -> None:
    run = collapse({"steps": [3, 6], "train": {"average": [0.5, 0.75]}}, method="none", seed=1)
    assert run == Collapse("none", 1, None, None, None, None, 2, 6, None, None, None, None, None)
    (summary,) = collapse_by_method([run])
    assert summary.peak is summary.drop is summary.test_end is None
    no_val = collapse({"steps": [3], "test": {"wga": [0.25]}}, method="none", seed=1)
    assert (no_val.test_at_peak, no_val.test_end, no_val.test_drop) == (None, 0.25, None)


def test_curves_that_do_not_fit() -> None:
    with pytest.raises(DataError, match="of none, seed 4, has 0 steps"):
        collapse({}, method="none", seed=4)
    with pytest.raises(DataError, match="2 evaluations, but 1 values of wga on val"):
        collapse({"steps": [1, 2], "val": {"wga": [0.5]}}, method="none", seed=4)


def test_trajectories_of_heads_have_one_too(tmp_path: Path) -> None:
    """Records of `grobust probe --trajectory`, against the best epoch that the runs themselves name."""
    config = TrajectoryConfig(
        store=gaussian_store(tmp_path / "s.h5"), balance=(BalanceMethod.NONE, BalanceMethod.UPSAMPLING), seeds=(1, 2),
        sgd=SGD(epochs=6), learning_rate=0.5, select=SelectBy.WGA, records=tmp_path / "records.jsonl",
    )  # fmt: skip
    report = run_trajectories(config)
    found = collapses_of_records([*read_records(tmp_path / "records.jsonl"), {"command": "spectrum", "results": {}}])
    assert [(c.method, c.seed) for c in found] == [(str(r.method), r.seed) for r in report.runs]
    for run, one in zip(report.runs, found, strict=True):
        assert one.peak_epoch == run.best_epoch
        assert one.test_drop == pytest.approx(run.drop)
        assert one.test_end == run.last.wga.value
        assert one.peak == run.wga("val").max()
    content = collapse_by_method(found)[0].as_dict()
    assert content["runs"][0] == asdict(found[0])
    assert math.isclose(content["peak"]["mean"], MeanSd(**content["peak"]).mean)
