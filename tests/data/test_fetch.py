"""`grobust data fetch` against a server on this machine that drops, truncates, redirects and lies."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from archive_bytes import tar_bytes, zip_bytes
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner
from web_server import Page, web_server

from grobust.data.fetch.download import TransferSettings, download
from grobust.data.fetch.fetch import RECORD, FetchResult, fetch_dataset
from grobust.data.fetch.sources import DataSource, RemoteFile, load_sources
from grobust.errors import DataError, DiskSpaceError, MirrorError
from grobust_cli.main import app

QUICK = TransferSettings(attempts=3, backoff_seconds=0.0, timeout_seconds=5.0)
NOISE = np.random.default_rng(0).bytes(700_001)
METADATA = b"img_filename,y,split,place\na.jpg,0,0,0\n"
ARCHIVE = tar_bytes([("birds/metadata.csv", METADATA), ("birds/img/noise", NOISE)])
STEPS = ("Put it in {folder}.",)

Server = tuple[str, dict[str, Page]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with web_server() as running:
        yield running


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file_of(*urls: str, **changes: Any) -> RemoteFile:
    return replace(RemoteFile("birds.tar.gz", urls, archive=True, about_bytes=1_000_000), **changes)


def source_of(*files: RemoteFile, needs: tuple[str, ...] = ("metadata.csv",)) -> DataSource:
    return DataSource(
        "birds", "Birds", "https://birds.example", "for looking at only", files, needs, ("Put it in {folder}.",)
    )


def fetch(folder: Path, *files: RemoteFile, **changes: Any) -> FetchResult:
    return fetch_dataset(source_of(*files, **changes), folder, settings=QUICK)


def nothing_left(folder: Path) -> bool:
    return not folder.exists()


def test_a_data_set_is_fetched_unpacked_and_recorded(server: Server, tmp_path: Path) -> None:
    base, pages = server
    pages["/x"], pages["/csv"] = Page(ARCHIVE), Page(b"more")
    files = (file_of(f"{base}/x"), RemoteFile("more.csv", (f"{base}/csv",), sha256=sha256(b"more"), bytes=4))
    result = fetch(tmp_path / "d", *files)
    assert (tmp_path / "d/metadata.csv").read_bytes() == METADATA
    assert (tmp_path / "d/img/noise").read_bytes() == NOISE
    assert (tmp_path / "d/more.csv").read_bytes() == b"more"
    assert not (tmp_path / "d.fetch").exists()
    assert [(f.sha256, f.verified, f.bytes) for f in result.files] == [
        (sha256(ARCHIVE), False, len(ARCHIVE)),
        (sha256(b"more"), True, 4),
    ]
    assert sha256(ARCHIVE) in result.notes[0]
    record = json.loads((tmp_path / "d" / RECORD).read_text())
    assert (record["data_set"], record["files"][0]["url"]) == ("birds", f"{base}/x")
    again = fetch(tmp_path / "d", *files)
    assert again.reused
    assert again.files == result.files
    assert len(pages["/x"].requests) == 1


def test_a_dropped_connection_is_continued_where_it_was(server: Server, tmp_path: Path) -> None:
    base, pages = server
    page = pages["/x"] = Page(ARCHIVE, drop_after=200_000)
    fetch(tmp_path / "d", file_of(f"{base}/x"))
    assert (tmp_path / "d/img/noise").read_bytes() == NOISE
    assert [r.get("Range") for r in page.requests] == [None, "bytes=200000-", "bytes=400000-", "bytes=600000-"]
    assert {r.get("If-Range") for r in page.requests[1:]} == {'"v1"'}


@pytest.mark.parametrize(
    "page",
    [
        Page(ARCHIVE, drop_after=300_000, drops=2, ranges=False),
        Page(ARCHIVE, drop_after=300_000, drops=2, etag=None),
        Page(ARCHIVE, drop_after=300_000, drops=1, etag='W/"weak"'),
        Page(ARCHIVE, drop_after=300_000, drops=1, wrong_range=True),
        Page(b"x" * 10**6, drop_after=300_000, drops=1, changed=ARCHIVE),
        Page(ARCHIVE, statuses=[503, 500], headers={"Retry-After": "0"}),
        Page(ARCHIVE, length=False),
    ],
    ids=["no ranges", "no ETag", "weak ETag", "wrong range", "changed", "busy", "no length"],
)
@pytest.mark.parametrize("known", [True, False])
def test_servers_that_cannot_continue_begin_again(server: Server, tmp_path: Path, page: Page, known: bool) -> None:
    base, pages = server
    page = pages["/x"] = replace(page, requests=[], statuses=list(page.statuses))
    if page.changed is not None:
        page.content = b"\x1f\x8b" + page.content
    fetch(tmp_path / "d", file_of(f"{base}/x", sha256=sha256(ARCHIVE) if known else None))
    assert (tmp_path / "d/img/noise").read_bytes() == NOISE


def test_waits_grow_unless_the_server_says_how_long(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, pages = server
    waits: list[float] = []
    monkeypatch.setattr("grobust.data.fetch.download.time.sleep", waits.append)
    pages["/x"] = Page(ARCHIVE, statuses=[503, 502, 500])
    patient = TransferSettings(attempts=4, backoff_seconds=1.0)
    assert not fetch_dataset(source_of(file_of(f"{base}/x")), tmp_path / "d", settings=patient).reused
    assert waits == [1.0, 2.0, 4.0]
    pages["/x"] = Page(ARCHIVE, statuses=[429, 503], headers={"Retry-After": "7"})
    fetch_dataset(source_of(file_of(f"{base}/x")), tmp_path / "e", settings=patient)
    assert waits[3:] == [7.0, 7.0]
    pages["/x"] = Page(ARCHIVE, statuses=[503], headers={"Retry-After": "86400"})
    fetch_dataset(source_of(file_of(f"{base}/x")), tmp_path / "f", settings=patient)
    assert waits[5:] == [60.0]


def test_an_interrupted_fetch_continues_in_another_process(server: Server, tmp_path: Path) -> None:
    base, pages = server
    page = pages["/x"] = Page(ARCHIVE, drop_after=250_000, drops=1, statuses=[])
    once = TransferSettings(attempts=1, backoff_seconds=0.0)
    with pytest.raises(DataError, match=r"broke after 250000 of \d+ bytes"):
        fetch_dataset(source_of(file_of(f"{base}/x")), tmp_path / "d", settings=once)
    assert nothing_left(tmp_path / "d")
    fetch(tmp_path / "d", file_of(f"{base}/x"))
    assert page.requests[1]["Range"] == "bytes=250000-"
    assert (tmp_path / "d/img/noise").read_bytes() == NOISE


def test_a_part_of_one_mirror_is_continued_at_another_only_if_the_digest_is_known(
    server: Server, tmp_path: Path
) -> None:
    base, pages = server
    for known, asked in ((True, "bytes=100000-"), (False, None)):
        pages["/a"], pages["/b"] = Page(ARCHIVE, drop_after=100_000, drops=1), Page(ARCHIVE, etag='"other"')
        pages["/a"].ranges = False
        settings = TransferSettings(attempts=1, backoff_seconds=0.0)
        file = file_of(f"{base}/a", f"{base}/b", sha256=sha256(ARCHIVE) if known else None)
        result = fetch_dataset(source_of(file), tmp_path / str(known), settings=settings)
        assert pages["/b"].requests[0].get("Range") == asked
        assert result.files[0].url == f"{base}/b"


def test_a_part_of_something_else_is_noticed_by_the_digest_and_begun_again(server: Server, tmp_path: Path) -> None:
    base, pages = server
    pages["/x"] = Page(ARCHIVE)
    (tmp_path / "birds.tar.gz.part").write_bytes(b"\x1f\x8b" + b"z" * 1000)
    state = {"url": "http://elsewhere/", "validator": None, "total": None}
    (tmp_path / "birds.tar.gz.part.json").write_text(json.dumps(state))
    got = download(file_of(f"{base}/x", sha256=sha256(ARCHIVE)), f"{base}/x", tmp_path, settings=QUICK)
    assert got.path.read_bytes() == ARCHIVE
    assert [r.get("Range") for r in pages["/x"].requests] == ["bytes=1002-", None]


@pytest.mark.parametrize(
    ("page", "why"),
    [
        (Page(b"<!DOCTYPE html><p>gone"), "a web page that is no archive"),
        (Page(b"nonsense" * 100), "something that is no archive"),
        (Page(b""), "an empty file"),
        (Page(ARCHIVE[:-1000]), "damaged, cut short"),
        (Page(ARCHIVE, stated_length=10**9), "far more than"),
        (Page(ARCHIVE, length=False, drop_after=100_000), "damaged, cut short"),
        (Page(ARCHIVE + b"\0" * 5_000_000, length=False), "sends more than"),
        (Page(tar_bytes([("../evil", b"x")])), "leads out"),
        (Page(statuses=[404] * 9), "HTTP 404"),
        (Page(statuses=[503] * 9), r"HTTP 503 Service Unavailable, 3 times"),
        (Page(statuses=[204] * 9), "HTTP 204, without a file"),
        (Page(location="file:///etc/passwd"), "redirect"),
        (Page(location="ftp://127.0.0.1/x"), "redirect"),
        (Page(location="/x"), "redirect"),
        (Page(location="http://user:secret@127.0.0.1/x"), "refused"),
    ],
)
def test_a_mirror_that_fails_is_named_with_the_reason_and_the_next_one_is_tried(
    server: Server, tmp_path: Path, page: Page, why: str
) -> None:
    base, pages = server
    pages["/x"], pages["/good"] = replace(page, requests=[]), Page(ARCHIVE)
    result = fetch(tmp_path / "d", file_of(f"{base}/x", f"{base}/good"))
    assert result.files[0].url == f"{base}/good"
    pages["/x"].statuses = list(page.statuses)
    with pytest.raises(DataError, match=why) as error:
        fetch(tmp_path / "alone", file_of(f"{base}/x"))
    assert f"{base}/x: " in str(error.value)
    assert f"By hand:\n  Put it in {tmp_path / 'alone'}." in str(error.value)
    assert nothing_left(tmp_path / "alone")
    assert not (tmp_path / "evil").exists()


def test_redirects_are_followed_to_other_web_addresses_and_never_out_of_encryption(
    server: Server, tmp_path: Path
) -> None:
    from urllib.request import Request

    from grobust.data.fetch.http import _Redirects

    base, pages = server
    pages["/x"], pages["/y"] = Page(location=f"{base}/y"), Page(ARCHIVE)
    assert fetch(tmp_path / "d", file_of(f"{base}/x")).files[0].sha256 == sha256(ARCHIVE)
    with pytest.raises(MirrorError, match="without encryption"):
        _Redirects().redirect_request(Request("https://a/x"), None, 302, "", {}, "http://a/y")  # type: ignore[arg-type]


def test_wrong_content_for_a_known_digest_or_size_is_refused(server: Server, tmp_path: Path) -> None:
    base, pages = server
    pages["/x"] = Page(tar_bytes([("metadata.csv", b"other")]))
    with pytest.raises(DataError, match=f"instead of {sha256(ARCHIVE)}"):
        fetch(tmp_path / "d", file_of(f"{base}/x", sha256=sha256(ARCHIVE)))
    assert len(pages["/x"].requests) == 1
    with pytest.raises(DataError, match="bytes instead of 5"):
        fetch(tmp_path / "d", file_of(f"{base}/x", bytes=5))
    pages["/x"].length = False
    with pytest.raises(DataError, match="more than 5 bytes"):
        fetch(tmp_path / "d", file_of(f"{base}/x", bytes=5))
    assert nothing_left(tmp_path / "d")


def test_a_server_that_is_not_there_and_a_name_that_is_nobodys(tmp_path: Path) -> None:
    with web_server() as (base, _):
        pass
    urls = (f"{base}/x", "http://nobody.invalid/x")
    with pytest.raises(DataError, match="connection failed") as error:
        fetch(tmp_path / "d", file_of(*urls))
    assert "cannot be resolved" in str(error.value)


def test_a_file_placed_by_hand_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "d.fetch").mkdir()
    (tmp_path / "d.fetch/birds.tar.gz").write_bytes(ARCHIVE)
    result = fetch(tmp_path / "d", file_of("http://nobody.invalid/x"))
    assert (result.files[0].url, result.files[0].sha256) == (None, sha256(ARCHIVE))
    base, pages = server
    pages["/x"] = Page(ARCHIVE)
    (tmp_path / "e.fetch").mkdir()
    (tmp_path / "e.fetch/birds.tar.gz").write_bytes(b"\x1f\x8bdamaged")
    assert fetch(tmp_path / "e", file_of(f"{base}/x")).files[0].url == f"{base}/x"


def test_a_folder_that_is_taken_is_left_alone(server: Server, tmp_path: Path) -> None:
    base, pages = server
    pages["/x"] = Page(ARCHIVE)
    folder = tmp_path / "d"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        fetch(folder, file_of(f"{base}/x"))
    assert [p.name for p in folder.iterdir()] == ["thesis.tex"]
    with pytest.raises(DataError, match="not a folder"):
        fetch(folder / "thesis.tex", file_of(f"{base}/x"))
    fetch(tmp_path / "e", file_of(f"{base}/x"))
    with pytest.raises(DataError, match="holds 'birds', not 'fish'"):
        fetch_dataset(replace(source_of(file_of(f"{base}/x")), name="fish"), tmp_path / "e")
    (tmp_path / "e/metadata.csv").unlink()
    with pytest.raises(DataError, match=r"lacks metadata.csv"):
        fetch(tmp_path / "e", file_of(f"{base}/x"))
    (tmp_path / "empty").mkdir()
    assert not fetch(tmp_path / "empty", file_of(f"{base}/x")).reused


def test_an_archive_without_what_is_needed_is_no_data_set(server: Server, tmp_path: Path) -> None:
    base, pages = server
    pages["/x"] = Page(zip_bytes([("birds/readme.txt", b"hello"), ("birds/more.txt", b"!")]))
    with pytest.raises(DataError, match=r"lacks metadata.csv; it has more.txt, readme.txt"):
        fetch(tmp_path / "d", file_of(f"{base}/x"))
    assert nothing_left(tmp_path / "d")


def test_two_files_that_bring_the_same_are_refused(server: Server, tmp_path: Path) -> None:
    base, pages = server
    pages["/x"] = Page(ARCHIVE)
    with pytest.raises(DataError, match="another file brought already"):
        fetch(tmp_path / "d", file_of(f"{base}/x"), file_of(f"{base}/x", name="again.tar.gz"))


def test_one_process_at_a_time(server: Server, tmp_path: Path) -> None:
    base, _ = server
    (tmp_path / "d.fetch").mkdir()
    with FileLock(tmp_path / "d.fetch/.lock"), pytest.raises(DataError, match="Another process"):
        fetch(tmp_path / "d", file_of(f"{base}/x"))


def test_a_disk_with_too_little_room_is_noticed_before(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, pages = server
    pages["/x"] = Page(ARCHIVE)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=65 << 20))
    with pytest.raises(DiskSpaceError, match=r"needs about 3 MB in .*; 68.2 MB are free"):
        fetch(tmp_path / "d", file_of(f"{base}/x"))
    assert pages["/x"].requests == []


def test_a_disk_that_fills_up_is_an_error_in_words(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, pages = server
    pages["/x"] = Page(ARCHIVE)

    def full(*_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("grobust.data.fetch.fetch.unpack", full)
    with pytest.raises(DataError, match="the disk is full"):
        fetch(tmp_path / "d", file_of(f"{base}/x"))
    monkeypatch.undo()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    fetch(tmp_path / "d", file_of(f"{base}/x"))
    assert len(pages["/x"].requests) == 1


def _fetch_and_be_killed(base: str, folder: str) -> None:
    def stop(what: str, done: int, total: int | None) -> None:
        if what.startswith("unpack"):
            os.kill(os.getpid(), signal.SIGKILL)

    fetch_dataset(source_of(file_of(f"{base}/x")), folder, settings=QUICK, on_progress=stop)


def test_a_process_killed_while_unpacking_leaves_no_folder_and_downloads_nothing_again(
    server: Server, tmp_path: Path
) -> None:
    base, pages = server
    pages["/x"] = Page(ARCHIVE)
    process = multiprocessing.get_context("spawn").Process(
        target=_fetch_and_be_killed, args=(base, str(tmp_path / "d"))
    )
    process.start()
    process.join(60)
    assert process.exitcode == -9
    assert nothing_left(tmp_path / "d")
    result = fetch(tmp_path / "d", file_of(f"{base}/x"))
    assert result.files[0].url == f"{base}/x"
    assert (tmp_path / "d/img/noise").read_bytes() == NOISE
    assert len(pages["/x"].requests) == 1


@settings(max_examples=25)
@given(st.binary(min_size=1, max_size=3000), st.integers(1, 900), st.booleans(), st.booleans(), st.booleans())
def test_whatever_the_server_can_do_what_arrives_is_what_it_has(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, drop: int, ranges: bool, etag: bool, known: bool
) -> None:
    """Every transfer ends in the very bytes, or in an error and no file."""
    folder = tmp_path_factory.mktemp("x")
    with pytest.MonkeyPatch.context() as patch, web_server() as (base, pages):
        patch.setenv("no_proxy", "127.0.0.1")
        pages["/x"] = Page(content, drop_after=drop, ranges=ranges, etag='"v"' if etag else None, drops=6)
        file = RemoteFile("x", (f"{base}/x",), sha256=sha256(content) if known else None, about_bytes=3000)
        try:
            got = download(file, f"{base}/x", folder, settings=replace(QUICK, attempts=3))
        except MirrorError:
            assert not (folder / "x").exists()
            assert len(content) > drop
        else:
            assert got.path.read_bytes() == content
            assert got.sha256 == sha256(content)


def test_the_list_of_mirrors_is_sound() -> None:
    sources = load_sources()
    assert set(sources) == {"waterbirds", "celeba", "civilcomments", "multinli"}
    for source in sources.values():
        assert source.license
        assert source.needs
        text = "\n".join(source.manual).format(folder="F", downloads="D", homepage=source.homepage)
        assert "F/" in text or "into F" in text
        assert all(url.startswith("https://") for file in source.files for url in file.mirrors)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("x = 1", r"\[x\]: expected a table"),
        ("[x", "cannot be read as TOML"),
        ("[x]\ntitle='t'", "'homepage' is missing"),
        ("[x]\ntitel='t'", "unknown key 'titel'. Did you mean 'title'"),
        ("{ok}files=1", "files must be a list"),
        ("{ok}files=[]", "no files"),
        ("{ok}files=[{name='a',mirrors=[]}]", "has no mirrors"),
        ("{ok}files=[{name='a',mirrors=['file:///etc/passwd']}]", "begins with https"),
        ("{ok}files=[{name='a',mirrors=['https://u:p@h/x']}]", "begins with https"),
        ("{ok}files=[{name='a',mirrors=['https://h/x y']}]", "begins with https"),
        ("{ok}files=[{name='../a',mirrors=['https://h/']}]", "letters, digits"),
        ("{ok}files=[{name='a',mirrors=['https://h/'],sha256='12'}]", "64 lower-case"),
        ("{ok}files=[{name='a',mirrors=['https://h/'],bytes='12'}]", "'bytes' is '12'; expected int"),
        ("{ok}files=[{name='a',mirrors=['https://h/'],bytes=-1}]", "a size in bytes"),
        ("{ok}files=[{name='a',mirrors=['https://h/']},{name='a',mirrors=['https://h/']}]", "repeat"),
        ("{ok}needs=['../x']\nfiles=[{name='a',mirrors=['https://h/']}]", "inside the folder"),
        ("{ok}needs='x'\nfiles=[{name='a',mirrors=['https://h/']}]", "a list of texts"),
    ],
)
def test_a_bad_list_of_mirrors_is_said(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text.replace("{ok}", "[x]\ntitle='t'\nhomepage='h'\nlicense='l'\n"))
    with pytest.raises(DataError, match=why):
        load_sources(path)


def test_from_the_command_line(server: Server, tmp_path: Path) -> None:
    base, pages = server
    pages["/x"] = Page(ARCHIVE)
    mirrors = tmp_path / "m.toml"
    mirrors.write_text(
        "[birds]\ntitle='Birds'\nhomepage='h'\nlicense='for looking at only'\nneeds=['metadata.csv']\n"
        f"files=[{{name='b.tar.gz',archive=true,about_bytes=1000000,mirrors=['{base}/404','{base}/x']}}]\n"
    )
    runner, own = CliRunner(), ["--mirrors", str(mirrors)]
    folder = tmp_path / "d"
    result = runner.invoke(app, ["data", "fetch", "birds", "--data-dir", str(folder), *own, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["reused"], report["files"][0]["sha256"]) == (False, sha256(ARCHIVE))
    assert "HTTP 404" in report["notes"][0]
    assert "terms of use: for looking at only" in result.stderr
    again = runner.invoke(app, ["data", "fetch", "birds", "--data-dir", str(folder), *own])
    assert "nothing to do" in again.stderr
    assert sha256(ARCHIVE) in again.stdout
    listed = json.loads(runner.invoke(app, ["data", "fetch", "--list", "--json"]).stdout)
    assert [source["name"] for source in listed] == ["waterbirds", "celeba", "civilcomments", "multinli"]
    assert "cims.nyu.edu" in runner.invoke(app, ["data", "fetch", "--list"]).stdout
    assert "grobust data fetch waterbirds" in runner.invoke(app, ["data", "fetch", "--help"]).stdout
    pages["/x"].statuses = [500] * 9
    for arguments, text in (
        (["birds"], "--data-dir"),
        (["bird", "--data-dir", "x", *own], "Did you mean 'birds'"),
        (["birds", "--data-dir", str(tmp_path / "e"), "--backoff", "0", *own], "No address delivers"),
        (["birds", "--data-dir", "x", "--attempts", "0", *own], "at least 1"),
        (["birds", "--data-dir", "x", "--timeout", "0", *own], "must be positive"),
        (["birds", "--data-dir", "x", "--mirrors", "no.toml"], "cannot be read"),
    ):
        failed = runner.invoke(app, ["data", "fetch", *arguments])
        assert failed.exit_code == 2
        assert text in failed.output
        assert "Traceback" not in failed.output
    assert not (tmp_path / "e").exists()
    assert not (tmp_path / "e.fetch").exists()
