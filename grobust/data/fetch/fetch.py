"""`fetch_dataset`: bring a data set into a folder that is complete or absent.

Work happens in ``FOLDER.fetch/`` beside it: downloads that can be continued, and the tree that grows there. When all is
there and checked, the tree is renamed to ``FOLDER``, with a record of what came from where in `RECORD`.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from grobust.data.fetch.archives import ArchiveLimits, unpack
from grobust.data.fetch.download import Downloaded, TransferSettings, download, sha256_of
from grobust.data.fetch.sources import DataSource, RemoteFile
from grobust.data.fetch.space import require_space
from grobust.errors import DataError, DiskSpaceError, MirrorError
from grobust.typing import PathLike

__all__ = ["RECORD", "FetchResult", "FetchedFile", "fetch_dataset"]

RECORD = "grobust-fetch.json"
LOCK = ".lock"

# What is being done, how far it is and, if known, how far it goes, in bytes.
Progress = Callable[[str, int, int | None], None]


@dataclass(frozen=True)
class FetchedFile:
    """Where a file of the data set came from.

    Parameters
    ----------
    name : of the file
    url : address that delivered it; None if it was placed by hand
    bytes, sha256 : of what came
    verified : whether the SHA-256 was known beforehand and agrees
    """

    name: str
    url: str | None
    bytes: int
    sha256: str
    verified: bool


@dataclass(frozen=True)
class FetchResult:
    """What a fetch did.

    Parameters
    ----------
    name : of the data set
    folder : where it is
    files : what was downloaded
    reused : it was there already; `files` is what the record in the folder says
    notes : addresses that did not work, digests that nobody has published
    """

    name: str
    folder: Path
    files: tuple[FetchedFile, ...]
    reused: bool
    notes: tuple[str, ...]


def fetch_dataset(
    source: DataSource,
    folder: PathLike,
    *,
    settings: TransferSettings | None = None,
    limits: ArchiveLimits | None = None,
    on_progress: Progress | None = None,
) -> FetchResult:
    """Download a data set, unpack it, check that it is whole.

    An interrupted fetch continues when it is called again. A file that was placed in ``FOLDER.fetch/`` by hand is
    taken instead of a download.

    Parameters
    ----------
    source : see `grobust.data.fetch.sources.load_sources`
    folder : must not exist, or be empty, or hold this data set from an earlier fetch
    settings, limits : patience with servers, and trust in archives
    on_progress : called with what is done and with bytes

    Raises
    ------
    DataError
        If the folder holds something else, another process is fetching, the disk is full, or no address works; then
        the message has the reason for each of them and the steps to do by hand.
    """
    target = Path(os.path.abspath(folder))
    there = _fetched_before(source, target)
    if there is not None:
        return there
    work = target.with_name(f"{target.name}.fetch")
    with _disk_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        with _locked(work, target):
            try:
                return _Fetch(source, target, work, settings or TransferSettings(), limits, on_progress).run()
            finally:
                _tidy(work)


class _Fetch:
    """One data set on its way into a folder."""

    def __init__(
        self,
        source: DataSource,
        target: Path,
        work: Path,
        settings: TransferSettings,
        limits: ArchiveLimits | None,
        on_progress: Progress | None,
    ) -> None:
        self.source, self.target, self.work, self.settings, self.limits = source, target, work, settings, limits
        self.on_progress = on_progress
        self.tree, self.fresh = work / "tree", work / "unpacked"
        self.notes: list[str] = []

    def run(self) -> FetchResult:
        """Every file, then the check, then the name."""
        for old in (self.tree, self.fresh):
            shutil.rmtree(old, ignore_errors=True)
        require_space(
            self.work, self.source.disk_bytes - self._there(), f"{self.source.name} (downloaded and unpacked)"
        )
        self.tree.mkdir()
        files = tuple(self._file(file) for file in self.source.files)
        missing = [path for path in self.source.needs if not (self.tree / path).exists()]
        if missing:
            listed = ", ".join(sorted(path.name for path in self.tree.iterdir())[:10])
            raise DataError(
                f"What was downloaded lacks {', '.join(missing)}; it has {listed}.\n"
                f"Remove {self.work} to download again, or proceed by hand.\n{self._by_hand()}"
            )
        record = {"data_set": self.source.name, "license": self.source.license, "files": [asdict(f) for f in files]}
        (self.tree / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        self.tree.replace(self.target)
        shutil.rmtree(self.work, ignore_errors=True)
        return FetchResult(self.source.name, self.target, files, False, tuple(self.notes))

    def _there(self) -> int:
        """Bytes that an earlier run downloaded."""
        names = {f"{file.name}{end}" for file in self.source.files for end in ("", ".part")}
        return sum(path.stat().st_size for path in self.work.iterdir() if path.name in names)

    def _file(self, file: RemoteFile) -> FetchedFile:
        """One file, from what is there or from the first address that delivers it."""
        failures: list[str] = []
        for url in (None, *file.mirrors):
            try:
                got = self._placed(file) if url is None else self._from(file, url)
                if got is None:
                    continue
                self._place(file, got)
            except MirrorError as error:
                failures.append(f"{url or self.work / file.name}: {error}")
                self.notes.append(f"{file.name}: {failures[-1]}")
                continue
            if not got.verified:
                self.notes.append(
                    f"{file.name}: nobody has published its SHA-256, so it could not be verified; it is {got.sha256}"
                )
            return FetchedFile(file.name, got.url, got.bytes, got.sha256, got.verified)
        tried = "\n".join(f"  {failure}" for failure in failures)
        raise DataError(f"No address delivers {file.name} of {self.source.name}:\n{tried}\n{self._by_hand()}")

    def _from(self, file: RemoteFile, url: str) -> Downloaded:
        def progress(done: int, total: int | None) -> None:
            if self.on_progress is not None:
                self.on_progress(f"download {file.name}", done, total)

        got = download(file, url, self.work, settings=self.settings, on_progress=progress)
        (self.work / f"{file.name}.json").write_text(json.dumps({"url": url, "sha256": got.sha256}))
        return got

    def _placed(self, file: RemoteFile) -> Downloaded | None:
        """A whole file that an earlier run downloaded, or that was placed by hand."""
        path, about = self.work / file.name, self.work / f"{file.name}.json"
        if not path.is_file() or path.is_symlink():
            return None
        digest = sha256_of(path)
        if file.sha256 not in (None, digest):
            path.unlink()
            raise MirrorError(f"it has SHA-256 {digest} instead of {file.sha256}; it was removed")
        with suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads(about.read_text())
            if known["sha256"] == digest:
                return Downloaded(path, str(known["url"]), path.stat().st_size, digest, file.sha256 is not None)
        return Downloaded(path, None, path.stat().st_size, digest, file.sha256 is not None)

    def _place(self, file: RemoteFile, got: Downloaded) -> None:
        """Put a file, or what it holds, into the tree; what cannot be used is removed and another address tried."""
        if not file.archive:
            shutil.copyfile(got.path, self.tree / file.name)
            return

        def progress(done: int, total: int | None) -> None:
            if self.on_progress is not None:
                self.on_progress(f"unpack {file.name}", done, total)

        try:
            unpack(got.path, self.fresh, limits=self.limits, on_progress=progress)
            top = _top(self.fresh, {path.split("/")[0] for path in self.source.needs})
            double = sorted(path.name for path in top.iterdir() if (self.tree / path.name).exists())
            if double:
                raise DataError(f"{file.name} holds {double[0]!r}, which another file brought already.")
            for path in top.iterdir():
                path.rename(self.tree / path.name)
        except DiskSpaceError:
            raise
        except DataError as error:
            got.path.unlink()
            raise MirrorError(str(error)) from None
        finally:
            shutil.rmtree(self.fresh, ignore_errors=True)

    def _by_hand(self) -> str:
        words = {"folder": self.target, "downloads": self.work, "homepage": self.source.homepage}
        lines = [line.format(**words) for line in self.source.manual]
        return "\n".join(["By hand:", *(f"  {line}" for line in lines)]) if lines else f"See {self.source.homepage}."


def _tidy(work: Path) -> None:
    """Remove the folder of work if there is nothing in it to continue from."""
    if work.exists() and not any(path.is_file() and path.name != LOCK for path in work.iterdir()):
        shutil.rmtree(work, ignore_errors=True)


def _top(folder: Path, needed: set[str]) -> Path:
    """Where the content begins: archives often hold one folder that holds everything."""
    while len(entries := list(folder.iterdir())) == 1 and entries[0].is_dir() and entries[0].name not in needed:
        folder = entries[0]
    return folder


def _fetched_before(source: DataSource, target: Path) -> FetchResult | None:
    """What the folder holds from an earlier fetch; None if it is free.

    Raises
    ------
    DataError
        If it holds something else.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return None
    if not target.is_dir():
        raise DataError(f"{target} is not a folder. Choose another --data-dir.")
    try:
        record = json.loads((target / RECORD).read_text())
        name, files = record["data_set"], tuple(FetchedFile(**file) for file in record["files"])
    except FileNotFoundError:
        whole = source.needs and all((target / path).exists() for path in source.needs)
        hint = "It looks whole already; use it as it is, or choose" if whole else "Choose"
        raise DataError(
            f"{target} is not empty, and what it holds does not come from `grobust data fetch`.\n"
            f"{hint} a new --data-dir; nothing is overwritten."
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{target / RECORD} is damaged. Choose a new --data-dir.") from None
    if name != source.name:
        raise DataError(f"{target} holds '{name}', not '{source.name}'. Choose a new --data-dir.")
    missing = [path for path in source.needs if not (target / path).exists()]
    if missing:
        raise DataError(f"{target} holds '{name}' but lacks {', '.join(missing)}. Remove it and fetch again.")
    return FetchResult(source.name, target, files, True, ())


@contextmanager
def _locked(work: Path, target: Path) -> Iterator[None]:
    lock = FileLock(work / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(
            f"Another process is fetching into {target} (it holds {work / '.lock'}). Wait for it."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(work: Path) -> Iterator[None]:
    """Say in words what a disk's refusal means."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        what = "the disk is full" if full else (error.strerror or os.strerror(error.errno or errno.EIO))
        where = error.filename or work
        raise DataError(
            f"Cannot write {where}: {what}. What was downloaded is kept in {work}.\n"
            "Mend this and run the same command again; it continues."
        ) from error
