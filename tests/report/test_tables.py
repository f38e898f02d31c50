"""Tables of records against pandas; what bold means; escapes; wrong fields."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from grobust.errors import ConfigError, DataError
from grobust.experiments.report_config import TableConfig
from grobust.experiments.table import run_table
from grobust.report.choices import BestIn
from grobust.report.fields import Condition, distinct_runs, field_names, filtered, lookup
from grobust.report.tables import mean_cell, pivot, to_csv, to_latex, to_markdown
from grobust_cli.main import app

RUNNER = CliRunner()


def estimate(value: float | None, half: float = 0.02) -> dict[str, Any]:
    if value is None:
        return {"value": None, "n": 0, "low": None, "high": None}
    return {"value": value, "n": 50, "low": value - half, "high": value + half}


def record(method: str, seed: int, wga: float | None, *, dataset: str = "toy", **config: Any) -> dict[str, Any]:
    return {
        "schema": 1, "command": config.pop("command", "probe"), "seed": seed, "device": "cpu", "time": "now",
        "config": {"by": "class", "ratio": 2.0, "l2": [0.1], "store": "a.h5", **config},
        "provenance": {"dataset": dataset, "backbone": "timm:x", "versions": {"torch": "2"}},
        "results": {
            "method": method, "seed": seed, "l2": 0.01,
            "test": {"wga": estimate(wga), "worst_group": "a / b.c",
                     "groups": [{"name": "a / b.c", **estimate(wga)}, {"name": "a", **estimate(0.9)}]},
        },
    }  # fmt: skip


VALUES = {
    ("none", "toy"): (0.30, 0.32, 0.28), ("mixture", "toy"): (0.50, 0.61, 0.55), ("none", "other"): (0.7,),
    ("subsetting", "other"): (0.72, 0.68),
}  # fmt: skip
RECORDS = [record(m, s, v, dataset=d) for (m, d), values in VALUES.items() for s, v in enumerate(values)]


@pytest.mark.parametrize("ddof", [0, 1])
def test_cells_are_those_of_pandas(ddof: int) -> None:
    table = pivot(RECORDS, rows="method", columns="dataset", value="test.wga", ddof=ddof)
    frame = pd.DataFrame([(m, d, v) for (m, d), values in VALUES.items() for v in values], columns=["m", "d", "v"])
    expected = frame.groupby(["m", "d"])["v"].agg(["mean", "count", lambda v: v.std(ddof=ddof)])
    assert table.row_names == ("none", "mixture", "subsetting")
    assert table.column_names == ("toy", "other")
    found = {(row, column): (cell.mean, cell.n, cell.sd) for row, column, cell in table.filled()}
    assert found.keys() == set(expected.index)
    for key, (mean, n, sd) in expected.T.items():
        np.testing.assert_allclose(found[key], (mean, n, sd), rtol=1e-12, atol=1e-15)
    assert table.percent
    assert table.text(table.cells[1][0]) == f"55.3 ± {100 * np.std([0.5, 0.61, 0.55], ddof=ddof):.1f} (3)"
    assert table.text(table.cells[1][1]) == "–"


def test_the_interval_is_students_widened_by_the_runs_own() -> None:
    values = [0.50, 0.61, 0.55]
    low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
    cell = mean_cell(values)
    np.testing.assert_allclose((cell.low, cell.high), (low, high))
    wide = mean_cell(values, [(0.2, 0.9), (0.3, 0.9), (0.1, 0.9)])
    np.testing.assert_allclose((wide.low, wide.high), (0.2, 0.9))
    # Two runs: Student's interval is 12.7 standard errors wide, and no proportion leaves 0 to 1.
    assert mean_cell([0.2, 0.4]).low < 0
    two = mean_cell([0.2, 0.4], [(0.1, 0.3), (0.3, 0.5)])
    assert (two.low, two.high) == (0.0, 1.0)
    one = mean_cell([0.5], [(0.4, 0.7)])
    assert (one.low, one.high, one.sd) == (0.4, 0.7, 0.0)
    assert math.isnan(mean_cell([0.5]).low)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6), st.floats(0, 1))
def test_equal_runs_have_no_spread_and_order_does_not_matter(values: list[float], one: float) -> None:
    same = mean_cell([one] * 5)
    assert (same.mean, same.sd, same.low, same.high) == (one, 0.0, one, one)
    cell, turned = mean_cell(values), mean_cell(values[::-1])
    np.testing.assert_allclose((cell.mean, cell.sd), (turned.mean, turned.sd), atol=1e-12)
    assert min(values) - 1e-12 <= cell.mean <= max(values) + 1e-12
    assert len(values) == 1 or cell.low <= cell.mean <= cell.high


def best_of(values: dict[str, tuple[float, ...]], **options: Any) -> list[str]:
    records = [record(m, s, v) for m, own in values.items() for s, v in enumerate(own)]
    table = pivot(records, rows="method", columns="dataset", value="test.wga", **options)
    return [row for row, _, cell in table.filled() if cell.is_best]


def test_bold_needs_an_interval_that_lies_apart() -> None:
    assert best_of({"none": (0.30, 0.31, 0.30), "mixture": (0.50, 0.51, 0.50)}) == ["mixture"]
    assert best_of({"none": (0.30, 0.31, 0.30), "mixture": (0.50, 0.51, 0.50)}, lower_is_better=True) == ["none"]
    # Larger, but its runs spread over the others' interval.
    assert best_of({"none": (0.30, 0.31, 0.30), "mixture": (0.30, 0.70, 0.50)}) == []
    # Apart over seeds, but not on so few test rows: each run's own interval is ± 0.02.
    assert best_of({"none": (0.50, 0.50), "mixture": (0.53, 0.53)}) == []
    assert best_of({"mixture": (0.5, 0.5)}) == []
    assert best_of({"none": (0.3, 0.3), "mixture": (0.5, 0.5)}, best_in=BestIn.NONE) == []


def test_best_in_rows_and_in_the_whole_table() -> None:
    records = [record(m, 0, v, dataset=d) for m, d, v in
               (("none", "x", 0.3), ("none", "y", 0.9), ("mixture", "x", 0.5), ("mixture", "y", 0.6))]  # fmt: skip

    def best(where: BestIn) -> set[tuple[str, str]]:
        table = pivot(records, rows="method", columns="dataset", value="test.wga", best_in=where)
        return {(row, column) for row, column, cell in table.filled() if cell.is_best}

    assert best(BestIn.COLUMN) == {("mixture", "x"), ("none", "y")}
    assert best(BestIn.ROW) == {("none", "y"), ("mixture", "y")}
    assert best(BestIn.TABLE) == {("none", "y")}


def test_numbers_in_order_and_a_field_without_interval() -> None:
    records = [record("mixture", s, 0.5, ratio=r) for r in (10.0, 2.0, 1.5) for s in (0, 1)]
    table = pivot(records, rows="ratio", columns="method", value="l2")
    assert table.row_names == ("1.5", "2", "10")
    assert not table.percent
    assert table.text(table.cells[0][0]) == "0.01 ± 0 (2)"


def test_cells_that_pool_unlike_runs_are_said() -> None:
    records = [record("none", 0, 0.5), record("none", 0, 0.6, penalty="l1", command="trajectory")]
    notes = " ".join(pivot(records, rows="method", columns="dataset", value="test.wga").notes)
    assert "more than the seed (command, penalty)" in notes
    one_kind = pivot(RECORDS, rows="method", columns="dataset", value="test.wga").notes
    assert not any("more than the seed" in note for note in one_kind)


def test_fields_are_found_by_short_and_long_names() -> None:
    one = RECORDS[0]
    assert lookup(one, "results.test.wga.value").value == lookup(one, "test.wga").value == 0.30  # type: ignore[union-attr]
    assert lookup(one, "test.wga").high == pytest.approx(0.32)  # type: ignore[union-attr]
    assert lookup(one, "test.groups.a / b.c").value == 0.30  # type: ignore[union-attr]
    assert lookup(one, "test.groups.a.n").value == 50  # type: ignore[union-attr]
    # Results come before the config of the same name.
    assert lookup(one, "l2").value == 0.01  # type: ignore[union-attr]
    assert lookup(one, "config.l2").value == [0.1]  # type: ignore[union-attr]
    assert lookup(one, "nothing") is None
    curve = {"results": {"last": {"wga": estimate(0.4)}, "epochs": {"test": {"wga": [0.1, 0.4]}}}, "config": {}}
    assert lookup(curve, "test.wga").value == 0.4  # type: ignore[union-attr]
    names = field_names([one, {**curve, "provenance": {}}])
    assert {"method", "test.wga", "ratio", "dataset", "test.groups.a / b.c", "last.wga"} <= set(names)
    assert all(lookup(one, name) is not None or lookup(curve, name) is not None for name in names)


def test_a_wrong_field_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"--value: no record has a field 'tets.wga'. Did you mean 'test.wga'"):
        pivot(RECORDS, rows="method", columns="dataset", value="tets.wga")
    with pytest.raises(ConfigError, match=r"--rows: .*Did you mean 'test.worst_group'"):
        pivot(RECORDS, rows="worst_group", columns="dataset", value="test.wga")
    with pytest.raises(ConfigError, match="--value: 'method' is not a number: a record has 'none'"):
        pivot(RECORDS, rows="seed", columns="dataset", value="method")


def test_conditions() -> None:
    kept = filtered(RECORDS, [Condition.parse("method=none,subsetting"), Condition.parse("seed=1.0")])
    assert [(r["results"]["method"], r["seed"]) for r in kept] == [("none", 1), ("subsetting", 1)]
    odd = [record("none", 0, 0.5, dataset="a, b=c")]
    assert filtered(odd, [Condition.parse("dataset=a, b=c")]) == odd
    with pytest.raises(ConfigError, match=r"no record has method = 'x'. There are: mixture, none, subsetting"):
        filtered(RECORDS, [Condition.parse("method=x")])
    for text in ("method", "=x", "method="):
        with pytest.raises(ConfigError, match="expected FIELD=VALUE"):
            Condition.parse(text)


def test_a_run_counts_once_as_it_was_recorded_last() -> None:
    old, new = record("none", 1, 0.1), record("none", 1, 0.2, seeds=[1, 2], records="elsewhere", store="b.h5")
    other = record("none", 1, 0.3, ratio=3.0)
    runs, repeated = distinct_runs([old, other, new])
    assert (runs, repeated) == ([other, new], 1)


def test_markup_in_names_is_escaped() -> None:
    names = "a|b_*[x]<i>`", r"50%_&#{}~^\ $x$"
    records = [record("none", 0, 0.5, dataset=name) for name in names]
    table = pivot(records, rows="dataset", columns="method", value="test.wga")
    lines = to_markdown(table).splitlines()
    assert lines[4].startswith(r"| a\|b\_\*\[x\]\<i\>\` | ")
    assert all(line.replace(r"\|", "").count("|") == 3 for line in lines[2:6])
    latex = to_latex(table)
    assert r"50\%\_\&\#\{\}\textasciitilde{}\textasciicircum{}\textbackslash{} \$x\$ & 50.0 (1) \\" in latex
    assert r"\begin{tabular}{lr}" in latex


def test_latex_and_markdown_mark_the_best() -> None:
    records = [record("none", s, 0.3) for s in (0, 1)] + [record("mixture", s, 0.5) for s in (0, 1)]
    table = pivot(records, rows="method", columns="dataset", value="test.wga")
    assert "| mixture | **50.0 ± 0.0 (2)** |" in to_markdown(table)
    assert r"mixture & \textbf{50.0 $\pm$ 0.0 (2)} \\" in to_latex(table)


def test_csv_has_full_precision() -> None:
    rows = list(csv.reader(io.StringIO(to_csv(pivot(RECORDS, rows="method", columns="dataset", value="test.wga")))))
    assert rows[0][:5] == ["method", "dataset", "mean test.wga", "sd (ddof 0)", "n"]
    found = {(r[0], r[1]): float(r[2]) for r in rows[1:]}
    for key, values in VALUES.items():
        assert found[key] == np.mean(values)


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def test_the_command(tmp_path: Path) -> None:
    records = write(tmp_path / "records.jsonl", RECORDS)
    out = tmp_path / "deep" / "t.tex"
    result = RUNNER.invoke(
        app, ["table", str(tmp_path), "--where", "dataset=toy", "--format", "markdown", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert "| mixture | **55.3 ± 4.5 (3)** |" in result.stdout
    assert out.read_text(encoding="utf-8").count(r"\\") == 3
    found = json.loads(RUNNER.invoke(app, ["table", str(records), str(records), "--json"]).stdout)
    assert found["cells"][0] | {"best": None} == {
        "row": "none", "column": "toy", "mean": pytest.approx(0.3), "sd": pytest.approx(np.std([0.3, 0.32, 0.28])),
        "n": 3, "low": pytest.approx(found["cells"][0]["low"]), "high": pytest.approx(found["cells"][0]["high"]),
        "best": None,
    }  # fmt: skip
    terminal = RUNNER.invoke(app, ["table", str(records)])
    assert "55.3 ± 4.5 (3) *" in terminal.stdout


def test_bad_input_is_said(tmp_path: Path) -> None:
    records = write(tmp_path / "records.jsonl", RECORDS)
    cases = [
        (["table", str(tmp_path / "no.jsonl")], "No records at"),
        (["table", str(records), "--value", "test.wgaa"], "Did you mean 'test.wga'"),
        (["table", str(records), "--ddof", "2"], "ddof must be 0"),
        (["table", str(records), "--out", "t.xls"], "out must end in .md, .tex, .csv"),
        (["table", str(records), "--where", "method"], "expected FIELD=VALUE"),
    ]
    for arguments, expected in cases:
        result = RUNNER.invoke(app, arguments)
        assert result.exit_code == 2, arguments
        assert expected in " ".join(result.output.split())
    empty = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match="expected any run, found nothing"):
        run_table(TableConfig(records=(empty,)))
