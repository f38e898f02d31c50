"""A folder of stores: which are there, what made them, names made of what decides their content, and removal.

Only what says itself that it is grobust's is listed or removed. Links are never followed, neither to files nor to
folders.
"""

import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import xxhash

from grobust.errors import StoreCorruptError, StoreError, StoreLockedError
from grobust.features._hdf5 import read_header
from grobust.features._schema import Provenance
from grobust.features.store import parts_folder
from grobust.typing import PathLike

__all__ = [
    "CACHE_VARIABLE",
    "PARTS_SUFFIX",
    "State",
    "StoredFile",
    "cache_folder",
    "cached_path",
    "list_stores",
    "remove_store",
    "stored_file",
]

CACHE_VARIABLE = "GROBUST_CACHE"
PARTS_SUFFIX = ".parts"
# What a writer keeps in its folder; a folder with anything else in it is somebody else's, or somebody put something
# there.
PARTS_FILES = re.compile(
    r"plan\.json|part-.*\.safetensors|skip-.*\.json|assembled\.h5|worker-\d+\.log|.*\.lock|\.lock.*|.*\.tmp"
)
LOCK_FILES = re.compile(r".*\.lock|\.lock.*")
PLAN_FIELDS = {"backbone", "weights_digest", "dataset", "dataset_digest", "rows", "dim", "format_version"}
NAME_CHARACTERS = 40
DIGEST_CHARACTERS = 16


class State(StrEnum):
    """What a file or folder is that may be a store."""

    FINISHED = "finished"
    UNFINISHED = "unfinished"
    DAMAGED = "damaged"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class StoredFile:
    """A store as it lies in a folder, without having read its features.

    Parameters
    ----------
    path : of the file, or of the folder of parts of one that is not finished
    state : ``finished``, ``unfinished``, ``damaged`` (its header cannot be read) or ``unreadable`` (an HDF5 file that
        cannot be opened: perhaps a store that was cut short, perhaps none; it is never removed)
    size : bytes on disk
    modified : when it was written last, in seconds since 1970
    identity : what made it, see `Provenance.identity`; empty where damaged
    n, dim, dtype : rows, features and their dtype; of an unfinished one what it will have, n unknown
    problem : why it counts as damaged
    file_number : inode, by which a removal sees that the file is still the one that was listed
    """

    path: Path
    state: State
    size: int
    modified: float
    identity: dict[str, str]
    n: int | None
    dim: int | None
    dtype: str
    problem: str
    file_number: int


def cache_folder() -> Path:
    """Where stores without a name of their own go: `GROBUST_CACHE`, else ``grobust`` in the user's cache folder
    (`XDG_CACHE_HOME`, ``~/.cache``)."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "grobust"


def cached_path(provenance: Provenance, folder: PathLike | None = None) -> Path:
    """The place of a store in the cache: ``DATASET-BACKBONE-DIGEST.h5``.

    The digest is of everything that decides the features, so the same request has the same name.
    """
    identity = json.dumps(provenance.identity(), sort_keys=True)
    digest = xxhash.xxh3_128_hexdigest(identity.encode())[:DIGEST_CHARACTERS]
    words = (re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("._") for text in (provenance.dataset, provenance.backbone))
    name = "-".join((*(word[:NAME_CHARACTERS] for word in words), digest))
    return (cache_folder() if folder is None else Path(folder)) / f"{name}.h5"


def list_stores(folder: PathLike) -> list[StoredFile]:
    """All stores under a folder, finished and unfinished, in the order of their paths.

    Raises
    ------
    StoreError
        If there is no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise StoreError(f"{root} is not a folder. Expected a folder with stores that `grobust extract` wrote.")
    found = []
    for where, folders, files in os.walk(root, followlinks=False):
        paths = [Path(where) / name for name in (*files, *folders)]
        folders[:] = sorted(name for name in folders if not name.endswith(PARTS_SUFFIX))
        found += [stored for stored in map(stored_file, sorted(paths)) if stored is not None]
    return sorted(found, key=lambda stored: stored.path)


def stored_file(path: Path) -> StoredFile | None:
    """What lies at a path, or None if it is no store, or a link."""
    try:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode):
            return _finished(path, status)
        if stat.S_ISDIR(status.st_mode) and path.name.endswith(PARTS_SUFFIX):
            return _unfinished(path, status)
    except (FileNotFoundError, PermissionError):
        pass  # Gone meanwhile, or none of ours.
    return None


def _finished(path: Path, status: os.stat_result) -> StoredFile | None:
    try:
        header = read_header(path)
    except StoreError as error:
        # What is not known to be damaged, such as a store of another version, is never removed.
        state = State.DAMAGED if isinstance(error, StoreCorruptError) else State.UNREADABLE
        return StoredFile(path, state, status.st_size, status.st_mtime, {}, None, None, "", str(error), status.st_ino)
    if header is None:
        return None
    identity = Provenance(**header["provenance"]).identity()
    return StoredFile(
        path, State.FINISHED, status.st_size, status.st_mtime, identity, header["n"], header["dim"], header["dtype"],
        "", status.st_ino,
    )  # fmt: skip


def _unfinished(path: Path, status: os.stat_result) -> StoredFile | None:
    try:
        plan = json.loads((path / "plan.json").read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(plan, dict) or PLAN_FIELDS - plan.keys():
        return None
    files = [file.lstat() for file in path.iterdir()]
    identity = {k: str(v) for k, v in plan.items() if k not in ("rows", "dim", "format_version")}
    identity = {k: v for k, v in identity.items() if not k.startswith("versions.")}
    return StoredFile(
        path, State.UNFINISHED, sum(file.st_size for file in files), max(file.st_mtime for file in files), identity,
        None, int(plan["dim"]), identity.get("dtype", ""), "", status.st_ino,
    )  # fmt: skip


def remove_store(stored: StoredFile, *, delete: bool = True) -> None:
    """Remove a store, or the parts of one that is not finished; nothing that changed since it was listed.

    Parameters
    ----------
    stored : as it was listed
    delete : False only sees whether it may be removed

    Raises
    ------
    StoreLockedError
        If it is being written.
    StoreError
        If it is another file by now, a folder of parts holds something that is not grobust's, or the system refuses.
    """
    with _writing_refused(stored):
        now = stored_file(stored.path)
        if now is None or (now.file_number, now.state, now.size) != (stored.file_number, stored.state, stored.size):
            raise StoreError(f"{stored.path} has changed since it was listed; it stays. List it again.")
        if stored.state == State.UNREADABLE:
            raise StoreError(f"{stored.path} may be no store; it stays.")
        files = list(stored.path.iterdir()) if stored.state == State.UNFINISHED else []
        foreign = [file.name for file in files if not (_is_plain(file) and PARTS_FILES.fullmatch(file.name))]
        if foreign:
            raise StoreError(f"{stored.path} holds what is not grobust's ({', '.join(sorted(foreign)[:3])}); it stays.")
        if not delete:
            return
        try:
            if stored.state != State.UNFINISHED:
                stored.path.unlink()
                return
            # The plan goes last: whatever interrupts this, what is left can be listed and removed again.
            for file in sorted(files, key=lambda file: file.name == "plan.json"):
                file.unlink()
            stored.path.rmdir()
        except OSError as error:
            raise StoreError(f"{stored.path} cannot be removed: {error.strerror or error}.") from error


@contextmanager
def _writing_refused(stored: StoredFile) -> Iterator[None]:
    """Hold the locks of a store's writers meanwhile.

    Raises
    ------
    StoreLockedError
        If one of them is at work.
    """
    folder = stored.path if stored.state == State.UNFINISHED else parts_folder(stored.path)
    with ExitStack() as held:
        if folder.is_dir() and not folder.is_symlink():
            for file in folder.iterdir():
                if LOCK_FILES.fullmatch(file.name) and _is_plain(file):
                    held.enter_context(_locked(file, stored))
        yield


@contextmanager
def _locked(lock: Path, stored: StoredFile) -> Iterator[None]:
    """As `filelock` locks it, but opened for reading: a lock is taken without touching the file."""
    descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreLockedError(f"{stored.path} is being written; it stays.") from None
        yield
    finally:
        os.close(descriptor)


def _is_plain(path: Path) -> bool:
    """A file, and no link to one."""
    return stat.S_ISREG(path.lstat().st_mode)
