"""Records that were damaged by hand: every command that reads them says the line and the key, and writes nothing."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from report_world import World, make_world
from typer.testing import CliRunner

from grobust.errors import GrobustError
from grobust.experiments.evidence_config import SelectConfig
from grobust.experiments.plot import run_plot
from grobust.experiments.records import read_records
from grobust.experiments.report import run_report
from grobust.experiments.report_config import PlotConfig, ReportConfig, TableConfig
from grobust.experiments.reproduce.published import published_targets
from grobust.experiments.reproduce.run import ReproduceConfig, run_reproduce
from grobust.experiments.select import run_select
from grobust.experiments.table import run_table
from grobust.report.choices import PlotKind
from grobust.report.record_shape import check_record
from grobust_cli.main import app

# What a hand or a disk may put in the place of a value; `json.dumps` writes NaN and infinity as no JSON has them.
WRONG = (
    None,
    True,
    "",
    "text",
    -1,
    0,
    3,
    0.5,
    -1e300,
    1e308,
    10**30,
    math.nan,
    math.inf,
    [],
    [[]],
    ["a"],
    {},
    {"a": 1},
)
# A string, so that the tests of two processes have the same names.
MISSING = "(missing)"
# Taken modulo what there is to choose from: the same draws whatever the records hold.
ANY = st.integers(0, 10**6)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def lines(world: World) -> list[dict[str, Any]]:
    """One record of every command, and a second seed of the first."""
    first: dict[str, dict[str, Any]] = {}
    records = read_records(world.records)
    for record in records:
        first.setdefault(record["command"], record)
    return [*first.values(), next(r for r in records if r["seed"] == 2)]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a record."""
    if at:
        yield at
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*at, key))


def damaged(record: dict[str, Any], at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    found: Any = copy.deepcopy(dict(record))
    inner = found
    for key in at[:-1]:
        inner = inner[key]
    if value == MISSING:
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return found


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


def read_by_all(path: Path, folder: Path) -> list[str]:
    """Every command on the records; the messages of those that refuse. Anything but a refusal of ours is raised."""
    out = folder / "out"
    jobs = [
        lambda: run_table(TableConfig(records=(path,))),
        lambda: run_table(TableConfig(records=(path,), rows="command", columns="backbone", value="seed")),
        lambda: run_report(ReportConfig(records=(path,), out=out / "page.html")),
        lambda: run_select(SelectConfig(path)),
        *(lambda target=t: run_reproduce(ReproduceConfig(target.name, (path,))) for t in published_targets()),
    ]  # fmt: skip
    messages = []
    for job in jobs:
        try:
            job()
        except GrobustError as error:
            messages.append(str(error))
    return messages


def records_of(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """`lines`, which Hypothesis would print as an argument: a warning, at their length."""
    found: list[dict[str, Any]] = request.getfixturevalue("lines")
    return found


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=ANY, place=ANY, wrong=st.sampled_from((*WRONG, MISSING)))
def test_no_damage_is_a_traceback(
    line: int, place: int, wrong: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    lines = records_of(request)
    number = line % len(lines)
    where = list(places(dict(lines[number])))
    at = where[place % len(where)]
    records = [dict(r) for r in lines]
    records[number] = damaged(records[number], at, wrong)
    path = write(tmp_path / "r.jsonl", records)
    read_by_all(path, tmp_path)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=ANY, place=ANY, wrong=st.sampled_from(WRONG), kind=st.sampled_from(tuple(PlotKind)))
def test_no_damage_breaks_a_figure(
    line: int, place: int, wrong: Any, kind: PlotKind, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """As above for `plot`, on what figures read."""
    lines = records_of(request)
    number = line % len(lines)
    where = [at for at in places(dict(lines[number])) if at[0] == "results" and at[-1] not in ("diagnostics", "notes")]
    records = [dict(r) for r in lines]
    records[number] = damaged(records[number], where[place % len(where)], wrong)
    path = write(tmp_path / "r.jsonl", records)
    out = tmp_path / "figure.svg"
    out.unlink(missing_ok=True)
    try:
        run_plot(PlotConfig(kind=kind, records=(path,), out=out))
    except GrobustError:
        assert not out.exists()
    else:
        assert out.stat().st_size > 1000


CASES = [
    (("results", "test", "wga", "value"), "0.5", r"line 2: 'results.test.wga.value' must be a proportion.* got '0.5'"),
    (("results", "test", "wga", "value"), 1e300, r"line 2: 'results.test.wga.value' must be a proportion, 0 to 1"),
    (("results", "test", "wga", "low"), 0.99999, r"line 2: 'results.test.wga' must be an estimate whose low is not"),
    (("results", "test", "groups", 1, "n"), -3, r"line 2: 'results.test.groups\[1\].n' must be a count, got -3"),
    (("results", "test", "wga", "high"), math.nan, r"line 2 is not JSON \(NaN is no number of JSON\)"),
    (
        ("results", "test", "average"),
        MISSING,
        "line 2 lacks or damages what a run of `grobust probe`.*: key 'average'",
    ),
    (("provenance",), MISSING, r"line 2: it has no 'provenance'"),
    (("config",), [], r"line 2: 'config' must be an object, got \[\]"),
    (("seed",), 10**30, r"line 2: 'seed' must be an integer of 64 bits"),
    (("results", "method"), 7, r"line 2: 'results.method' must be a text, got 7"),
]


@pytest.mark.parametrize(("at", "value", "expected"), CASES, ids=lambda v: str(v)[:30])
def test_line_and_key_are_named_and_nothing_is_written(
    at: tuple[Any, ...], value: Any, expected: str, lines: list[dict[str, Any]], tmp_path: Path
) -> None:
    probe = next(dict(r) for r in lines if r["command"] == "probe")
    path = write(tmp_path / "r.jsonl", [dict(lines[0]), damaged(probe, at, value)])
    with pytest.raises(GrobustError, match=expected) as caught:
        run_report(ReportConfig(records=(path,), out=tmp_path / "page.html"))
    assert str(path) in str(caught.value)
    assert "Delete the line" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


@pytest.mark.parametrize("command", ["table", "plot wga", "report", "select", "reproduce collapse --records"])
def test_every_command_ends_with_two(command: str, lines: list[dict[str, Any]], tmp_path: Path) -> None:
    at = ("results", "test", "wga", "value")
    path = write(tmp_path / "r.jsonl", [dict(lines[0]), damaged(dict(lines[0]), at, 7)])
    out = {"plot wga": ["--out", str(tmp_path / "f.svg")], "report": ["--out", str(tmp_path / "p.html")]}
    result = CliRunner().invoke(app, [*command.split(), str(path), *out.get(command, [])])
    assert result.exit_code == 2, result.output
    assert "line 2: 'results.test.wga.value' must be a proportion" in " ".join(result.output.split())
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"schema": 1, "comm', "line 1 is not JSON"),
        (b"\xff\xfe\x00", "line 1 is not JSON"),
        (b'{"schema": 1, "seed": 1e999}', "1e999 is no number of JSON"),
        (b'{"schema": 1, "seed": ' + b"9" * 5000 + b"}", "line 1 is not JSON"),
        (b"[" * 100_000, "line 1 is not JSON"),
        (b"[1, 2]", "not a record of schema 1"),
        (b'{"schema": 1, "command": "probe"}', "it has no 'config'"),
    ],
)
def test_lines_that_are_no_records(content: bytes, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(content + b"\n")
    with pytest.raises(GrobustError, match=expected):
        read_records(path)


def test_a_character_that_ends_lines_elsewhere_ends_none_here(lines: list[dict[str, Any]], tmp_path: Path) -> None:
    record = dict(lines[0]) | {"section": "a\u2028b\x85c"}
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [r["section"] for r in read_records(path)] == ["a\u2028b\x85c"]


def test_real_records_pass(world: World) -> None:
    for record in read_records(world.records):
        check_record(record)
