"""run_diagnose on planted stores: what it finds, what it does not claim, and what it refuses."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import make_plan, write_store_of

from grobust.data.synthetic import gaussian_groups
from grobust.diagnosis import Finding
from grobust.errors import ConfigError, DataError, GroupError
from grobust.experiments.diagnose import run_diagnose
from grobust.experiments.evidence_config import DiagnoseConfig
from grobust.experiments.records import read_records
from grobust.features.parts import PartsWriter, StorePlan
from grobust.groups import Groups, Split

BALANCED_CLASSES = (300, 60, 60, 300)


def planted(
    path: Path, seed: int, *, counts: tuple[int, ...] = BALANCED_CLASSES, spurious: float, core: float = 1.5,
    attributes: bool = True, flip_test: bool = False,
) -> Path:  # fmt: skip
    data = gaussian_groups(counts, 6, seed=seed, core=core, spurious=spurious)
    n, groups = len(data.groups), data.groups
    split = np.random.default_rng(seed).choice(3, size=n, p=(0.7, 0.2, 0.1)).astype(np.int8)
    if flip_test:
        labels = np.where(split == Split.TEST, 1 - groups.labels, groups.labels)
        groups = Groups(labels, groups.attributes, groups.class_names, groups.attribute_names)
    if not attributes:
        groups = Groups.from_arrays(groups.labels, class_names=groups.class_names)
    plan = StorePlan(make_plan().provenance, groups, split, tuple(f"r{i}" for i in range(n)), 6)
    with PartsWriter(path, plan) as writer:
        writer.write(np.arange(n), data.features)
        return writer.finish()


def quick(store: Path, **changes: object) -> DiagnoseConfig:
    return replace(DiagnoseConfig(store=store, null=0, permutations=40, replicates=300), **changes)


def test_a_planted_shortcut_is_found_and_mended(tmp_path: Path) -> None:
    records = tmp_path / "r.jsonl"
    steps: list[tuple[int, int, str]] = []
    config = quick(planted(tmp_path / "f.h5", 0, spurious=3.0), null=50, records=records)
    report = run_diagnose(config, on_progress=lambda *at: steps.append(at))
    assert report.verdict.finding is Finding.GAP_AND_REMEDY
    assert report.verdict.remedy in ("upsampling by group", "subsetting by group")
    assert report.decodability is not None
    assert report.decodability.is_decodable
    assert report.alignments[0].p_value == pytest.approx(1 / 41)
    assert len(report.ratios) == 2
    plain, *_ = report.effects
    assert plain.worst.value == report.plain.wga.value
    # What the page says holds on rows that it did not read for it.
    assert report.check is not None
    assert report.check.remedy is not None
    assert report.check.gain is not None
    assert report.check.gain.value == pytest.approx(report.check.remedy.wga.value - report.check.plain.wga.value)
    assert report.check.gain.value > 0
    assert report.blind[-1].choice == "none"
    assert report.blind[-1].loss.value > 0.1
    (record,) = read_records(records, command="diagnose")
    assert record["results"]["verdict"]["finding"] == str(report.verdict.finding)
    assert record["label_ledger"]["evaluation"] == []
    assert steps[-1][0] == steps[-1][1]


@pytest.mark.slow
def test_findings_are_right_as_often_as_stated(tmp_path: Path) -> None:
    stores = [planted(tmp_path / f"a{s}.h5", s, spurious=0.0, core=2.0) for s in range(24)]
    absent = Counter(run_diagnose(quick(store)).verdict.finding for store in stores)
    # Two families of tests at 5%: 2.4 of 24 at most on average; 7 would be three standard deviations more.
    assert absent[Finding.NOTHING] >= 18
    assert absent[Finding.GAP_AND_REMEDY] <= 1
    present = [run_diagnose(quick(planted(tmp_path / f"p{s}.h5", s, spurious=3.0))).verdict for s in range(5)]
    assert sum(v.finding is Finding.GAP_AND_REMEDY for v in present) >= 4


def test_decodability_is_not_lent_by_the_label(tmp_path: Path) -> None:
    """The attribute follows the label and nothing else: knowing the label is no knowledge of the attribute."""
    decodable = [
        run_diagnose(quick(planted(tmp_path / f"{s}.h5", s, counts=(400, 40, 40, 400), spurious=0.0, core=4.0)))
        for s in range(6)
    ]
    found = [r.decodability for r in decodable if r.decodability is not None]
    assert len(found) == 6
    assert sum(d.is_decodable for d in found) <= 2
    assert np.mean([d.accuracy.value for d in found]) == pytest.approx(0.5, abs=0.04)


def test_test_rows_are_not_read(tmp_path: Path) -> None:
    first = run_diagnose(quick(planted(tmp_path / "f.h5", 1, spurious=3.0)))
    second = run_diagnose(quick(planted(tmp_path / "g.h5", 1, spurious=3.0, flip_test=True)))
    assert {**first.as_dict(), "store": ""} == {**second.as_dict(), "store": ""}


def test_without_attributes_it_speaks_of_classes(tmp_path: Path) -> None:
    store = planted(tmp_path / "f.h5", 2, counts=(700, 0, 0, 120), spurious=0.0, core=1.0, attributes=False)
    report = run_diagnose(quick(store))
    assert not report.has_attributes
    assert (report.gaps, report.decodability, report.alignments, report.ratios, report.blind) == ((), None, (), (), ())
    assert report.verdict.finding is Finding.REMEDY
    assert "worst-class accuracy" in report.verdict.recommendation
    assert {effect.needs_groups for effect in report.effects} == {False}
    assert report.as_dict()["decodability"] is None


def test_small_groups_are_carried_and_named(tmp_path: Path) -> None:
    data = gaussian_groups((200, 60, 60, 60), 6, seed=0)
    keep = np.flatnonzero(data.groups.ids != 2)
    rows = np.concatenate([keep, np.flatnonzero(data.groups.ids == 2)[:1]])
    plan = replace(make_plan(rows.size, 6), groups=data.groups.take(rows), split=np.zeros(rows.size, dtype=np.int8))
    report = run_diagnose(quick(write_store_of(tmp_path / "f.h5", plan, data.features[rows]), null=20))
    assert report.check is None
    assert any("no subsetting by group: it would keep 1 row" in note for note in report.notes)
    assert report.gaps[1].n_worst == 1 or report.gaps[1].n_best == 1


def test_rows_are_thinned_with_the_shares_of_the_groups(tmp_path: Path) -> None:
    report = run_diagnose(quick(planted(tmp_path / "f.h5", 3, counts=(900, 60, 60, 900), spurious=2.0), max_rows=300))
    assert len(report.groups) == pytest.approx(300, abs=4)
    assert report.groups.counts.min() >= 9
    assert any("training rows used" in note for note in report.notes)


def test_what_cannot_be_diagnosed_is_said(tmp_path: Path) -> None:
    n = 90
    base = make_plan(n)
    cases = (
        (np.zeros(n, dtype=int), ("a",), np.zeros(n), DataError, r"one class \(a\)"),
        (np.zeros(n, dtype=int), ("a", "b"), np.zeros(n), GroupError, "without training rows: b"),
        (np.arange(n) % 2, ("a", "b"), np.full(n, 2), DataError, "no training rows"),
        (np.arange(n) == 0, ("a", "b"), np.zeros(n), DataError, "'b' has one training row"),
    )
    for i, (labels, names, split, error, text) in enumerate(cases):
        groups = Groups.from_arrays(labels.astype(int), np.arange(n) % 2, class_names=names)
        plan = replace(base, groups=groups, split=split.astype(np.int8))
        with pytest.raises(error, match=text):
            run_diagnose(quick(write_store_of(tmp_path / f"{i}.h5", plan)))


@pytest.mark.parametrize(
    "changes",
    [{"folds": 1}, {"l2": ()}, {"l2": (0.0,)}, {"alpha": 1.0}, {"permutations": 0}, {"ratio": 0.5}, {"max_rows": 0}],
)
def test_bad_settings(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        quick(Path("f.h5"), **changes)
