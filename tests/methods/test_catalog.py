"""Every method by name: what it says of itself is true, and settings come from text."""

import re
import textwrap
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import numpy as np
import pytest
from planted import planted, three_classes

from grobust.errors import ConfigError, GroupError
from grobust.groups import Groups
from grobust.methods import (
    AFR,
    DFR,
    METHODS,
    SELF,
    Features,
    LabelNeeds,
    Labels,
    Method,
    check_attributes,
    halves,
    known_method,
    make_method,
)
from grobust.methods.choose import choose
from grobust.methods.method import require_groups
from grobust.metrics import group_metrics
from grobust.probe import Probe
from grobust.settings import BalanceBy, BalanceMethod, SelectBy

TRAIN, VAL = planted(1, (300, 30, 40, 250)), planted(2, (60, 50, 40, 70))
# Small enough that all methods run in seconds.
QUICK = {
    "afr": {"gamma": "1,8", "strengths": "0,0.1", "steps": "30"},
    "self": {"steps": "20", "rows": "20"},
    "dfr": {"retrains": "2"},
    "dfr-train": {"retrains": "2"},
    "cvar-dro": {"alpha": "0.3", "l2": "0.1,1"},
    "group-dro": {"l2": "0.1,1"},
}


def quick(name: str, select: SelectBy | None = SelectBy.WORST_CLASS) -> Method:
    return make_method(name, QUICK.get(name, {}), select=select)


def shuffled(rows: Features, seed: int = 0) -> Features:
    """The same rows with attributes of other rows."""
    groups = rows.groups
    attributes = np.random.default_rng(seed).permutation(groups.attributes)
    return rows.with_groups(Groups(groups.labels, attributes, groups.class_names, groups.attribute_names))


@pytest.mark.parametrize("name", list(METHODS))
def test_methods_are_frozen_and_say_what_they_are(name: str) -> None:
    method = METHODS[name]
    assert isinstance(method, Method)
    assert method.about.title
    assert method.about.source[-4:].isdigit() or method.about.source.endswith(")")
    assert method.about.cost
    assert isinstance(method.needs, LabelNeeds)
    with pytest.raises(FrozenInstanceError):
        setattr(method, fields(method)[0].name, None)
    assert hash(method) == hash(replace(method))


@pytest.mark.parametrize("name", list(METHODS))
def test_the_ledger_is_honest(name: str) -> None:
    """Attributes that a method says it does not read do not change its head; those it needs do."""
    method = quick(name)
    before = method(TRAIN, VAL, seed=1)
    needs = method.needs
    assert needs.selection <= Labels.CLASS
    train = TRAIN if needs.train is Labels.GROUP else shuffled(TRAIN)
    val = VAL if needs.reweighting is Labels.GROUP else shuffled(VAL)
    after = method(train, val, seed=1)
    np.testing.assert_array_equal(before.probe.weight, after.probe.weight)
    assert before.chosen == after.chosen
    if needs.needs_attributes:
        changed = method(shuffled(TRAIN), shuffled(VAL), seed=1)
        assert not np.array_equal(before.probe.weight, changed.probe.weight)


@pytest.mark.parametrize("name", list(METHODS))
def test_no_class_label_is_read_that_is_not_needed(name: str) -> None:
    method = quick(name)
    before = method(TRAIN, VAL, seed=1)
    if method.needs.train is Labels.NONE:
        flipped = Groups(
            1 - TRAIN.labels, TRAIN.groups.attributes, TRAIN.groups.class_names, TRAIN.groups.attribute_names
        )
        after = method(TRAIN.with_groups(flipped), VAL, seed=1)
        np.testing.assert_array_equal(before.probe.weight, after.probe.weight)
    else:
        assert method.needs.train in (Labels.CLASS, Labels.GROUP)


@pytest.mark.parametrize("name", list(METHODS))
def test_seeds_repeat_and_matter_where_they_are_said_to(name: str) -> None:
    method = quick(name, None)
    first, again, other = (method(TRAIN, VAL, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.probe.weight, again.probe.weight)
    if not method.about.random:
        np.testing.assert_array_equal(first.probe.weight, other.probe.weight)
    elif name != "clusters":
        # SELF may choose the ERM head both times; what it tried is other heads.
        assert first.tried != other.tried or not np.array_equal(first.probe.weight, other.probe.weight)


@pytest.mark.parametrize("name", list(METHODS))
def test_three_classes_and_float64(name: str) -> None:
    rows = three_classes()
    wide = Features(rows.values.astype(np.float64), rows.groups)
    fit = quick(name, None)(wide, wide, seed=1)
    assert fit.probe.weight.shape == (3, 6)
    assert group_metrics(fit.probe.predict(rows.values), rows.groups).average.value > 0.45
    assert np.isin(fit.held_out, np.arange(len(rows))).all()


def test_settings_from_text() -> None:
    assert make_method("dfr", {"retrains": "none"}) == DFR()
    found = make_method("afr", {"gamma": "1, 2.5", "steps": "7", "erm_share": "0.5"}, select=SelectBy.AVERAGE)
    assert found == AFR(gamma=(1.0, 2.5), steps=7, erm_share=0.5, select=SelectBy.AVERAGE)
    assert make_method("self", {"rows": "3,4", "criterion": "misclassification"}).rows == (3, 4)
    assert isinstance(make_method("self", {}), SELF)
    erm = make_method("erm", {"method": "mixture", "by": "group"})
    assert (erm.method, erm.by) == (BalanceMethod.MIXTURE, BalanceBy.GROUP)
    assert make_method("crt", {"reweight": "true"}) == METHODS["reweight-crt"]
    assert make_method("llr", {}, select=SelectBy.AVERAGE) == METHODS["llr"]
    assert make_method("erm", {"select": "average"}, select=SelectBy.WGA).select is SelectBy.AVERAGE


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("drf", {}, "Did you mean 'dfr'"), ("dfr", {"retrain": "3"}, "Did you mean 'retrains'"),
        ("dfr", {"retrains": "many"}, "an integer"), ("afr", {"gamma": "1,x"}, "a number"),
        ("crt", {"reweight": "maybe"}, "true or false"), ("dfr", {"data": "test"}, "validation, train"),
        ("afr", {"steps": "0"}, "positive"),
    ],
)  # fmt: skip
def test_bad_names_and_settings(name: str, settings: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        make_method(name, settings)


def test_methods_that_need_attributes_are_refused_by_name() -> None:
    one = Groups.from_arrays(TRAIN.labels)
    with pytest.raises(GroupError, match=r"needed by dfr, subg.*\n.*do without: erm, suby, rwy, llr"):
        check_attributes({name: METHODS[name] for name in ("erm", "dfr", "subg")}, one)
    check_attributes({"erm": METHODS["erm"], "afr": METHODS["afr"]}, one)
    check_attributes(METHODS, TRAIN.groups)
    with pytest.raises(GroupError, match="one attribute value only"):
        require_groups("X", TRAIN.take(np.flatnonzero(TRAIN.groups.attributes == 0)).groups, "training")
    assert known_method("dfr") is METHODS["dfr"]


def test_a_class_absent_from_validation_is_said() -> None:
    lost = VAL.take(np.flatnonzero(VAL.labels == 0))
    for name, method in METHODS.items():
        if name in ("llr", "cb-llr"):
            continue
        with pytest.raises(GroupError, match=r"y1|class"):
            method(TRAIN, lost, seed=1)
    for name in ("llr", "cb-llr"):
        with pytest.raises(GroupError, match="y1"):
            METHODS[name](TRAIN, lost, seed=1)


def test_the_halves_are_the_published_shuffle() -> None:
    ids = np.arange(599 + 600)
    shuffle = ids.copy()
    np.random.default_rng(3).shuffle(shuffle)
    mine, others = halves(ids.size, 3)
    assert (mine.size, others.size) == (599, 600)
    assert set(mine.tolist()) == set(shuffle[:599].tolist())
    assert np.array_equal(np.sort(np.concatenate([mine, others])), ids)


def test_the_example_of_contributing_is_a_method() -> None:
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, object] = {"__name__": "example"}
    exec(compile(textwrap.dedent("  " + example.lstrip()), "CONTRIBUTING.md", "exec"), scope)
    method = scope["EvenGroups"]()
    assert isinstance(method, Method)
    expected = make_method("rwg", {"l2": "1e-3,1e-2,1e-1"}, select=SelectBy.WORST_CLASS)(TRAIN, VAL, seed=1)
    np.testing.assert_array_equal(method(TRAIN, VAL, seed=1).probe.weight, expected.probe.weight)


def test_choosing_takes_the_first_of_equals() -> None:
    probe = Probe(np.zeros((2, 10)), np.array([1.0, 0.0]))
    pick, tried = choose([probe, probe], [{"l2": 1.0}, {"l2": 2.0}], VAL, SelectBy.AVERAGE)
    assert pick == 0
    assert tried[0].score == tried[1].score == pytest.approx((VAL.labels == 0).mean())
    nothing = VAL.take(np.zeros(0, dtype=np.int64))
    assert choose([probe], [{}], nothing, SelectBy.WGA)[0] == 0
    with pytest.raises(GroupError, match="no validation rows"):
        choose([probe, probe], [{}, {}], nothing, SelectBy.WGA)
