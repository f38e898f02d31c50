"""Archives that mean harm are refused whole; honest ones come out as they went in."""

import gzip
import stat
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from archive_bytes import Members, tar_bytes, zip_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from grobust.data.fetch.archives import ArchiveLimits, unpack
from grobust.errors import DataError

HONEST: Members = [("top/metadata.csv", b"a,b\n1,2\n"), ("top/img/1 a.jpg", bytes(range(256)) * 9), ("top/empty", b"")]


def unpacked(content: bytes, folder: Path, limits: ArchiveLimits | None = None) -> dict[str, bytes]:
    """Unpack bytes below `folder` and read everything back; nothing may appear beside the folder for it."""
    archive = folder / "x.bin"
    archive.write_bytes(content)
    unpack(archive, folder / "out", limits=limits)
    assert sorted(p.name for p in folder.iterdir()) == ["out", "x.bin"]
    return {
        p.relative_to(folder / "out").as_posix(): p.read_bytes() for p in (folder / "out").rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("content", [tar_bytes(HONEST), tar_bytes(HONEST, packed=False), zip_bytes(HONEST)])
def test_honest_archives_come_out_as_they_went_in(tmp_path: Path, content: bytes) -> None:
    assert unpacked(content, tmp_path) == dict(HONEST)
    assert not any(p.stat().st_mode & stat.S_IXUSR for p in (tmp_path / "out").rglob("*") if p.is_file())


@pytest.mark.parametrize("make", [tar_bytes, zip_bytes])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil", "leads out"),
        ("a/../../evil", "leads out"),
        ("/etc/evil", "absolute"),
        ("C:/evil", "absolute"),
        ("..\\evil", "leads out"),
        ("a\\b", "backslash"),
        ("a\nb", "control character"),
        ("x" * 300, "too long"),
        ("/".join("d" * 40), "too deep"),
    ],
)
def test_bad_names_are_refused(tmp_path: Path, make: object, name: str, why: str) -> None:
    content = make([("good", b"1"), (name, b"2")])  # type: ignore[operator]
    with pytest.raises(DataError, match=why):
        unpacked(content, tmp_path)
    assert not (tmp_path.parent / "evil").exists()
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("make", [tar_bytes, zip_bytes])
@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a"), ("a", "./a")])
def test_nothing_comes_twice_or_inside_of_a_file(tmp_path: Path, make: object, names: tuple[str, str]) -> None:
    with pytest.raises(DataError, match=r"twice|inside of"):
        unpacked(make([(name, b"x") for name in names]), tmp_path)  # type: ignore[operator]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("link")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match="a link, a device"):
        unpacked(tar_bytes(HONEST, extra=(info,)), tmp_path)


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o600, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(DataError, match="a link or a device"):
        unpacked(zip_bytes([("link", b"/etc/passwd")], mode=mode), tmp_path)


def test_litter_of_macos_is_left_out(tmp_path: Path) -> None:
    litter: Members = [("__MACOSX/a", b"1"), ("top/Icon\r", b"2"), ("top/._x", b"3"), (".DS_Store", b"4")]
    assert unpacked(zip_bytes([*HONEST, *litter]), tmp_path) == dict(HONEST)


@pytest.mark.parametrize("make", [tar_bytes, zip_bytes])
@pytest.mark.parametrize(
    ("limits", "why"),
    [
        (ArchiveLimits(members=2), "beyond the 2 members"),
        (ArchiveLimits(member_bytes=2000), "more than the 2000"),
        (ArchiveLimits(total_bytes=2000), "beyond 2000 bytes"),
        (ArchiveLimits(ratio=5, ratio_from_bytes=1000), "a bomb"),
    ],
)
def test_sizes_numbers_and_ratios_are_bounded(tmp_path: Path, make: object, limits: ArchiveLimits, why: str) -> None:
    members: Members = [("a", b"1"), ("b", b"\0" * 2304), ("c", b"2")]
    with pytest.raises(DataError, match=why):
        unpacked(make(members), tmp_path, limits)  # type: ignore[operator]


def test_a_bomb_is_stopped_by_the_usual_limits(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a bomb"):
        unpacked(zip_bytes([("zeros", b"\0" * (40 << 20))]), tmp_path)
    assert sum(p.stat().st_size for p in (tmp_path / "out").rglob("*")) == 0


def test_a_header_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    """A pax header is read at once by the library; one of a gigabyte would be a gigabyte in memory."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    with pytest.raises(DataError, match="at once"):
        unpacked(gzip.compress(info.tobuf(tarfile.USTAR_FORMAT) + b"0" * 4096), tmp_path)


@pytest.mark.parametrize(
    "content", [tar_bytes(HONEST), tar_bytes(HONEST, packed=False)[:-9216], zip_bytes(HONEST), b"", b"<html>"]
)
def test_what_is_cut_short_is_an_error(tmp_path: Path, content: bytes) -> None:
    for cut in sorted({0, 1, len(content) // 3, len(content) // 2, max(0, len(content) - 5)}):
        folder = tmp_path / str(cut)
        folder.mkdir()
        with pytest.raises(DataError, match=r"damaged, cut short|lacks"):
            unpacked(content[:cut], folder)


def test_a_damaged_header_in_the_middle_of_a_tar_does_not_pass_for_its_end(tmp_path: Path) -> None:
    content = bytearray(tar_bytes(HONEST, packed=False))
    content[1024 + 150] ^= 1
    with pytest.raises(DataError, match="header is damaged"):
        unpacked(bytes(content), tmp_path)


def test_a_flipped_bit_in_compressed_data_is_an_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(5000)
    for i, make in enumerate((tar_bytes, zip_bytes)):
        content = bytearray(make([("noise", noise)]))
        content[2500] ^= 4
        folder = tmp_path / str(i)
        folder.mkdir()
        with pytest.raises(DataError, match="damaged"):
            unpacked(bytes(content), folder)


def test_a_zip_whose_members_begin_before_it_is_an_error(tmp_path: Path) -> None:
    content = bytearray(zip_bytes([("a", b"x" * 50)]))
    end = content.rindex(b"PK\x05\x06")
    start = int.from_bytes(content[end + 16 : end + 20], "little")
    content[end + 16 : end + 20] = (start + 30).to_bytes(4, "little")
    with pytest.raises(DataError, match="damaged"):
        unpacked(bytes(content), tmp_path)


def test_many_members_of_whole_blocks_are_read_once(tmp_path: Path) -> None:
    """Sizes that are multiples of 512 make the library step back by one byte, where a stream would begin anew."""
    members: Members = [(f"{i}", bytes([i % 256]) * 512 * (i % 5)) for i in range(300)]
    assert unpacked(tar_bytes(members), tmp_path) == dict(members)


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    content = bytearray(zip_bytes([("secret", b"x")]))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(DataError, match="encrypted"):
        unpacked(bytes(content), tmp_path)


PARTS = st.sampled_from(["a", "b", "..", ".", "", "c d", "é", "__MACOSX", "C:", "x\\y", "\r", "~", "\udc80"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


@settings(max_examples=150)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=1100)), max_size=6), st.booleans())
def test_whatever_the_names_nothing_lands_outside(members: Members, as_zip: bool) -> None:
    """All of the archive inside the folder, or an error; what comes out is what an honest reader would see."""
    try:
        content = zip_bytes(members) if as_zip else tar_bytes(members)
    except UnicodeEncodeError:
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = unpacked(content, Path(folder))
        except DataError:
            assert sorted(p.name for p in Path(folder).iterdir()) in (["out", "x.bin"], ["x.bin"])
            return
        kept = {PurePosixPath(n).as_posix(): c for n, c in members if not n.endswith("/") and "__MACOSX" not in n}
        assert set(found) <= set(kept)
        assert all(found[name] == kept[name] for name in found)


@settings(max_examples=120)
@given(st.integers(0, 2), st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=4))
def test_whatever_is_damaged_there_is_no_other_error(which: int, flips: list[tuple[int, int]]) -> None:
    content = bytearray((tar_bytes(HONEST), tar_bytes(HONEST, packed=False), zip_bytes(HONEST))[which])
    for at, bits in flips:
        content[at % len(content)] ^= bits
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = unpacked(bytes(content), Path(folder))
        except DataError:
            return
        # Checksums cover all of a tar.gz and the contents of a zip; a plain tar has them for headers only.
        assert which == 1 or set(found.values()) <= {content for _, content in HONEST}
