"""Several outputs, profiles and batch sizes with several processes."""

import contextlib
import json
import os
import random
import re
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers import CodesForward, SomeUnreadable, text_backbone, text_outputs, toy_texts
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from grobust.errors import BackboneError, WorkerError
from grobust.features.extract import ExtractResult, ExtractSettings, OnError, Progress, extract_together
from grobust.features.parallel.local import ProcessCrew
from grobust.features.parallel.serve import Reporter
from grobust.features.profile import STAGES, StageClock
from grobust.features.store import FeatureStore, parts_folder
from grobust_cli.main import app

pytestmark = pytest.mark.usefixtures("one_torch_thread")

DATA = toy_texts(120)
BROKEN = SomeUnreadable(DATA.name, DATA.groups, DATA.split, DATA.sample_ids, DATA.texts)
SETTINGS = ExtractSettings(batch_size=2, part_rows=4)
SKIP = ExtractSettings(batch_size=2, part_rows=4, on_error=OnError.SKIP)


def paths_in(folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [folder / "a.h5", folder / "b.h5"]


def stopped(paths: list[Path], outputs: slice, at: int, **how: Any) -> None:
    """A run of some of the outputs that is interrupted."""

    def stop(progress: Progress) -> None:
        if progress.done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_together(DATA, text_outputs(**how)[outputs], paths[outputs], settings=SETTINGS, on_progress=stop)


def workers() -> list[psutil.Process]:
    found = []
    for child in psutil.Process(os.getpid()).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "grobust.features.parallel.worker" in child.cmdline():
                found.append(child)
    return found


def test_killed_processes_and_an_earlier_run_of_one_output(tmp_path: Path) -> None:
    expected = paths_in(tmp_path / "one")
    extract_together(DATA, text_outputs(), expected, settings=SETTINGS)
    paths = paths_in(tmp_path / "two")
    stopped(paths, slice(1, 2), 40)
    moments = random.Random(4)
    targets = sorted(moments.sample(range(10, 90), 2))
    killed: list[int] = []

    def kill(progress: Progress) -> None:
        if targets and progress.done >= targets[0]:
            targets.pop(0)
            victim = moments.choice(workers())
            victim.send_signal(signal.SIGKILL)
            killed.append(victim.pid)

    results = extract_together(
        DATA, text_outputs(0.06), paths, settings=SETTINGS, crew=ProcessCrew(("cpu",) * 3), on_progress=kill
    )
    assert len(set(killed)) == 2
    assert sum("was ended by SIGKILL" in note for note in results[0].notes) == 2
    assert results[0].n_extracted == 120
    assert results[1].n_resumed >= 36
    assert results[1].n_extracted == 120 - results[1].n_resumed
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in expected]
    assert not any(parts_folder(path).exists() for path in paths)


def test_an_interrupted_run_of_processes_is_continued_by_one(tmp_path: Path) -> None:
    expected = paths_in(tmp_path / "one")
    extract_together(DATA, text_outputs(), expected, settings=SETTINGS)
    paths = paths_in(tmp_path / "two")

    def stop(progress: Progress) -> None:
        if progress.done >= 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_together(
            DATA, text_outputs(0.1), paths, settings=SETTINGS, crew=ProcessCrew(("cpu", "cpu")), on_progress=stop
        )
    assert not workers()
    results = extract_together(DATA, text_outputs(), paths, settings=SETTINGS)
    assert min(result.n_resumed for result in results) >= 12
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in expected]


def test_inputs_that_one_store_has_and_cannot_be_read_now(tmp_path: Path) -> None:
    """They stay in the store that has them, and are left out of the other, as with one process."""

    def run(folder: Path, crew: ProcessCrew | None) -> tuple[list[Path], tuple[ExtractResult, ...]]:
        paths = paths_in(folder)
        stopped(paths, slice(0, 1), 112)
        return paths, extract_together(BROKEN, text_outputs(), paths, settings=SKIP, crew=crew)

    expected, one = run(tmp_path / "one", None)
    paths, two = run(tmp_path / "two", ProcessCrew(("cpu",)))
    assert [sorted(result.skipped) for result in two] == [sorted(result.skipped) for result in one]
    assert [name for name, _ in sorted(two[1].skipped)] == ["t11", "t3"]
    assert len(two[0].skipped) < 2
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in expected]


def test_a_profile_of_processes_adds_up_and_their_batch_size_is_the_smallest(tmp_path: Path) -> None:
    crew = ProcessCrew(("cpu", "cpu"))
    result, other = extract_together(
        DATA, text_outputs(0.02), paths_in(tmp_path), settings=SETTINGS, crew=crew, profile=True
    )
    found = result.profile
    assert found is not None
    assert other.profile == found
    # One that starts late may find nothing left to do.
    assert found.processes in (1, 2)
    assert found.rows == 120
    at = {each.stage: each for each in found.stages}
    assert list(at) == list(STAGES)
    # 60 batches, each slept in once for both outputs.
    assert 1.2 <= at["network"].seconds < 9
    assert at["write"].seconds > 0
    main = sum(each.share for each in found.stages if each.place == "main")
    assert 0 < main <= 1.001
    assert found.seconds > at["network"].seconds / 2
    assert found.process_seconds <= 2 * found.seconds
    # A pass takes as long for any number of rows, so only memory ends it.
    assert crew.batch_size(DATA, [text_backbone(CodesForward(limit=40, seconds=0.005))], SETTINGS) == 32


def test_a_trial_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackboneError, match="runs out of memory on 8 rows"):
        ProcessCrew(("cpu",)).batch_size(DATA, [text_backbone(CodesForward(limit=3))], SETTINGS)
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(WorkerError, match=r"process 0 \(cpu\) ended with exit code 1\. Give --batch-size a number"):
        ProcessCrew(("cpu",)).batch_size(DATA, [text_backbone()], SETTINGS)


def test_the_command_with_all_of_it(tmp_path: Path) -> None:
    command = ["extract", "--dataset", "digits", "--limit", "60", "--backbone", "timm:test_convnext@random",
               "--image-size", "32", "--view", "plain", "--view", "five-crop", "--no-channels-last"]  # fmt: skip
    more = ["--devices", "cpu,cpu", "--batch-size", "auto", "--profile"]
    two = CliRunner().invoke(app, [*command, *more, "--out", str(tmp_path / "two.h5")])
    assert two.exit_code == 0, two.output
    with FeatureStore(tmp_path / "two.model.five-crop.h5") as store:
        size = store.provenance.options["batch_size"]
    said = " ".join(two.output.split())
    assert f"batch size {size}" in said
    assert "Where the time went: 60 rows" in said
    # The first to be ready may have done it all.
    assert re.search(r"stages are summed up over [12] process\(es\)", said)
    one = ["--device", "cpu", "--batch-size", size, "--json", "--out", str(tmp_path / "one.h5")]
    alone = CliRunner().invoke(app, [*command, *one])
    assert alone.exit_code == 0, alone.output
    assert len(json.loads(alone.stdout)["results"]) == 2
    for name in ("model", "model.five-crop"):
        assert (tmp_path / f"two.{name}.h5").read_bytes() == (tmp_path / f"one.{name}.h5").read_bytes()


def test_clocks_add_up() -> None:
    whole, clocks = StageClock(), [StageClock(rows=30, tokens=5, padded=8), StageClock(rows=20, tokens=1, padded=2)]
    for seconds, clock in enumerate(clocks, start=1):
        clock.add("network", seconds)
        whole.take(json.loads(json.dumps(clock.counted())) | {"running": 4.0})
    found = whole.profile(3.0, workers=0, device="cpu", precision="float32", batch_size=64, cores=1)
    at = {each.stage: each for each in found.stages}
    assert (found.rows, found.processes, found.seconds, found.process_seconds) == (50, 2, 3.0, 8.0)
    assert (at["network"].seconds, at["network"].share) == (3.0, 3 / 8)
    assert at["network"].rows_per_second == pytest.approx(50 / 3)
    assert found.padding == pytest.approx(1 - 6 / 10)
    assert found.limit == "network"


class _Kept:
    def write(self, rows: np.ndarray, features: np.ndarray) -> None:
        assert len(rows) == len(features)

    def skip(self, row: int, reason: str) -> None:
        raise AssertionError("the leader skips")


@given(data=st.data(), n_outputs=st.integers(1, 3), sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_a_part_is_told_of_once_when_all_stores_have_it(data: st.DataObject, n_outputs: int, sizes: list[int]) -> None:
    """Rows that a store had before are not waited for; the others come in any order."""
    n = sum(sizes)
    bounds = np.cumsum([0, *sizes])
    parts = [[np.arange(start, stop)] for start, stop in pairwise(bounds.tolist())]
    done = [np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n))) for _ in range(n_outputs)]
    done[0][:] = False
    told: list[Any] = []
    reporter = Reporter([_Kept()] * n_outputs, [None, *done[1:]], told.append)
    for number, part in enumerate(parts):
        reporter.begin(number, part)
    left = [(number, output, row) for number, part in enumerate(parts) for row in part[0].tolist()
            for output in range(n_outputs) if not done[output][row]]  # fmt: skip
    bad = set(data.draw(st.lists(st.integers(0, n - 1), max_size=3)))
    order = data.draw(st.permutations(left))
    for place, (number, output, row) in enumerate(order):
        sink = reporter.sinks[output]
        if row in bad:
            sink.skip(row, f"bad {row}")
        else:
            sink.write(np.array([row]), np.zeros((1, 2)))
        open_ = {other for other, _, _ in order[place + 1 :]}
        assert (number in [content["done"] for content in told]) is (number not in open_)
    assert sorted(content["done"] for content in told) == list(range(len(parts)))
    for content in told:
        rows = parts[content["done"]][0].tolist()
        assert sorted(content["skipped"]) == [(row, f"bad {row}") for row in rows if row in bad]
