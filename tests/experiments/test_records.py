"""Records: append-only, whole lines from several processes, readable after a killed writer, strict JSON."""

import json
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from grobust.errors import DataError
from grobust.experiments.records import Record, append_records, read_records


def record(i: int, **results: object) -> Record:
    return Record(
        command="probe", config={"i": i}, provenance={}, versions={}, device="cpu", seed=i, label_ledger={},
        results=dict(results),
    )  # fmt: skip


def append_twenty(path: Path, start: int) -> None:
    for i in range(start, start + 20):
        append_records(path, [record(i, text="x" * 5000)])


def test_lines_are_appended_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "records.jsonl"
    append_records(path, [record(1), record(2)])
    append_records(path, [record(3)])
    assert [r["seed"] for r in read_records(path)] == [1, 2, 3]
    assert read_records(path, command="spectrum") == []


def test_processes_do_not_mix_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        list(pool.map(append_twenty, [path] * 3, (0, 100, 200)))
    assert sorted(r["seed"] for r in read_records(path)) == sorted([*range(20), *range(100, 120), *range(200, 220)])


def test_a_half_written_line_is_named_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    append_records(path, [record(1)])
    with path.open("a") as file:
        file.write('{"command": "pro')
    append_records(path, [record(2)])
    with pytest.raises(DataError, match="line 2 is not JSON"):
        read_records(path)
    assert json.loads(path.read_text().splitlines()[2])["seed"] == 2


def test_nan_and_foreign_lines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not JSON"):
        append_records(tmp_path / "r.jsonl", [record(1, wga=math.nan)])
    assert not (tmp_path / "r.jsonl").exists()
    (tmp_path / "other.jsonl").write_text('{"schema": 99}\n')
    with pytest.raises(DataError, match="line 1: not a record of schema 1"):
        read_records(tmp_path / "other.jsonl")
    with pytest.raises(DataError, match="No records at"):
        read_records(tmp_path / "none.jsonl")
