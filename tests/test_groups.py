"""Groups: one id convention, empty groups kept, minority and majority as the paper defines them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grobust.errors import GroupError, ShapeError
from grobust.groups import Groups, GroupScheme


def test_ids_follow_the_one_convention() -> None:
    groups = Groups.from_arrays([0, 0, 1, 1, 2], [0, 1, 0, 1, 1])
    assert groups.ids.tolist() == [0, 1, 2, 3, 5]
    assert groups.names == ("y0 / a0", "y0 / a1", "y1 / a0", "y1 / a1", "y2 / a0", "y2 / a1")
    assert groups.counts.tolist() == [1, 1, 1, 1, 0, 1]
    assert groups.class_counts.tolist() == [2, 2, 1]


def test_empty_and_one_member_groups_are_kept_and_named(tiny_groups: Groups) -> None:
    assert tiny_groups.n_groups == 6
    assert tiny_groups.counts.tolist() == [40, 1, 25, 10, 30, 0]
    assert tiny_groups.names[5] == "pos / neg-word"
    assert tiny_groups.take(tiny_groups.labels == 0).counts.tolist() == [40, 1, 0, 0, 0, 0]


def test_minority_and_majority() -> None:
    waterbirds = np.repeat(np.arange(4), [3498, 184, 56, 1057])
    groups = Groups.from_arrays(waterbirds // 2, waterbirds % 2)
    assert [groups.minority_group(y) for y in (0, 1)] == [1, 2]
    assert [groups.majority_group(y) for y in (0, 1)] == [0, 3]


@pytest.mark.parametrize("counts", [[5, 5], [5, 0], [0, 0], [7, 7, 3], [3, 3, 9]])
def test_ties_and_single_groups_have_no_minority(counts: list[int]) -> None:
    attributes = np.repeat(np.arange(len(counts)), counts)
    names = [f"a{i}" for i in range(len(counts))]
    groups = Groups.from_arrays(np.zeros_like(attributes), attributes, class_names=["y"], attribute_names=names)
    assert groups.minority_group(0) is None
    assert groups.majority_group(0) is None


def test_without_attributes_groups_are_classes() -> None:
    groups = Groups.from_arrays([0, 1, 1], class_names=("cat", "dog"))
    assert groups.names == ("cat", "dog")
    assert groups.counts.tolist() == [1, 2]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=200))
def test_counts_equal_a_plain_count(cells: list[tuple[int, int]]) -> None:
    groups = Groups.from_arrays([y for y, _ in cells], [a for _, a in cells])
    assert groups.counts.sum() == len(cells)
    for y in range(groups.n_classes):
        assert groups.class_counts[y] == sum(1 for label, _ in cells if label == y)
        for a in range(groups.n_attributes):
            assert groups.counts[y * groups.n_attributes + a] == cells.count((y, a))


def test_scheme_of_disjoint_groups(tiny_groups: Groups) -> None:
    scheme = tiny_groups.scheme()
    assert scheme.names == tiny_groups.names
    assert scheme.counts.tolist() == tiny_groups.counts.tolist()


@pytest.mark.parametrize(
    ("labels", "attributes", "error", "text"),
    [
        ([0, -1], None, GroupError, "row 1 has -1"),
        ([0.5, 1.0], None, GroupError, "dtype float64"),
        ([0, 1], [0], ShapeError, "2 rows and attributes 1"),
        ([[0, 1]], None, ShapeError, "one dimension"),
        ([0, 7], None, GroupError, "label 7"),
    ],
)
def test_bad_input(labels: object, attributes: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Groups.from_arrays(labels, attributes, class_names=("a", "b", "c"))


def test_repeated_names_are_refused() -> None:
    with pytest.raises(GroupError, match="repeat"):
        Groups.from_arrays([0, 1], class_names=("a", "a"))


def test_scheme_shape_is_checked() -> None:
    with pytest.raises(ShapeError, match=r"expected \(n, 2\)"):
        GroupScheme(("a", "b"), np.zeros((3, 3), dtype=bool))
