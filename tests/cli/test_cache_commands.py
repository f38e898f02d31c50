"""`grobust cache`, and extraction into it: what is listed, what uses are found, and above all what is never removed."""

import json
import multiprocessing
import os
import time
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import features_of, make_plan, write_store_of
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from grobust.errors import ConfigError, StoreError
from grobust.experiments.cache import CollectConfig, run_cache_collect
from grobust.experiments.records import Record, append_records
from grobust.features._schema import Provenance
from grobust.features.cache import cache_folder, cached_path, list_stores, remove_store
from grobust.features.parts import PartsWriter
from grobust.features.store import FeatureStore, parts_folder
from grobust_cli.main import app

RUNNER = CliRunner()
DAY = 86400


def run(*arguments: str | Path, code: int = 0) -> str:
    result = RUNNER.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout if code == 0 else result.output


def answer(*arguments: str | Path) -> dict:
    return json.loads(run("cache", *arguments, "--json"))


def made(path: Path, *, days: float = 0, **changes: str) -> Path:
    """A store of some age."""
    write_store_of(path, make_plan(**changes))
    then = time.time() - days * DAY
    os.utime(path, (then, then))
    return path


def begun(path: Path, *, days: float = 0) -> Path:
    """The parts of a store that is not finished."""
    plan = make_plan(dataset="begun")
    with PartsWriter(path, plan) as writer:
        writer.write(np.arange(9), features_of(plan)[:9])
    age(parts_folder(path), days)
    return parts_folder(path)


def age(folder: Path, days: float) -> None:
    then = time.time() - days * DAY
    for file in (*folder.iterdir(), folder):
        os.utime(file, (then, then), follow_symlinks=False)


def record_of(store: Path, *, path: str = "elsewhere.h5", time: str = "2020-01-01T00:00:00+00:00") -> Record:
    return Record(
        command="probe", config={"store": path}, provenance=asdict(FeatureStore(store).provenance), versions={},
        device="cpu", seed=1, label_ledger={}, results={}, time=time,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three stores of different age, one of them below; one begun; and things that are nobody's business."""
    root = tmp_path / "cache"
    (root / "below").mkdir(parents=True)
    made(root / "new.h5", dataset="new")
    made(root / "old.h5", days=50, dataset="old")
    made(root / "below" / "older", days=90, dataset="older")
    begun(root / "begun.h5", days=40)
    (root / "notes.txt").write_text("mine")
    with h5py.File(root / "data.h5", "w") as file:
        file["other"] = np.zeros(3)
    (root / "photos.parts").mkdir()
    (root / "photos.parts" / "plan.json").write_text("{}")
    outside = made(tmp_path / "outside.h5", days=99, dataset="outside")
    begun(tmp_path / "outside2.h5", days=99)
    (root / "link.h5").symlink_to(outside)
    (root / "far").symlink_to(tmp_path)
    (root / "far.h5.parts").symlink_to(parts_folder(tmp_path / "outside2.h5"))
    return root


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def test_ls_lists_stores_and_nothing_else(folder: Path) -> None:
    found = answer("ls", folder)
    names = [Path(s["path"]).relative_to(folder).as_posix() for s in found["stores"]]
    assert names == ["begun.h5.parts", "below/older", "new.h5", "old.h5"]
    assert [s["state"] for s in found["stores"]] == ["unfinished", "finished", "finished", "finished"]
    assert [round(s["age_days"]) for s in found["stores"]] == [40, 90, 0, 50]
    store = found["stores"][3]
    assert (store["n"], store["dim"], store["dtype"]) == (30, 5, "float32")
    assert store["bytes"] == (folder / "old.h5").stat().st_size
    assert store["made_by"] == FeatureStore(folder / "old.h5").provenance.identity()
    assert found["stores"][0]["made_by"] == make_plan(dataset="begun").provenance.identity()
    assert found["bytes"] == sum(s["bytes"] for s in found["stores"])
    text = run("cache", "ls", folder)
    assert "below/older" in text
    assert "50 d" in text


def test_uses_are_found_by_what_made_a_store_and_by_its_path(folder: Path) -> None:
    records = folder / "records.jsonl"
    append_records(records, [record_of(folder / "old.h5"), record_of(folder / "old.h5", time="2020-01-02T00:00:00")])
    by_path = record_of(folder / "old.h5", path="below/older")
    append_records(records, [Record(**{**asdict(by_path), "provenance": {}, "config": {"store": "new.h5"}})])
    # The same run on a store that lies elsewhere: recorded runs are not told apart by their stores elsewhere.
    append_records(records, [Record(**{**asdict(by_path), "provenance": {}, "config": {"store": "no.h5"}})])
    uses = {Path(s["path"]).name: len(s["uses"]) for s in answer("ls", folder, "--records", records)["stores"]}
    assert uses == {"begun.h5.parts": 0, "older": 0, "new.h5": 1, "old.h5": 2}
    info = answer("info", "old.h5", "--folder", folder, "--records", folder)
    assert {use["command"] for use in info["uses"]} == {"probe"}
    assert "probe" in run("cache", "info", folder / "old.h5", "--records", records)


def test_info_of_nothing_or_several(folder: Path) -> None:
    made(folder / "old2.h5")
    made(folder / "old2.h5.more")
    assert answer("info", "old2.h5", "--folder", folder)["path"] == str(folder / "old2.h5")
    assert "older, old.h5, old2.h5, old2.h5.more" in run("cache", "info", "old", "--folder", folder, code=2)
    assert "none" in run("cache", "info", "nothing", "--folder", folder, code=2)
    assert "not a folder" in run("cache", "ls", folder / "absent", code=2)


def test_gc_only_says_until_it_is_told_to_delete(folder: Path) -> None:
    before = everything(folder)
    found = answer("gc", folder, "--older-than", "30d")
    assert not found["deleted"]
    assert sorted(Path(s["path"]).name for s in found["stores"]) == ["begun.h5.parts", "old.h5", "older"]
    assert everything(folder) == before
    assert "--delete" in RUNNER.invoke(app, ["cache", "gc", str(folder), "--older-than", "30d"]).stderr


def test_gc_removes_what_it_said_and_no_more(folder: Path) -> None:
    others = everything(folder.parent)
    said = answer("gc", folder, "--older-than", "30d")
    did = answer("gc", folder, "--older-than", "30d", "--delete")
    assert did["deleted"]
    assert [s["path"] for s in did["stores"]] == [s["path"] for s in said["stores"]]
    assert did["bytes_freed"] == said["bytes_freed"] > 0
    gone = {name for name in others if name.startswith(("cache/old.h5", "cache/below/older", "cache/begun.h5.parts"))}
    assert everything(folder.parent) == others - gone
    assert not (folder / "begun.h5.parts").exists()
    FeatureStore(folder / "new.h5").verify()
    FeatureStore(folder / "link.h5").verify()
    assert answer("gc", folder, "--older-than", "30d", "--delete")["stores"] == []


def test_gc_spares_what_was_used_kept_or_needed_lately(folder: Path) -> None:
    records = folder / "records.jsonl"
    append_records(records, [record_of(folder / "old.h5")])

    def chosen(*arguments: str | Path) -> list[str]:
        return sorted(Path(s["path"]).name for s in answer("gc", folder, *arguments)["stores"])

    assert chosen("--unused-by", records) == ["begun.h5.parts", "new.h5", "older"]
    assert chosen("--unused-by", records, "--older-than", "60d") == ["older"]
    assert chosen("--older-than", "1d", "--keep", "begun*", "--keep", folder / "below" / "older") == ["old.h5"]
    append_records(records, [record_of(folder / "below" / "older", time=time.strftime("%Y-%m-%dT%H:%M:%S+00:00"))])
    assert chosen("--older-than", "30d", "--records", records) == ["begun.h5.parts", "old.h5"]


@settings(max_examples=12)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=6, unique=True), st.floats(0, 1))
def test_max_size_takes_the_longest_unused_and_stops_at_once(ages: list[int], share: float) -> None:
    """Against a loop: drop the oldest until the rest fits."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for days in ages:
            made(root / f"{days}.h5", days=days)
        sizes = {days: (root / f"{days}.h5").stat().st_size for days in ages}
        limit = int(share * sum(sizes.values()))
        left = sorted(ages)
        while sum(sizes[days] for days in left) > limit:
            left.pop()
        report = run_cache_collect(CollectConfig(folder=root, max_bytes=limit, delete=True))
        assert sorted(int(path.stem) for path in root.glob("*.h5")) == left
        assert report.freed == sum(sizes.values()) - sum(sizes[days] for days in left)


def test_a_condition_is_needed_and_records_must_be_there(folder: Path) -> None:
    assert "which stores may go" in run("cache", "gc", folder, "--delete", code=2)
    assert "No records" in run("cache", "gc", folder, "--unused-by", folder / "no.jsonl", "--delete", code=2)
    (folder / "empty.jsonl").touch()
    assert "every store would seem unused" in run("cache", "gc", folder, "--unused-by", folder / "empty.jsonl", code=2)
    assert "such as 30d" in run("cache", "gc", folder, "--older-than", "30", code=2)
    assert "such as 2GiB" in run("cache", "gc", folder, "--max-size", "much", code=2)
    with pytest.raises(ConfigError, match="negative"):
        CollectConfig(older_than=-1.0)
    assert (folder / "old.h5").exists()


def _hold(path: Path, ready: "multiprocessing.synchronize.Event", done: "multiprocessing.synchronize.Event") -> None:
    with PartsWriter(path, make_plan(dataset="begun"), overwrite=True):
        ready.set()
        done.wait(30)


@pytest.mark.parametrize("name", ["begun.h5", "old.h5"])
def test_what_is_being_written_stays(folder: Path, name: str) -> None:
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    writer = context.Process(target=_hold, args=(folder / name, ready, done))
    writer.start()
    try:
        assert ready.wait(60)
        age(parts_folder(folder / name), 40)
        for delete in ((), ("--delete",)):
            found = answer("gc", folder, "--older-than", "30d", *delete)
            stayed = {Path(s["path"]).name for s in found["stayed"]}
            assert name in {n.removesuffix(".parts") for n in stayed}
            assert all("being written" in s["reason"] for s in found["stayed"])
        assert parts_folder(folder / name).is_dir()
        assert (folder / "old.h5").exists() == (name == "old.h5")
    finally:
        done.set()
        writer.join()


def test_parts_of_the_last_hour_stay(folder: Path) -> None:
    age(folder / "begun.h5.parts", 0.01)
    assert "begun.h5.parts" not in str(answer("gc", folder, "--max-size", "0B", "--delete")["stores"])
    assert (folder / "begun.h5.parts").is_dir()


def test_what_several_processes_left_goes_too_unless_its_store_is_kept(folder: Path) -> None:
    (folder / "begun.h5.parts" / "worker-0.log").write_text("Killed")
    age(folder / "begun.h5.parts", 40)
    for kept in ("begun.h5", "*.h5", folder / "begun.h5"):
        answer("gc", folder, "--older-than", "30d", "--keep", kept, "--delete")
        assert (folder / "begun.h5.parts" / "worker-0.log").exists()
    answer("gc", folder, "--older-than", "30d", "--delete")
    assert not (folder / "begun.h5.parts").exists()


def test_a_folder_of_parts_with_something_else_in_it_stays(folder: Path) -> None:
    (folder / "begun.h5.parts" / "thesis.tex").write_text("years of work")
    age(folder / "begun.h5.parts", 40)
    assert "thesis.tex" in answer("gc", folder, "--older-than", "30d")["stayed"][0]["reason"]
    found = answer("gc", folder, "--older-than", "30d", "--delete")
    assert "thesis.tex" in found["stayed"][0]["reason"]
    assert (folder / "begun.h5.parts" / "plan.json").exists()
    (folder / "begun.h5.parts" / "thesis.tex").unlink()
    target = folder.parent / "target.txt"
    target.write_text("kept")
    (folder / "begun.h5.parts" / "a.lock").symlink_to(target)
    age(folder / "begun.h5.parts", 40)
    assert "a.lock" in answer("gc", folder, "--max-size", "0B", "--delete")["stayed"][0]["reason"]
    assert target.read_text() == "kept"


def test_a_store_that_changed_since_it_was_listed_stays(tmp_path: Path) -> None:
    path = made(tmp_path / "f.h5", days=9)
    (listed,) = list_stores(tmp_path)
    made(tmp_path / "g.h5").replace(path)
    with pytest.raises(StoreError, match="has changed"):
        remove_store(listed)
    assert path.exists()


def test_verify_reads_all_and_names_the_damaged(folder: Path) -> None:
    assert answer("verify", folder)["sound"]
    content = bytearray((folder / "old.h5").read_bytes())
    content[content.index(features_of(make_plan()).tobytes()[:16])] ^= 1
    (folder / "old.h5").write_bytes(content)
    output = run("cache", "verify", folder, code=2)
    assert "rows 0 to 29 differ" in output
    assert output.count("as written") == 2
    (folder / "new.h5").write_bytes((folder / "new.h5").read_bytes()[:-100])
    result = RUNNER.invoke(app, ["cache", "verify", str(folder), "--json"])
    found = json.loads(result.stdout)["stores"]
    assert [bool(s["problem"]) for s in found] == [False, False, True, True]
    assert found[2]["state"] == "unreadable"
    assert "new.h5" not in str(answer("gc", folder, "--max-size", "0B", "--delete"))
    assert (folder / "new.h5").exists()


def test_a_store_of_an_unknown_version_is_listed_as_such(folder: Path) -> None:
    with h5py.File(folder / "old.h5", "r+") as file:
        file.attrs["encoding-version"] = 99
    store = answer("ls", folder)["stores"][3]
    assert store["state"] == "unreadable"
    assert "version 99" in store["problem"]
    assert "old.h5" not in str(answer("gc", folder, "--older-than", "1d", "--delete"))
    assert (folder / "old.h5").exists()


def test_a_name_is_made_of_all_that_decides_the_content() -> None:
    base = make_plan().provenance
    assert cached_path(base, "c") == cached_path(make_plan(versions={"torch": "3"}).provenance, "c")
    assert cached_path(base, "c").name.startswith("toy-timm_x_random-")
    changes = [{name: "changed"} for name in base.identity() if name != "dtype"] + [{"options": {"crop": "1"}}]
    names = {cached_path(base, "c").name} | {
        cached_path(make_plan(**change).provenance, "c").name for change in changes
    }
    assert len(names) == len(changes) + 1
    hostile = Provenance("../../x:/etc/\0" + "y" * 300, "w", "p", "gap", "float32", "float32", "../up", "d")
    path = cached_path(hostile, "c")
    assert path.parent == Path("c")
    assert len(path.name) < 120


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROBUST_CACHE", "~/stores")
    assert cache_folder() == Path.home() / "stores"
    monkeypatch.delenv("GROBUST_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache_folder() == Path("/x/grobust")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "grobust"


def test_the_same_request_finds_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROBUST_CACHE", str(tmp_path / "cache"))
    request = ["extract", "--dataset", "digits", "--backbone", "packaged:efficientnet_lite0", "--image-size", "32"]
    first = Path(run(*request, "--limit", "60").strip())
    assert first.parent == tmp_path / "cache"
    written = first.stat().st_mtime_ns
    assert Path(run(*request, "--limit", "60").strip()) == first
    assert first.stat().st_mtime_ns == written
    assert json.loads(run(*request, "--limit", "60", "--json"))["result"] | {"seconds": 0} == {
        "path": str(first), "n": 60, "n_extracted": 0, "n_resumed": 0, "skipped": [], "seconds": 0,
        "rows_per_second": 0.0, "reused": True, "notes": [], "profile": None,
    }  # fmt: skip
    second = Path(run(*request, "--limit", "60", "--dtype", "float16").strip())
    assert second != first
    assert [Path(s["path"]) for s in answer("ls")["stores"]] == sorted((first, second))
