"""Every loader on its real layout, with and without quirks: labels, attributes, splits and items, row by row."""

import csv
import io
import pickle
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grobust.data.catalog import load_dataset
from grobust.data.civilcomments import IDENTITIES, identity_cells, identity_scheme
from grobust.data.columns import Columns
from grobust.data.fixtures import (
    Fixture,
    write_arrow,
    write_celeba,
    write_civilcomments,
    write_image_folder,
    write_metadata_csv,
    write_multinli,
    write_waterbirds,
    write_webdataset,
)
from grobust.data.metadata_csv import load_metadata_csv
from grobust.data.multinli import has_negation
from grobust.data.tables import ImageFiles
from grobust.errors import DataError
from grobust.groups import Split

HF = {"label": "label", "attribute": "attribute"}
CASES: dict[str, tuple[str, Callable[..., Fixture], dict[str, str]]] = {
    "waterbirds": ("waterbirds", write_waterbirds, {}),
    "celeba original": ("celeba", write_celeba, {}),
    "celeba csv": ("celeba", lambda f, **k: write_celeba(f, layout="csv", **k), {}),
    "celeba prepared": ("celeba", lambda f, **k: write_celeba(f, layout="prepared", **k), {}),
    "civilcomments": ("civilcomments", write_civilcomments, {}),
    "multinli": ("multinli", write_multinli, {}),
    "metadata_csv images": ("metadata_csv", write_metadata_csv, {}),
    "metadata_csv texts": ("metadata_csv", lambda f, **k: write_metadata_csv(f, kind="text", **k), {}),
    "image_folder": ("image_folder", write_image_folder, {}),
    "webdataset images": ("webdataset", write_webdataset, {}),
    "webdataset texts": ("webdataset", lambda f, **k: write_webdataset(f, kind="text", **k), {}),
    "arrow images": ("arrow", lambda f, quirks, **k: write_arrow(f, **k), HF),
    "arrow texts": ("arrow", lambda f, quirks, **k: write_arrow(f, kind="text", **k), HF),
    "parquet images": ("arrow", lambda f, quirks, **k: write_arrow(f, layout="parquet", **k), HF),
    "parquet texts": ("arrow", lambda f, quirks, **k: write_arrow(f, layout="parquet", kind="text", **k), HF),
}


@pytest.mark.parametrize("quirks", [True, False], ids=["quirks", "plain"])
@pytest.mark.parametrize("case", CASES)
def test_rows_are_as_written(tmp_path: Path, case: str, quirks: bool) -> None:
    name, write, columns = CASES[case]
    written = write(tmp_path, quirks=quirks, per_group=4)
    data = load_dataset(name, data_dir=tmp_path, columns=columns)
    assert data.groups.labels.tolist() == written.labels.tolist()
    assert data.groups.attributes.tolist() == written.attributes.tolist()
    assert data.split.tolist() == written.split.tolist()
    for split in Split:
        counts = data.groups.take(data.split == split).counts.tolist()
        assert counts == written.counts(split)
        assert min(counts) >= 4
    if data.kind == "text":
        assert [data[i] for i in range(len(data))] == list(written.items)
        whole = [sum(map(len, item)) if isinstance(item, tuple) else len(item) for item in written.items]
        assert list(data.lengths()) == whole
    else:
        # The fixture's images say their label by brightness and their attribute by tint, unless they are grey.
        for row in range(len(data)):
            image = data[row]
            assert (image.mode, image.size) == ("RGB", (24, 20))
            red, green, blue = np.asarray(image).reshape(-1, 3).mean(axis=0)
            if red == green == blue:
                continue
            assert (red > 130) == bool(data.groups.labels[row])
            if data.groups.n_attributes == 2 and "arrow" not in data.name:
                assert (blue > green) == bool(data.groups.attributes[row])
    assert len(set(data.sample_ids)) == len(data)
    again = pickle.loads(pickle.dumps(data))
    assert again.digest == data.digest == load_dataset(name, data_dir=tmp_path, columns=columns).digest
    assert np.asarray(again[1]).tobytes() == np.asarray(data[1]).tobytes()


SUBFOLDERS = {
    "waterbirds": "waterbird_complete95_forest2water2",
    "celeba original": "celeba",
    "civilcomments": "civilcomments_v1.0",
    "multinli": "multinli/data",
}


@pytest.mark.parametrize("case", SUBFOLDERS)
def test_the_folder_above_will_do(tmp_path: Path, case: str) -> None:
    name, write, _ = CASES[case]
    write(tmp_path / SUBFOLDERS[case], per_group=3)
    above, itself = load_dataset(name, data_dir=tmp_path), load_dataset(name, data_dir=tmp_path / SUBFOLDERS[case])
    assert above.digest == itself.digest
    assert above[0] == itself[0] if above.kind == "text" else above[0].tobytes() == itself[0].tobytes()


def test_quirks_are_there(tmp_path: Path) -> None:
    """What the fixtures promise is in the bytes, so the tests above do meet it."""
    for case in ("waterbirds", "celeba original", "civilcomments", "multinli"):
        CASES[case][1](tmp_path / case, quirks=True)
    birds = (tmp_path / "waterbirds" / "metadata.csv").read_bytes()
    assert birds.startswith("\ufeff".encode())
    assert b"\r\n" in birds
    assert re.search(rb",[^,\r]* [^,\r]*\.jpg", birds)
    assert b".JPG" in birds
    photos = sorted((tmp_path / "waterbirds").rglob("*.jpg"))
    found = set()
    for path in photos:
        with Image.open(path) as image:
            found.add((image.format, image.mode))
    assert found == {("JPEG", "RGB"), ("PNG", "RGB"), ("JPEG", "L")}
    celeba = (tmp_path / "celeba original" / "list_attr_celeba.txt").read_bytes()
    assert re.search(rb" -1 +1\r\n", celeba)
    comments = (tmp_path / "civilcomments" / "all_data_with_identities.csv").read_text(encoding="utf-8-sig")
    texts = [row["comment_text"] for row in csv.DictReader(io.StringIO(comments, newline=""))]
    assert {"", "NA"} <= set(texts)
    assert any('"' in text for text in texts)
    assert any("\n" in text for text in texts)
    assert any("👍" in text for text in texts)
    assert b'"gold_label": "-"' in (tmp_path / "multinli" / "multinli_1.0_train.jsonl").read_bytes()


def test_identities_by_a_plain_loop(tmp_path: Path) -> None:
    write_civilcomments(tmp_path, per_group=9)
    coarse = load_dataset("civilcomments", data_dir=tmp_path)
    fine = load_dataset("civilcomments-wilds", data_dir=tmp_path)
    assert fine.name == "civilcomments-wilds"
    assert [fine[i] for i in range(len(fine))] == [coarse[i] for i in range(len(coarse))]
    scheme = identity_scheme(fine.groups)
    assert scheme.n_groups == 16
    text = (tmp_path / "all_data_with_identities.csv").read_text(encoding="utf-8-sig")
    for row, line in enumerate(csv.DictReader(io.StringIO(text, newline=""))):
        toxic = float(line["toxicity"]) >= 0.5
        expected = {f"{'toxic' if toxic else 'non-toxic'} / {name}" for name in IDENTITIES if float(line[name]) >= 0.5}
        assert {name for name, member in zip(scheme.names, scheme.membership[row], strict=True) if member} == expected
        assert coarse.groups.ids[row] == 2 * toxic + bool(expected)
    names, cells = identity_cells(fine.groups.class_names, fine.groups.attribute_names)
    assert names == scheme.names
    np.testing.assert_array_equal(fine.groups.counts @ cells, scheme.counts)
    assert scheme.counts.min() > 0
    assert (scheme.membership.sum(axis=1) > 1).any()


@pytest.mark.parametrize(
    ("text", "found"),
    [("I never said so.", True), ("No!", True), ("no-one came", False), ("It is nothing.", True),
     ("nobody's here", False), ("Know this", False), ("Do not", False), ("", False)],
)  # fmt: skip
def test_negation_rule(text: str, found: bool) -> None:
    assert has_negation(text) is found


def test_a_table_of_wilds_with_more_splits(tmp_path: Path) -> None:
    lines = ["path,y,location,split", "a.jpg,0,3,train", "b.jpg,1,0,id_val", "c.jpg,1,3,val", "d.jpg,0,1,id_test"]
    (tmp_path / "metadata_things.csv").write_text("\n".join(lines))
    options = {"file": "path", "attribute": "location", "split_names": "train:train,id_val:val,val:none,id_test:test"}
    data = load_metadata_csv(tmp_path, columns=Columns.from_options(options))
    assert data.sample_ids == ("a.jpg", "b.jpg", "d.jpg")
    assert data.split.tolist() == [0, 1, 2]
    assert data.groups.attributes.tolist() == [3, 0, 1]
    with pytest.raises(DataError, match=r"row 3, column 'split': 'id_val'; expected 0/1/2 or train/val/test"):
        load_metadata_csv(tmp_path, columns=Columns(file="path", attribute="location"))
    with pytest.raises(DataError, match="expected VALUE:SPLIT"):
        Columns.from_options({"split_names": "val"})
    (tmp_path / "metadata_more.csv").write_text("x")
    with pytest.raises(DataError, match=r"several tables: metadata_more\.csv, metadata_things\.csv"):
        load_metadata_csv(tmp_path)
    assert (
        len(load_metadata_csv(tmp_path, columns=Columns.from_options({**options, "csv": "metadata_things.csv"}))) == 3
    )


def test_pairs_and_root(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("text,more,y,a,split\np,h,0,0,0\nq,,1,0,2\n")
    data = load_metadata_csv(tmp_path, columns=Columns(pair="more"))
    assert [data[0], data[1]] == [("p", "h"), ("q", "")]
    (tmp_path / "metadata.csv").write_text("filename,y,a,split\nx.png,0,0,0\n")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "pictures" / "x.png")
    found = load_metadata_csv(tmp_path, columns=Columns(root="pictures"))
    assert isinstance(found, ImageFiles)
    assert found[0].size == (3, 2)


def test_shards_are_read_in_place_and_names_may_repeat(tmp_path: Path) -> None:
    write_webdataset(tmp_path, per_group=3)
    shutil.copy(tmp_path / "train-000000.tar", tmp_path / "train-000001.tar")
    data = load_dataset("webdataset", data_dir=tmp_path)
    twice = [name for name in data.sample_ids if name.endswith("part 0/000100.jpg") or "train" in name]
    assert twice[0].startswith("train-000000.tar/part 0/")
    assert sorted(path.suffix for path in tmp_path.rglob("*")) == [".tar"] * 4
    one = load_dataset("webdataset", data_dir=tmp_path / "test-000000.tar")
    assert set(one.split.tolist()) == {2}


def test_classes_by_member_endings(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "val.tar", "w") as archive:
        for i in range(3):
            for ending, content in (("cls", f"{i % 2}\n"), ("place", "sea" if i else "land"), ("txt", f" text {i}\n")):
                member = tarfile.TarInfo(f"./{i}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content.encode()))
    data = load_dataset("webdataset", data_dir=tmp_path, columns={"label": "cls", "attribute": "place"})
    assert [data[i] for i in range(3)] == [" text 0\n", " text 1\n", " text 2\n"]
    assert data.groups.labels.tolist() == [0, 1, 0]
    assert data.groups.attribute_names == ("land", "sea")


def test_class_names_of_the_schema(tmp_path: Path) -> None:
    write_arrow(tmp_path, kind="text", per_group=3)
    data = load_dataset("arrow", data_dir=tmp_path, columns=HF)
    assert data.groups.class_names == ("sparrow", "gull")
    assert data.groups.attribute_names == ("rainy", "sunny")
    # What `datasets.map` keeps beside the data would count every row twice.
    shutil.copy(tmp_path / "train" / "data-00000-of-00001.arrow", tmp_path / "train" / "cache-1f.arrow")
    assert load_dataset("arrow", data_dir=tmp_path, columns=HF).digest == data.digest
