"""Shards and tables that mean harm or were damaged: refused with the file's name, and nothing is written anywhere."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grobust.data.catalog import load_dataset
from grobust.data.csv_table import leads_out, paths_inside, read_csv
from grobust.data.fixtures import write_arrow, write_waterbirds, write_webdataset
from grobust.errors import DataError


def shard(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def sample(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    content = json.dumps({"y": 0, "a": 0}).encode() if name.endswith("json") else b"text"
    return member, content if kind == tarfile.REGTYPE else b""


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ([sample("../x.txt")], "leads out"),
        ([sample("/etc/x.txt")], "leads out"),
        ([sample("a/../../x.txt")], "leads out"),
        ([sample("C:\\x.txt")], "leads out"),
        ([sample("x.txt", tarfile.SYMTYPE, "/etc/passwd")], "link or a device"),
        ([sample("x.txt", tarfile.LNKTYPE, "y.txt")], "link or a device"),
        ([sample("x.txt", tarfile.CHRTYPE)], "link or a device"),
        ([sample("x.txt", tarfile.FIFOTYPE)], "link or a device"),
        ([sample("x.txt")], r"there is no 'y'. It has: txt"),
        ([sample("README")], "has no samples"),
        ([(tarfile.TarInfo("x.json"), b"[" * 100_000), sample("x.txt")], "no JSON"),
        ([(tarfile.TarInfo("x.json"), b"[1]"), sample("x.txt")], "expected a JSON object"),
        ([(tarfile.TarInfo("x.txt"), b"caf\xe9"), sample("x.json")], "not UTF-8"),
        ([sample("x.txt"), sample("x.json"), sample("x.txt"), sample("x.json")], r"two members end in \.txt"),
        ([sample("x.txt"), sample("x.json"), sample("y.txt"), sample("y.json"), sample("x.txt"), sample("x.json")],
         r"the id '.*x' stands in several rows"),
    ],
)  # fmt: skip
def test_members_are_checked(tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]], text: str) -> None:
    shard(tmp_path / "train.tar", members)
    with pytest.raises(DataError, match=text):
        load_dataset("webdataset", data_dir=tmp_path)


@given(st.data())
def test_a_cut_shard_is_an_error(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("cut")
    write_webdataset(folder, per_group=1)
    path = folder / "train-000000.tar"
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        end = max(member.offset_data + member.size for member in archive)
    path.write_bytes(content[: data.draw(st.integers(0, end))])
    with pytest.raises(DataError, match=r"train-000000\.tar"):
        load_dataset("webdataset", data_dir=folder)


@pytest.mark.parametrize("layout", ["parquet", "huggingface"])
@given(data=st.data())
def test_a_cut_table_is_an_error(tmp_path_factory: pytest.TempPathFactory, layout: str, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("cut")
    write_arrow(folder, layout=layout, per_group=1)
    path = next(path for path in sorted(folder.rglob("*")) if path.suffix in (".parquet", ".arrow"))
    content = path.read_bytes()
    # An Arrow stream that lost only its end mark is whole.
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 9))])
    columns = {"label": "label", "attribute": "attribute"}
    with pytest.raises(DataError, match=path.name):
        load_dataset("arrow", data_dir=folder, columns=columns)


@given(st.data())
def test_a_damaged_table_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("flip")
    write_waterbirds(folder, per_group=1)
    content = bytearray((folder / "metadata.csv").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "metadata.csv").write_bytes(content)
    try:
        found = load_dataset("waterbirds", data_dir=folder)
    except DataError as error:
        said = str(error)
    else:
        said = "metadata.csv was read"
        assert not any(leads_out(name) for name in found.sample_ids)
        assert set(found.split.tolist()) <= {0, 1, 2}
    assert "metadata.csv" in said or "stands in several rows" in said


@given(st.text(max_size=12))
def test_names_that_lead_out(name: str) -> None:
    """Against the path's parts one by one."""
    parts = name.replace("\\", "/").split("/")
    drive = len(name) >= 2 and name[0].isascii() and name[0].isalpha() and name[1] == ":"
    assert leads_out(name) == (name == "" or parts[0] == "" or ".." in parts or drive)


@pytest.mark.parametrize("name", ["a..b/c.jpg", "a/..b", "...", "a b.jpg", "ü/ö.jpg", "a:b"[1:]])
def test_names_that_stay_inside(name: str) -> None:
    assert not leads_out(name)


@given(st.lists(st.sampled_from(["a.jpg", "b/c.jpg", "", "/a", "\\a", "..", "a/..", "a..b", "C:x", "a:b"]), max_size=4))
def test_a_table_is_refused_if_one_of_its_names_is(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    """The quick look at all names at once lets through what every single name would be let through for."""
    path = tmp_path_factory.mktemp("names") / "metadata.csv"
    names = ["first.jpg", *(f"{name}{i}" if name and name != ".." else name for i, name in enumerate(names))]
    path.write_text("\n".join(["filename,y", *(f"{name},{i % 2}" for i, name in enumerate(names))]))
    table = read_csv(path, ["filename", "y"])
    if any(leads_out(name) for name in names):
        with pytest.raises(DataError, match="a path inside the folder"):
            paths_inside(table, "filename")
    else:
        assert paths_inside(table, "filename") == tuple(names)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_arrow(tmp_path, layout="parquet", per_group=1)
    monkeypatch.setattr("grobust.data.arrow_files.pa", None)
    with pytest.raises(DataError, match=r"pip install 'grobust\[arrow\]'"):
        load_dataset("arrow", data_dir=tmp_path)
