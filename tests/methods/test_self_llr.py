"""SELF: scores by loops, rows taken, and what the head is trained on."""

import numpy as np
import pytest
from planted import losses, planted, train, validation

from grobust.errors import ConfigError, GroupError
from grobust.groups import Groups
from grobust.methods import SELF, Features, halves
from grobust.methods._early import early_head, trained_head
from grobust.methods.choose import erm_head
from grobust.methods.self_llr import SelfCriterion
from grobust.probe import Probe

ROWS, VAL = planted(1, (300, 20, 20, 300)), planted(2, (80, 60, 60, 80))


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def scores_of(criterion: SelfCriterion, rows: Features, erm: Probe, seed: int = 1) -> np.ndarray:
    ((_, found),) = SELF(criterion=criterion, dropout=(0.5,))._scores(ROWS, rows, erm, seed)
    return found


@pytest.mark.parametrize("criterion", list(SelfCriterion))
def test_scores_are_what_is_written(criterion: SelfCriterion) -> None:
    erm, early = erm_head(ROWS, 1e-4).probe, trained_head(ROWS, 1, 1)
    found = scores_of(criterion, VAL, erm)
    final = softmax(erm.logits(VAL.values))
    if criterion is SelfCriterion.MISCLASSIFICATION:
        np.testing.assert_allclose(found, losses(erm.weight, erm.bias, VAL.values, VAL.labels), atol=1e-12)
    elif criterion is SelfCriterion.EARLY_MISCLASSIFICATION:
        np.testing.assert_allclose(found, losses(early.weight, early.bias, VAL.values, VAL.labels), atol=1e-12)
    elif criterion is SelfCriterion.EARLY:
        other = softmax(early.logits(VAL.values))
        for i in range(len(VAL)):
            divergence = sum(other[i, k] * np.log(other[i, k] / final[i, k]) for k in range(2))
            assert found[i] == pytest.approx(divergence, rel=1e-6, abs=1e-12)
    else:
        # A divergence: never negative, and nothing where dropout leaves the logits as they are.
        assert (found >= -1e-12).all()
        still = Features(np.zeros_like(VAL.values), VAL.groups)
        np.testing.assert_allclose(scores_of(criterion, still, erm), 0, atol=1e-12)
        np.testing.assert_array_equal(found, scores_of(criterion, VAL, erm))
        assert not np.array_equal(found, scores_of(criterion, VAL, erm, seed=2))


def test_an_early_checkpoints_features_are_used() -> None:
    """Early features that carry nothing but the attribute: the rows taken are those that the attribute misleads."""
    sees = [Features(r.values, r.groups, early=r.values[:, 1:2].copy()) for r in (ROWS, VAL)]
    head = early_head(sees[0], 1e-4, 1, 1)
    assert head.weight.shape == (2, 1)
    method = SELF(criterion=SelfCriterion.EARLY_MISCLASSIFICATION, rows=(30,), learning_rate=(1e-2,))
    fit = method(*sees, seed=1)
    taken = {name: fit.details[f"taken[{name}]"] for name in VAL.groups.names}
    if fit.chosen["rows"]:
        assert taken["y0 / a1"] + taken["y1 / a0"] > 0.9 * 30
    scores = [tried.score for tried in fit.tried]
    assert len(scores) == 2
    assert scores[1] > scores[0]


def test_the_erm_head_takes_part_and_rows_are_of_the_half() -> None:
    fit = SELF(rows=(5, 10_000), learning_rate=(1e-6, 1e-2), steps=20)(ROWS, VAL, seed=4)
    mine, others = halves(len(VAL), 4)
    np.testing.assert_array_equal(fit.held_out, others)
    assert fit.tried[0].settings == {"rows": 0.0, "learning_rate": 0.0}
    assert {tried.settings["rows"] for tried in fit.tried} == {0.0, 5.0, float(mine.size)}
    assert max(tried.score for tried in fit.tried) == next(
        tried.score for tried in fit.tried if tried.settings == fit.chosen
    )


def test_all_dropout_rates_are_tried() -> None:
    fit = SELF(criterion=SelfCriterion.DROPOUT, rows=(20,), learning_rate=(1e-3,), steps=10)(ROWS, VAL, seed=1)
    assert [tried.settings.get("dropout") for tried in fit.tried] == [None, 0.5, 0.7, 0.9]


def test_rows_of_one_class_only() -> None:
    """The rows of largest loss may all be of one class: draws are balanced over what there is."""
    mine, others = halves(len(VAL), 1)
    labels = VAL.labels.copy()
    one_sided = VAL.take(mine).groups
    labels[mine[:-1]] = 0
    labels[mine[-1]] = 1
    rows = Features(VAL.values, Groups(labels, VAL.groups.attributes, one_sided.class_names, one_sided.attribute_names))
    fit = SELF(rows=(3,), steps=10)(ROWS, rows, seed=1)
    assert np.isfinite(fit.probe.weight).all()
    assert others.size == fit.held_out.size


def test_it_gains_on_the_worst_group() -> None:
    fit = SELF()(train(scale=4), validation(), seed=1)
    assert fit.chosen["rows"] > 0


def test_what_cannot_be_done_is_said() -> None:
    for bad in ({"rows": ()}, {"rows": (0,)}, {"dropout": (1.0,)}, {"steps": 0}, {"learning_rate": ()}):
        with pytest.raises(ConfigError):
            SELF(**bad)
    with pytest.raises(GroupError, match="fewer than two"):
        SELF()(ROWS, VAL.take(np.zeros(1, dtype=np.int64)), seed=1)
