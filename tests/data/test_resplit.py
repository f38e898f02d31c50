"""Splits by a rule: who goes where, by definition; equal items stay together; other splits have another digest."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grobust.data.catalog import load_dataset
from grobust.data.fixtures import write_image_folder
from grobust.data.resplit import SplitKind, parse_split_rule, resplit
from grobust.data.tables import Texts
from grobust.errors import ConfigError, DataError
from grobust.groups import Groups, Split


def texts(contents: list[str], split: list[int] | None = None) -> Texts:
    n = len(contents)
    return Texts(
        name="t", groups=Groups.from_arrays(np.arange(n) % 2, np.arange(n) // 2 % 2, class_names=("a", "b"),
                                            attribute_names=("c", "d")),
        split=np.array(split or [0] * n, dtype=np.int8), sample_ids=tuple(f"r{i}" for i in range(n)),
        texts=tuple(contents),
    )  # fmt: skip


@given(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40), st.integers(0, 5))
def test_equal_items_never_stand_in_two_splits(contents: list[str], seed: int) -> None:
    found = resplit(texts(contents), parse_split_rule(f"content:50/25/25:{seed}"))
    splits: dict[str, set[int]] = {}
    for row, content in enumerate(contents):
        splits.setdefault(content, set()).add(int(found.split[row]))
    assert all(len(each) == 1 for each in splits.values())
    # Rows that are added move no other row.
    more = resplit(texts([*contents, "new"]), parse_split_rule(f"content:50/25/25:{seed}"))
    assert more.split[:-1].tolist() == found.split.tolist()
    assert found.sample_ids == texts(contents).sample_ids


def test_shares_hold_on_average_and_within_groups() -> None:
    data = texts([f"text {i}" for i in range(4000)])
    by_content = resplit(data, parse_split_rule("content:70/10/20"))
    np.testing.assert_allclose(np.bincount(by_content.split) / 4000, [0.7, 0.1, 0.2], atol=0.03)
    by_fraction = resplit(data, parse_split_rule("fraction:70/10/20:4"))
    for split, n in zip(Split, (700, 100, 200), strict=True):
        assert by_fraction.groups.take(by_fraction.split == split).counts.tolist() == [n] * 4
    other = resplit(data, parse_split_rule("fraction:70/10/20:5"))
    assert other.split.tolist() != by_fraction.split.tolist()
    assert len({data.digest, by_content.digest, by_fraction.digest, other.digest}) == 4
    assert resplit(data, parse_split_rule("fraction:70/10/20:4")).digest == by_fraction.digest
    assert by_fraction.name == "t[fraction:70/10/20:4]"


def test_the_held_out_half_of_a_data_set() -> None:
    split = [0] * 10 + [1] * 9 + [2] * 5
    data = texts([str(i) for i in range(24)], split)
    found = resplit(data, parse_split_rule("half:2"))
    shuffled = np.arange(10, 19)
    np.random.default_rng(2).shuffle(shuffled)
    assert {found.sample_ids[i] for i in np.flatnonzero(found.split == Split.TRAIN)} == {f"r{i}" for i in shuffled[:4]}
    assert {found.sample_ids[i] for i in np.flatnonzero(found.split == Split.VAL)} == {f"r{i}" for i in shuffled[4:]}
    assert [found[i] for i in np.flatnonzero(found.split == Split.TEST)] == [str(i) for i in range(19, 24)]
    assert found.groups.names == data.groups.names
    with pytest.raises(DataError, match="no half to hold out"):
        resplit(texts(["a", "b", "c"]), parse_split_rule("half"))


def test_content_of_images_is_their_pixels_and_progress_is_told(tmp_path: Path) -> None:
    write_image_folder(tmp_path, per_group=3)
    calls: list[tuple[int, int]] = []
    data = load_dataset("image_folder", data_dir=tmp_path, split="content:1/1/1",
                        on_progress=lambda done, total: calls.append((done, total)))  # fmt: skip
    n = len(data)
    assert calls == [(i + 1, n) for i in range(n)]
    assert set(data.split.tolist()) == {0, 1, 2}
    by_pixels = {data[i].tobytes(): int(data.split[i]) for i in range(n)}
    renamed = tmp_path / "train" / "cat" / "outside"
    for path in list(renamed.iterdir()):
        path.rename(path.with_name(f"z{path.name}"))
    again = load_dataset("image_folder", data_dir=tmp_path, split="content:1/1/1")
    assert all(by_pixels[again[i].tobytes()] == again.split[i] for i in range(n))


@pytest.mark.parametrize(
    "text",
    ["", "thirds", "half:x", "half:1:2", "half:-1", "fraction", "fraction:1/2", "fraction:a/b/c", "content:0/0/0",
     "content:-1/1/1", "fraction:nan/1/1", "fraction:1/1/1:1:1", "fraction:inf/1/1"],
)  # fmt: skip
def test_no_rule(text: str) -> None:
    with pytest.raises(ConfigError, match="Expected half"):
        parse_split_rule(text)


@given(st.sampled_from(SplitKind), st.tuples(*[st.integers(1, 99)] * 3), st.integers(0, 999))
def test_rules_read_back(kind: SplitKind, shares: tuple[int, int, int], seed: int) -> None:
    text = f"half:{seed}" if kind is SplitKind.HALF else f"{kind}:{'/'.join(map(str, shares))}:{seed}"
    assert str(parse_split_rule(text)) == text
