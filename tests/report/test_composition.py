"""The figure of table 2: shares against pandas, and the paper's Waterbirds by hand."""

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_world import make_world

from grobust.experiments.plot import run_plot
from grobust.experiments.report_config import PlotConfig
from grobust.features.store import FeatureStore
from grobust.groups import Split
from grobust.report.choices import PlotKind
from grobust.report.composition import GroupCount, imbalance, shares

# Training and test rows of Waterbirds (table 2): class, group, counts.
WATERBIRDS = [("land", "land / land", 3498, 2255), ("land", "land / water", 184, 2255),
              ("water", "water / land", 56, 642), ("water", "water / water", 1057, 642)]  # fmt: skip


def counts_of(rows: list[tuple[str, str, int, int]]) -> list[GroupCount]:
    return [GroupCount("d", split, y, g, (train, test)[i])
            for i, split in enumerate(("train", "test")) for y, g, train, test in rows]  # fmt: skip


def test_waterbirds_is_that_of_the_paper() -> None:
    found = {(s.count.split, s.count.group): s for s in shares(counts_of(WATERBIRDS))}
    assert imbalance(counts_of(WATERBIRDS), "d") == pytest.approx(3682 / 1113)
    assert {g for (split, g), s in found.items() if s.is_minority} == {"land / water", "water / land"}
    own = found["train", "water / land"]
    assert (own.p_class, own.p_group, own.p_group_given_class) == pytest.approx((1113 / 4795, 56 / 4795, 56 / 1113))
    # The test split is even: stars are those of training there too.
    assert found["test", "land / water"].p_group_given_class == 0.5
    assert found["test", "land / water"].is_minority


@given(st.lists(st.integers(0, 1000), min_size=6, max_size=6))
def test_shares_are_those_of_pandas(n: list[int]) -> None:
    counts = [GroupCount("d", "train", f"y{i // 2}", f"y{i // 2} / a{i % 2}", v) for i, v in enumerate(n)]
    frame = pd.DataFrame({"y": [c.class_name for c in counts], "n": n})
    by_class = frame.groupby("y")["n"].transform("sum")
    found = shares(counts)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose([s.p_group for s in found], frame["n"] / (frame["n"].sum() or np.nan))
        np.testing.assert_allclose([s.p_class for s in found], by_class / (frame["n"].sum() or np.nan))
        np.testing.assert_allclose([s.p_group_given_class for s in found], frame["n"] / by_class.replace(0, np.nan))
    for y in range(3):
        a, b = n[2 * y : 2 * y + 2]
        starred = [s.is_minority for s in found[2 * y : 2 * y + 2]]
        assert starred == ([a < b, b < a] if a and b else [False, False])


def test_the_figure_has_the_rows_of_the_store(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    run_plot(PlotConfig(PlotKind.COMPOSITION, (world.records,), tmp_path / "c.png"))
    with (tmp_path / "c.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with FeatureStore(world.store) as store:
        for split in Split:
            expected = store.groups.take(np.flatnonzero(store.split == split))
            own = {r["group"]: int(r["n"]) for r in rows if r["split"] == split.name.lower()}
            assert own == dict(zip(expected.names, expected.counts.tolist(), strict=True))
    assert math.isclose(sum(float(r["p_group"]) for r in rows if r["split"] == "val"), 1.0)
