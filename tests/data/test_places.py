"""Data sets behind an address give what the same files give in a local folder."""

import os
import pickle
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import fsspec
import numpy as np
import pytest

from grobust.data import fixtures
from grobust.data.catalog import load_dataset
from grobust.data.places import CloudPath, place_of
from grobust.errors import DataError

WRITERS: dict[str, Callable[..., fixtures.Fixture]] = {
    "waterbirds": fixtures.write_waterbirds,
    "celeba": fixtures.write_celeba,
    "civilcomments": fixtures.write_civilcomments,
    "multinli": fixtures.write_multinli,
    "metadata_csv": fixtures.write_metadata_csv,
    "image_folder": fixtures.write_image_folder,
}


@pytest.fixture
def memory() -> Iterator[Callable[[Path], CloudPath]]:
    """Copies a folder to the bucket ``box`` of a file system in memory."""
    files = fsspec.filesystem("memory")

    def copy(folder: Path) -> CloudPath:
        for path in folder.rglob("*"):
            if path.is_file():
                files.pipe_file(f"/box/{folder.name}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return CloudPath("memory", f"box/{folder.name}")

    yield copy
    files.store.clear()


@pytest.mark.parametrize("name", WRITERS)
def test_an_address_gives_what_the_folder_gives(name: str, tmp_path: Path, memory: Callable[[Path], CloudPath]) -> None:
    WRITERS[name](tmp_path / "set")
    memory(tmp_path / "set")
    near = load_dataset(name, data_dir=tmp_path / "set")
    # As a text, and as pathlib folds it.
    for address in ("memory://box/set", Path("memory://box/set/")):
        far = load_dataset(name, data_dir=address)
        assert (far.name, far.digest, far.sample_ids) == (near.name, near.digest, near.sample_ids)
        np.testing.assert_array_equal(far.groups.ids, near.groups.ids)
        np.testing.assert_array_equal(far.split, near.split)
        for row in range(len(near)):
            mine, theirs = far[row], near[row]
            assert (mine == theirs) if near.kind == "text" else (mine.tobytes() == theirs.tobytes())


def test_what_is_missing_or_leads_out_is_said(tmp_path: Path, memory: Callable[[Path], CloudPath]) -> None:
    fixture = fixtures.write_metadata_csv(tmp_path / "set")
    place = memory(tmp_path / "set")
    files = fsspec.filesystem("memory")
    files.pipe_file("/box/secret.png", (tmp_path / "set" / fixture.items[0]).read_bytes())
    table = (tmp_path / "set" / "metadata.csv").read_bytes()
    files.pipe_file("/box/set/metadata.csv", table.replace(fixture.items[0].encode(), b"../secret.png"))
    with pytest.raises(DataError, match="a path inside the folder"):
        load_dataset("metadata_csv", data_dir=place)
    for name in ("../secret.png", "images/../../secret.png", "/box/secret.png", "..\\secret.png"):
        with pytest.raises(DataError, match="leads out"):
            place / name
    files.pipe_file("/box/set/metadata.csv", table)
    data = load_dataset("metadata_csv", data_dir=place)
    files.rm(f"/box/set/{fixture.items[0]}")
    with pytest.raises(DataError, match=f"image memory://box/set/{fixture.items[0]} does not exist"):
        data[0]
    files.pipe_file(f"/box/set/{fixture.items[1]}", b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        data[1]
    with pytest.raises(DataError, match=r"memory://box/nowhere/metadata.csv does not exist"):
        load_dataset("metadata_csv", data_dir="memory://box/nowhere")
    with pytest.raises(DataError, match=r"It holds: images/, metadata\.csv"):
        load_dataset("multinli", data_dir=place)


def test_addresses_are_told_from_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place_of("birds/set") == Path("birds/set")
    assert place_of("file:///data/set") == place_of(Path("file:///data/set")) == Path("/data/set")
    assert place_of("memory://box/set/") == CloudPath("memory", "box/set")
    assert str(place_of(Path("http://host:80/a b"))) == "http://host:80/a b"
    assert place_of("C:/data") == Path("C:/data")
    assert place_of("a:b") == Path("a:b")
    # What exists is what was meant.
    monkeypatch.chdir(tmp_path)
    Path("memory:/box").mkdir(parents=True)
    assert place_of("memory://box") == Path("memory:/box")
    with pytest.raises(DataError, match="no kind of address"):
        place_of("sthree://bucket/x")
    with pytest.raises(DataError, match="chained"):
        place_of("simplecache::memory://bucket/x")
    with pytest.raises(DataError, match="names no folder"):
        place_of("http://")
    for name in ("arrow", "webdataset"):
        with pytest.raises(DataError, match=f"'{name}' is read from a local folder only"):
            load_dataset(name, data_dir="memory://box/set")


@pytest.mark.skipif(find_spec("s3fs") is not None, reason="s3fs is installed")
def test_a_library_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="s3fs"):
        load_dataset("waterbirds", data_dir="s3://bucket/birds")


def test_links_do_not_lead_out_of_a_folder_with_an_address(tmp_path: Path) -> None:
    fixture = fixtures.write_metadata_csv(tmp_path / "set")
    secret = tmp_path / "secret.png"
    (tmp_path / "set" / fixture.items[0]).rename(secret)
    os.symlink(secret, tmp_path / "set" / fixture.items[0])
    with pytest.raises(DataError, match="leads out"):
        load_dataset("metadata_csv", data_dir=f"file://{tmp_path}/set")[0]


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_web_server_will_do_and_workers_can_be_given_the_data_set(tmp_path: Path) -> None:
    """It pickles, and what comes out opens the addresses itself."""
    pytest.importorskip("aiohttp")
    fixtures.write_metadata_csv(tmp_path / "set", per_group=3)
    near = load_dataset("metadata_csv", data_dir=tmp_path / "set")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        far = load_dataset("metadata_csv", data_dir=f"http://127.0.0.1:{server.server_port}/set")
        sent = pickle.loads(pickle.dumps(far))
        assert (sent.name, sent.digest) == (near.name, near.digest)
        assert [sent[row].tobytes() for row in range(len(near))] == [near[row].tobytes() for row in range(len(near))]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
