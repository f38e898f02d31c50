"""Many heads counted in one pass, against each head's own float64 predictions."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest
from helpers import make_plan, write_store_of

from grobust.balancing import make_balancer
from grobust.errors import ShapeError
from grobust.features.store import FeatureStore
from grobust.groups import Groups, Split
from grobust.metrics import group_metrics
from grobust.probe import LBFGS, SGD, Head, Probe, TrainHead, evaluate_probes, fit_probes, logits_by_block, train_heads
from grobust.settings import BalanceMethod


def problem(n: int, k: int, d: int = 12, dtype: str = "float32") -> tuple[np.ndarray, Groups, list[Probe]]:
    """Features with a large mean, and five heads of which some predict well."""
    rng = np.random.default_rng(k)
    y, a = rng.integers(k, size=n), rng.integers(2, size=n)
    x = (rng.standard_normal((n, d)) + 2 * np.eye(k, d)[y] + 50).astype(dtype)
    weights = [rng.standard_normal((k, d)) + s * np.eye(k, d) for s in range(5)]
    probes = [Probe(w, -(w @ np.full(d, 50.0))) for w in weights]
    return x, Groups.from_arrays(y, a), probes


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("n", [1, 700, 3000])
def test_counts_are_those_of_each_head(n: int, k: int, dtype: str) -> None:
    x, groups, probes = problem(n, k, dtype=dtype)
    if groups.n_classes < k:
        groups = Groups(groups.labels, groups.attributes, tuple("abc"[:k]), groups.attribute_names)
    counts = np.arange(groups.n_groups) + 1
    for probe, found in zip(probes, evaluate_probes(probes, x, groups, train_counts=counts), strict=True):
        expected = group_metrics(probe.predict(x), groups, train_counts=counts)
        np.testing.assert_array_equal(found.correct, expected.correct)
        assert found.as_dict() == expected.as_dict()


def test_a_tie_goes_to_the_first_class() -> None:
    x, groups, _ = problem(40, 2)
    (found,) = evaluate_probes([Probe(np.zeros((2, 12)), np.zeros(2))], x, groups)
    assert found.n_correct == (groups.labels == 0).sum()


def test_general_array_code_agrees() -> None:
    x, groups, probes = problem(500, 3)
    strict = [Probe(array_api_strict.asarray(p.weight), array_api_strict.asarray(p.bias)) for p in probes]
    for a, b in zip(evaluate_probes(strict, array_api_strict.asarray(x), groups), evaluate_probes(probes, x, groups),
                    strict=True):  # fmt: skip
        np.testing.assert_array_equal(a.correct, b.correct)


def test_logits_by_block_are_those_of_each_head() -> None:
    x, _, probes = problem(50_000, 3)
    parts = list(logits_by_block(probes, x))
    assert len(parts) == 2
    assert [start for start, _ in parts] == [0, len(parts[0][1])]
    logits = np.concatenate([block for _, block in parts])
    for i, probe in enumerate(probes):
        np.testing.assert_allclose(logits[:, i], probe.logits(x), rtol=1e-12, atol=1e-9)


def test_what_does_not_fit_is_refused() -> None:
    x, groups, probes = problem(30, 3)
    assert evaluate_probes([], x, groups) == ()
    for args in ((probes, x[:20], groups), (probes, x[:, :4], groups), ([problem(30, 2)[2][0]], x, groups)):
        with pytest.raises(ShapeError, match="do not fit"):
            evaluate_probes(*args)
    none = groups.take(slice(0, 0))
    assert evaluate_probes(probes, x[:0], none)[0].n == 0


def views(tmp_path: Path, dtype: str, together: bool) -> tuple[FeatureStore, Any]:
    x, groups, _ = problem(1500, 2, dtype=dtype)
    split = np.random.default_rng(1).integers(3, size=1500).astype(np.int8)
    plan = replace(
        make_plan(1500, 12, dtype=dtype), groups=groups, split=np.sort(split) if together else split,
        sample_ids=tuple(f"r{i}" for i in range(1500)),
    )  # fmt: skip
    store = FeatureStore(write_store_of(tmp_path / "f.h5", plan, x.astype(np.float32)))
    return store, plan


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_views_of_a_store_give_the_heads_of_arrays(tmp_path: Path, dtype: str, together: bool) -> None:
    """Every route of the engine: all rows, few rows, l1, minibatches; the same numbers from a view as from an array."""
    store, plan = views(tmp_path, dtype, together)
    rows, test_rows = store.rows(Split.TRAIN), store.rows(Split.TEST)
    x, groups, view = store.read()[rows], plan.groups.take(rows), store.view(Split.TRAIN)
    few = np.zeros(rows.size)
    few[: rows.size // 5] = 1
    heads = [Head(l2=1e-2), Head(weights=few, l2=1e-2), Head(l1=1e-2, l2=0)]
    for max_bytes in (1 << 30, 1 << 12):
        got, expected = (
            fit_probes(source, groups.labels, heads, n_classes=2, solver=LBFGS(rtol=1e-8), max_bytes=max_bytes)
            for source in (view, x)
        )
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a.probe.weight, b.probe.weight)
    train = [TrainHead(make_balancer(m).sample(groups, seed=3)) for m in BalanceMethod]
    test = plan.groups.take(test_rows)
    runs = [
        train_heads(source, groups.labels, train, n_classes=2, evaluate={"test": (held, test)}, settings=SGD(epochs=2))
        for source, held in ((view, store.view(Split.TEST)), (x, store.read()[test_rows]))
    ]
    np.testing.assert_array_equal(runs[0].correct["test"], runs[1].correct["test"])
    for a, b in zip(runs[0].probes, runs[1].probes, strict=True):
        np.testing.assert_array_equal(a.weight, b.weight)
