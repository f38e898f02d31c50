"""The four benchmarks as their hosts pack them: fetched from a server on this machine, then loaded."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from archive_bytes import Members, tar_bytes, zip_bytes
from web_server import Page, web_server

from grobust.data.catalog import load_dataset
from grobust.data.fetch.download import TransferSettings
from grobust.data.fetch.fetch import fetch_dataset
from grobust.data.fetch.sources import load_sources
from grobust.data.fixtures import Fixture, write_celeba, write_civilcomments, write_multinli, write_waterbirds

MACOS: Members = [
    ("__MACOSX/multinli_1.0/._Icon\r", b"1"),
    ("multinli_1.0/Icon\r", b"2"),
    ("multinli_1.0/.DS_Store", b"3"),
]


def members(folder: Path, top: str, *, without: tuple[str, ...] = ()) -> Members:
    """Files of a folder, below `top` in an archive."""
    return [
        (f"{top}{path.relative_to(folder).as_posix()}", path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in without
    ]


def multinli(folder: Path) -> dict[str, bytes]:
    packed = members(folder, "multinli_1.0/", without=("metadata_random.csv",))
    return {
        "multinli_1.0.zip": zip_bytes([*packed, *MACOS]),
        "metadata_random.csv": (folder / "metadata_random.csv").read_bytes(),
    }


def celeba(folder: Path) -> dict[str, bytes]:
    return {
        "celebA_v1.0.tar.gz": tar_bytes(members(folder, "./", without=("celeba_metadata.csv",))),
        "celeba_metadata.csv": (folder / "celeba_metadata.csv").read_bytes(),
    }


def in_one(name: str, top: str) -> Callable[[Path], dict[str, bytes]]:
    return lambda folder: {name: tar_bytes(members(folder, top))}


BIRDS = "waterbird_complete95_forest2water2"


@pytest.mark.parametrize(
    ("name", "write", "pack"),
    [
        ("waterbirds", write_waterbirds, in_one(f"{BIRDS}.tar.gz", f"{BIRDS}/")),
        ("waterbirds", write_waterbirds, in_one(f"{BIRDS}.tar.gz", "./")),
        ("celeba", lambda folder: write_celeba(folder, layout="prepared"), celeba),
        ("civilcomments", write_civilcomments, in_one("civilcomments_v1.0.tar.gz", "./")),
        ("multinli", write_multinli, multinli),
    ],
)
def test_what_is_fetched_can_be_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    write: Callable[[Path], Fixture],
    pack: Callable[[Path], dict[str, bytes]],
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fixture = write(tmp_path / "original")
    contents = pack(tmp_path / "original")
    source = load_sources()[name]
    assert sorted(contents) == sorted(file.name for file in source.files)
    with web_server() as (base, pages):
        for file, content in contents.items():
            pages[f"/{file}"] = Page(content)
        # The bytes are the fixture's, so the digests of the real files do not hold.
        files = tuple(replace(file, mirrors=(f"{base}/{file.name}",), sha256=None, bytes=None, about_bytes=10**6,
                              unpacked_bytes=10**6) for file in source.files)  # fmt: skip
        here = replace(source, files=files)
        fetch_dataset(here, tmp_path / "d", settings=TransferSettings(attempts=1, backoff_seconds=0))
    data = load_dataset(name, data_dir=tmp_path / "d")
    np.testing.assert_array_equal(data.groups.labels, fixture.labels)
    np.testing.assert_array_equal(data.groups.attributes, fixture.attributes)
    np.testing.assert_array_equal(data.split, fixture.split)
    assert data[0] is not None
    assert json.loads((tmp_path / "d/grobust-fetch.json").read_text())["license"] == source.license
