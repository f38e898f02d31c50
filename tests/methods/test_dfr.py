"""DFR against its published recipe, written as loops over scikit-learn's liblinear."""

from dataclasses import replace

import numpy as np
import pytest
from planted import planted, three_classes
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from grobust.balancing import Subsetting
from grobust.errors import ConfigError, GroupError
from grobust.groups import Groups
from grobust.methods import DFR, Features, halves
from grobust.methods.dfr import DfrData, DfrScaler, _seed
from grobust.metrics import group_metrics
from grobust.probe import Probe
from grobust.settings import BalanceBy, SelectBy

TRAIN = planted(1, (300, 20, 25, 280))
VAL = planted(2, (70, 40, 45, 60))
STRENGTHS = (1.0, 0.3, 0.03)


def subset(groups: Groups, seed: int) -> np.ndarray:
    """n_min rows of each group: the walk along a permutation."""
    taken: dict[int, list[int]] = {g: [] for g in range(4)}
    for row in np.random.default_rng(seed).permutation(len(groups)).tolist():
        own = taken[int(groups.ids[row])]
        if len(own) < groups.counts.min():
            own.append(row)
    return np.sort(np.concatenate([np.array(own) for own in taken.values()]))


def liblinear(x: np.ndarray, y: np.ndarray, c: float, weights: dict[int, float] | None = None) -> LogisticRegression:
    model = LogisticRegression(
        C=c, l1_ratio=1.0, solver="liblinear", tol=1e-9, max_iter=50_000, class_weight=weights, random_state=0
    )
    return model.fit(x, y)


def on_raw(model: LogisticRegression, scaler: StandardScaler) -> tuple[np.ndarray, float]:
    weight = model.coef_[0] / scaler.scale_
    return weight, float(model.intercept_[0] - weight @ scaler.mean_)


def column(probe: Probe) -> tuple[np.ndarray, float]:
    return probe.weight[1] - probe.weight[0], float(probe.bias[1] - probe.bias[0])


@pytest.mark.parametrize("scaler", list(DfrScaler))
def test_validation_recipe_head_by_head(scaler: DfrScaler) -> None:
    fit = DFR(inverse_strengths=STRENGTHS, retrains=3, scaler=scaler, rtol=1e-9)(TRAIN, VAL, seed=5)
    mine, others = halves(len(VAL), 5)
    part, chooser = VAL.take(mine), VAL.take(others)
    rows = subset(part.groups, _seed(5, 0))
    own = StandardScaler().fit(part.values[rows].astype(np.float64))
    scores = []
    for c in STRENGTHS:
        model = liblinear(own.transform(part.values[rows].astype(np.float64)), part.labels[rows], c)
        predicted = model.predict(own.transform(chooser.values.astype(np.float64)))
        hit = predicted == chooser.labels
        scores.append(min(hit[chooser.groups.ids == g].mean() for g in range(4)))
    assert [tried.score for tried in fit.tried] == pytest.approx(scores)
    best, rows_of_half = STRENGTHS[int(np.argmax(scores))], rows
    assert fit.chosen == {"inverse_strength": best}
    final = StandardScaler().fit((TRAIN if scaler is DfrScaler.TRAIN else VAL).values.astype(np.float64))
    weights, biases = [], []
    for i in range(3):
        rows = subset(VAL.groups, _seed(5, 1 + i))
        weight, bias = on_raw(
            liblinear(final.transform(VAL.values[rows].astype(np.float64)), VAL.labels[rows], best), final
        )
        found = column(fit.members[i])
        np.testing.assert_allclose(found[0], weight, atol=2e-4)
        assert found[1] == pytest.approx(bias, abs=2e-4)
        weights.append(weight)
        biases.append(bias)
    np.testing.assert_allclose(column(fit.probe)[0], np.mean(weights, axis=0), atol=2e-4)
    assert column(fit.probe)[1] == pytest.approx(np.mean(biases), abs=2e-4)
    np.testing.assert_array_equal(fit.held_out, others)
    np.testing.assert_array_equal(
        fit.judged.predict(chooser.values),
        liblinear(own.transform(part.values[rows_of_half].astype(np.float64)), part.labels[rows_of_half], best).predict(
            own.transform(chooser.values.astype(np.float64))
        ),
    )


def test_train_recipe_with_class_weights() -> None:
    method = DFR(data=DfrData.TRAIN, inverse_strengths=(0.3, 0.1), class_weights=(1.0, 3.0), retrains=2, rtol=1e-9)
    fit = method(TRAIN, VAL, seed=2)
    scaler = StandardScaler().fit(TRAIN.values.astype(np.float64))
    x = scaler.transform(TRAIN.values.astype(np.float64))
    rows = subset(TRAIN.groups, _seed(2, 0))
    table = {}
    for c in (0.3, 0.1):
        for pair in ((1.0, 1.0), (1.0, 3.0), (3.0, 1.0)):
            model = liblinear(x[rows], TRAIN.labels[rows], c, dict(enumerate(pair)))
            predicted = model.predict(scaler.transform(VAL.values.astype(np.float64)))
            table[c, pair] = group_metrics(predicted, VAL.groups).wga.value
    assert [tried.score for tried in fit.tried] == pytest.approx(list(table.values()))
    c, pair = max(table, key=lambda key: table[key])
    assert fit.chosen == {"inverse_strength": c, "class_weight_0": pair[0], "class_weight_1": pair[1]}
    for i, member in enumerate(fit.members):
        rows = subset(TRAIN.groups, _seed(2, 1 + i))
        weight, bias = on_raw(liblinear(x[rows], TRAIN.labels[rows], c, dict(enumerate(pair))), scaler)
        np.testing.assert_allclose(column(member)[0], weight, atol=2e-4)
        assert column(member)[1] == pytest.approx(bias, abs=2e-4)
    np.testing.assert_array_equal(fit.held_out, np.arange(len(VAL)))


def test_three_classes_are_multinomial() -> None:
    rows = three_classes()
    fit = DFR(inverse_strengths=(0.3,), retrains=1, scaler=DfrScaler.REWEIGHTING, rtol=1e-9)(rows, rows, seed=1)
    sample = Subsetting(by=BalanceBy.GROUP).sample(rows.groups, seed=_seed(1, 1)).indices
    scaler = StandardScaler().fit(rows.values.astype(np.float64))
    model = LogisticRegression(C=0.3, l1_ratio=1.0, solver="saga", tol=1e-9, max_iter=20_000, random_state=0)
    model.fit(scaler.transform(rows.values[sample].astype(np.float64)), rows.labels[sample])
    ours = fit.probe.weight * scaler.scale_
    np.testing.assert_allclose(ours, model.coef_, atol=2e-3)
    found = fit.probe.predict(rows.values)
    assert (found == model.predict(scaler.transform(rows.values.astype(np.float64)))).mean() > 0.995


def test_published_grid_and_counts() -> None:
    method = DFR()
    assert (len(method.inverse_strengths), method._retrains, replace(method, data=DfrData.TRAIN)._retrains) == (
        7,
        20,
        10,
    )
    fit = method(TRAIN, VAL, seed=1)
    assert len(fit.members) == 20
    assert len({m.weight.tobytes() for m in fit.members}) == 20
    np.testing.assert_allclose(fit.probe.weight, sum(m.weight for m in fit.members) / 20)


def test_one_row_in_a_group_is_said() -> None:
    rows = planted(4, (60, 2, 40, 40))
    fit = DFR(inverse_strengths=(1.0,), retrains=2)(TRAIN, rows, seed=3)
    assert fit.details["subset_rows"] == 8
    single = planted(4, (60, 1, 40, 40))
    fit = DFR(data=DfrData.TRAIN, inverse_strengths=(1.0,), retrains=2)(single, VAL, seed=3)
    assert any("only 1 training row in y0 / a1" in note for note in fit.notes)


def test_what_cannot_be_done_is_said() -> None:
    one = Features(VAL.values, Groups.from_arrays(VAL.labels))
    with pytest.raises(GroupError, match="needs group labels, and the validation rows have one attribute value"):
        DFR()(TRAIN, one, seed=1)
    names = ("y0", "y1")
    lost = VAL.take(np.flatnonzero(VAL.labels == 0))
    lost = lost.with_groups(Groups(lost.labels, lost.groups.attributes, names, ("a0", "a1")))
    with pytest.raises(GroupError, match="no row of class"):
        DFR()(TRAIN, lost, seed=1)
    with pytest.raises(GroupError, match="to choose on have no row of class"):
        DFR(data=DfrData.TRAIN)(TRAIN, lost, seed=1)
    with pytest.raises(ConfigError, match="two classes"):
        DFR(class_weights=(1.0, 2.0))(three_classes(), three_classes(), seed=1)
    for bad in ({"retrains": 0}, {"inverse_strengths": ()}, {"inverse_strengths": (-1.0,)}):
        with pytest.raises(ConfigError):
            DFR(**bad)
    assert DFR(select=SelectBy.WORST_CLASS).needs.selection.kinds == ("class",)
