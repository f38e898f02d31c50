"""metadata_csv: any columns, integers or names; what is wrong is said with file, row and column."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from grobust.data.catalog import load_dataset
from grobust.data.metadata_csv import load_metadata_csv
from grobust.data.tables import apportion, stratified_subset, take_rows
from grobust.errors import DataError

WATERBIRDS = """img_id,img_filename,y,split,place,place_filename
1,a/1.jpg,0,0,0,x
2,a/2.jpg,1,1,1,x
3,b/3.jpg,1,2,0,x
4,b/4.jpg,0,2,1,x
"""


def folder_with(tmp_path: Path, csv: str, images: tuple[str, ...] = ()) -> Path:
    (tmp_path / "metadata.csv").write_text(csv)
    for i, name in enumerate(images):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3), color=40 * i).save(path)
    return tmp_path


def test_waterbirds_is_one_instance(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, WATERBIRDS, ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"))
    data = load_dataset("waterbirds", data_dir=folder)
    assert data.groups.names == ("landbird / land", "landbird / water", "waterbird / land", "waterbird / water")
    assert data.groups.ids.tolist() == [0, 3, 2, 1]
    assert data.split.tolist() == [0, 1, 2, 2]
    assert (data[1].mode, data[1].size) == ("RGB", (4, 3))


def test_text_and_names(tmp_path: Path) -> None:
    csv = "text,kind,who,part\nnull,spam,b,train\n,ham,a,VAL\nNA,ham,b,test\n"
    columns = {"label": "kind", "attribute": "who", "split": "part"}
    data = load_dataset("metadata_csv", data_dir=folder_with(tmp_path, csv), columns=columns)
    assert [data[i] for i in range(3)] == ["null", "", "NA"]
    assert data.groups.class_names == ("ham", "spam")
    assert data.groups.labels.tolist() == [1, 0, 0]
    assert data.groups.attribute_names == ("a", "b")
    assert data.lengths().tolist() == [4, 0, 2]


@pytest.mark.parametrize(
    ("csv", "text"),
    [
        ("filename,y,a,split\n../x.jpg,0,0,0\n", r"row 2, column 'filename': '../x.jpg'; expected a path inside"),
        ("filename,y,a,split\n/etc/passwd,0,0,0\n", "inside the folder"),
        ("filename,y,a,split\nC:\\\\x.jpg,0,0,0\n", "inside the folder"),
        ("filename,y,a,split\nx.jpg,0,0,0\ny.jpg,0,0,7\n", r"row 3, column 'split': '7'; expected 0/1/2"),
        ("filename,y,a,split\nx.jpg,-1,0,0\n", r"column 'y': '-1'"),
        ("filename,y,a,split\nx.jpg,,0,0\n", "expected a value"),
        ("filename,y,split\nx.jpg,0,0\n", r"no column 'a'. Its columns: filename, y, split"),
        ("filename,y,a,split\nx.jpg,0,0,0\nx.jpg,1,0,0\n", "'x.jpg' stands in several rows"),
        ("filename,y,a,split\n", "has no rows"),
        ("", "not a readable CSV"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, csv: str, text: str) -> None:
    with pytest.raises(DataError, match=text):
        load_metadata_csv(folder_with(tmp_path, csv))


def test_missing_corrupt_and_straying_images(tmp_path: Path) -> None:
    csv = "filename,y,a,split\nno.jpg,0,0,0\nbad.jpg,0,0,0\ncut.png,1,0,0\nlink.jpg,1,0,0\n"
    (tmp_path / "d").mkdir()
    folder = folder_with(tmp_path / "d", csv)
    (folder / "bad.jpg").write_text("no image")
    Image.fromarray(np.random.default_rng(0).integers(255, size=(64, 64, 3), dtype=np.uint8)).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:2000])
    Image.new("RGB", (2, 2)).save(tmp_path / "outside.jpg")
    (folder / "link.jpg").symlink_to(tmp_path / "outside.jpg")
    data = load_metadata_csv(folder)
    for row, text in enumerate(["does not exist", "bad.jpg cannot be read", "cut.png cannot be read", "leads out of"]):
        with pytest.raises(DataError, match=text):
            data[row]


def test_missing_folder_and_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        load_dataset("metadata_csv", data_dir=tmp_path)
    with pytest.raises(DataError, match="--data-dir"):
        load_dataset("metadata_csv")
    with pytest.raises(DataError, match="Did you mean 'tweets'"):
        load_dataset("tweet")
    with pytest.raises(DataError, match="Unknown column option 'lable'"):
        load_dataset("metadata_csv", data_dir=folder_with(tmp_path, WATERBIRDS), columns={"lable": "y"})


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_round_trip_through_pandas(rows: list[tuple[int, int, int]]) -> None:

    with tempfile.TemporaryDirectory() as folder:
        table = pd.DataFrame(rows, columns=["y", "a", "split"]).assign(text=[f"t{i}" for i in range(len(rows))])
        table.to_csv(Path(folder) / "metadata.csv", index=False)
        data = load_metadata_csv(Path(folder))
    assert data.groups.labels.tolist() == [y for y, _, _ in rows]
    assert data.groups.attributes.tolist() == [a for _, a, _ in rows]
    assert data.split.tolist() == [s for _, _, s in rows]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12), st.integers(0, 300))
def test_apportion(weights: list[int], extra: int) -> None:
    positive = sum(w > 0 for w in weights)
    if positive == 0:
        return
    n = positive + extra
    whole = apportion(np.array(weights), n)
    assert whole.sum() == n
    assert all((w > 0) == (c > 0) for w, c in zip(weights, whole.tolist(), strict=True))


def test_subsets_keep_shares_and_have_their_own_digest() -> None:
    data = load_dataset("digits")
    part = stratified_subset(data, 400, seed=1)
    for split in range(3):
        whole = data.groups.take(data.split == split).counts * (400 / len(data))
        np.testing.assert_allclose(part.groups.take(part.split == split).counts, whole, atol=1.01)
    assert part.digest != data.digest
    assert part.digest == stratified_subset(data, 400, seed=1).digest != stratified_subset(data, 400, seed=2).digest
    rows = take_rows(data, [5, 2])
    assert rows.sample_ids == (data.sample_ids[5], data.sample_ids[2])
    assert rows[1].tobytes() == data[2].tobytes()
    with pytest.raises(DataError, match="possible are"):
        stratified_subset(data, 3, seed=1)
