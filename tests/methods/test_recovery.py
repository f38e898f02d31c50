"""On groups with a planted spurious direction ERM leans on it, and methods that should recover the core do."""

import pytest
from planted import direction, planted, train, validation, wga

from grobust.methods import METHODS

TEST = planted(3, (1000, 1000, 1000, 1000))
RECOVER = ("subg", "rwg", "dfr", "dfr-train", "group-dro", "crt", "reweight-crt", "group-logit-adjustment", "jtt",
           "llr", "cb-llr", "rad-uw")  # fmt: skip


@pytest.mark.parametrize("name", RECOVER)
def test_the_core_direction_is_recovered(name: str) -> None:
    fit = METHODS[name](train(), validation(), seed=1)
    found = direction(fit.probe)
    assert found[0] > 0.94
    assert abs(found[1]) < 0.08
    # The core alone allows Φ(1.5) = 0.933 in every group.
    assert wga(fit.probe, TEST) > 0.88


def test_erm_leans_on_the_spurious_direction() -> None:
    fit = METHODS["erm"](train(), validation(), seed=1)
    found = direction(fit.probe)
    assert found[0] < 0.945
    assert found[1] > 0.3
    assert wga(fit.probe, TEST) < 0.7


@pytest.mark.parametrize("name", ["afr", "self", "ula", "evals", "environments"])
def test_methods_without_group_labels_in_training_gain(name: str) -> None:
    rows = train(scale=4)
    erm = METHODS["erm"](rows, validation(), seed=1).probe
    fit = METHODS[name](rows, validation(), seed=1)
    assert wga(fit.probe, TEST) > wga(erm, TEST) + 0.04
    assert abs(direction(fit.probe)[1]) < direction(erm)[1] - 0.05


def test_afr_drops_the_spurious_direction() -> None:
    """What is left of the angle is the noise of a head that a few dozen rows decide."""
    rows, held_out = planted(5, (8000, 200, 200, 8000)), planted(7, (400, 400, 400, 400))
    erm = METHODS["erm"](rows, held_out, seed=1).probe
    fit = METHODS["afr"](rows, held_out, seed=1)
    assert direction(erm)[1] > 0.3
    assert abs(direction(fit.probe)[1]) < 0.05
    assert direction(fit.probe)[0] > 0.8
    assert wga(fit.probe, TEST) > wga(erm, TEST) + 0.2
