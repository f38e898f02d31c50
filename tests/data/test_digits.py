"""Digits: group shares of the paper's tables, real digits used once, colours that carry the attribute."""

import pickle

import numpy as np
import pytest

from grobust.data.digits import TINTS, load_digits
from grobust.errors import DataError
from grobust.groups import Split

TABLES = {
    "waterbirds": [(3498, 184, 56, 1057), (467, 466, 133, 133), (2255, 2255, 642, 642)],
    "celeba": [(71629, 66874, 22880, 1387), (8535, 8276, 2874, 182), (9767, 7535, 2480, 180)],
}


@pytest.mark.parametrize("preset", TABLES)
def test_shares_follow_the_paper(preset: str) -> None:
    data = load_digits(preset)
    for split, table in zip(Split, TABLES[preset], strict=True):
        counts = data.groups.take(data.split == split).counts
        np.testing.assert_allclose(counts, np.array(table) / sum(table) * counts.sum(), atol=1.0)
    assert len(set(data.sample_ids)) == len(data)


def test_label_and_colour_are_in_the_image() -> None:
    data = load_digits("celeba")
    rng = np.random.default_rng(0)
    for row in rng.integers(len(data), size=50).tolist():
        image = data[row]
        assert (image.mode, image.size) == ("RGB", (28, 28))
        brightest = np.asarray(image).reshape(-1, 3).max(axis=0)
        np.testing.assert_allclose(
            brightest / brightest.max(), np.array(TINTS[data.groups.attributes[row]]) / 240, atol=0.05
        )


def test_tasks_differ_in_labels_only_by_their_rule() -> None:
    by_size, by_parity = load_digits("uniform", "ge5"), load_digits("uniform", "parity")
    assert by_size.groups.class_names == ("digit < 5", "digit >= 5")
    assert by_parity.groups.counts.tolist() == by_size.groups.counts.tolist() == [1250] * 4
    assert by_size.digest != by_parity.digest


def test_it_is_the_same_every_time_and_pickles() -> None:
    data = load_digits()
    assert pickle.loads(pickle.dumps(data)).digest == data.digest == load_digits("waterbirds").digest


def test_unknown_variant() -> None:
    with pytest.raises(DataError, match=r"Presets: waterbirds, celeba, celeba-even, uniform"):
        load_digits("birds")
