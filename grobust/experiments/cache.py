"""Stores of a folder: what made each, who used it, whether it is sound, and which may go."""

import fnmatch
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from grobust.errors import ConfigError, DataError, StoreError
from grobust.experiments.gathered import DEFAULT_NAME
from grobust.experiments.records import read_records
from grobust.features._schema import Provenance
from grobust.features.cache import (
    PARTS_SUFFIX,
    State,
    StoredFile,
    cache_folder,
    list_stores,
    remove_store,
    stored_file,
)
from grobust.features.store import FeatureStore

__all__ = [
    "CacheConfig",
    "CacheEntry",
    "CacheReport",
    "CollectConfig",
    "CollectReport",
    "Use",
    "run_cache_collect",
    "run_cache_info",
    "run_cache_list",
    "run_cache_verify",
]

# An unfinished store may be written by a machine whose lock cannot be seen here; what is this young is left alone.
UNFINISHED_SECONDS = 3600.0
DAY = 86400.0


@dataclass(frozen=True)
class CacheConfig:
    """Look at the stores of a folder.

    Parameters
    ----------
    folder : with stores, in folders below it too; None for the cache folder
    records : files of records, or folders with a ``records.jsonl``, in which uses are looked up
    """

    folder: Path | None = None
    records: tuple[Path, ...] = ()

    @property
    def root(self) -> Path:
        """The folder."""
        return cache_folder() if self.folder is None else self.folder


@dataclass(frozen=True)
class CollectConfig(CacheConfig):
    """Remove stores: those for which every condition given holds.

    Parameters
    ----------
    older_than : seconds since a store was written, and since `records` or `unused_by` last used it; None for any age
    unused_by : files of records; a store that one of them used stays
    keep : paths, or patterns of names, of stores that stay
    max_bytes : remove no more than it takes to come down to this many bytes, the longest unused first; None for all
    delete : remove; else only say what would be
    """

    older_than: float | None = None
    unused_by: tuple[Path, ...] = ()
    keep: tuple[str, ...] = ()
    max_bytes: int | None = None
    delete: bool = False

    def __post_init__(self) -> None:
        if self.older_than is None and not self.unused_by and self.max_bytes is None:
            raise ConfigError(
                "Say which stores may go: --older-than 30d, --unused-by records.jsonl, --max-size 100GB, or several of "
                "these (all must hold)."
            )
        if (self.older_than or 0) < 0 or (self.max_bytes or 0) < 0:
            raise ConfigError(f"Ages and sizes must not be negative, got {self.older_than} and {self.max_bytes}.")


@dataclass(frozen=True)
class Use:
    """A recorded run that read a store."""

    command: str
    time: str
    seed: int | None


@dataclass(frozen=True)
class CacheEntry:
    """A store and the recorded runs that read it."""

    stored: StoredFile
    uses: tuple[Use, ...]
    problem: str = ""

    @property
    def last_needed(self) -> float:
        """When it was written or last used, in seconds since 1970."""
        return max([self.stored.modified, *map(_seconds, self.uses)])

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; ages in days from now."""
        stored = self.stored
        return {
            "path": str(stored.path),
            "state": stored.state,
            "bytes": stored.size,
            "age_days": max(0.0, time.time() - stored.modified) / DAY,
            "unused_days": max(0.0, time.time() - self.last_needed) / DAY,
            "n": stored.n,
            "dim": stored.dim,
            "dtype": stored.dtype,
            "made_by": stored.identity,
            "uses": [asdict(use) for use in self.uses],
            "problem": self.problem or stored.problem,
        }


@dataclass(frozen=True)
class CacheReport:
    """Stores of a folder, in the order of their paths."""

    folder: Path
    entries: tuple[CacheEntry, ...]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(entry.stored.size for entry in self.entries)

    @property
    def sound(self) -> bool:
        """Whether no store was found damaged."""
        return not any(
            entry.problem or entry.stored.state in (State.DAMAGED, State.UNREADABLE) for entry in self.entries
        )

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "folder": str(self.folder), "bytes": self.size, "stores": [entry.as_dict() for entry in self.entries],
            "sound": self.sound,
        }  # fmt: skip


@dataclass(frozen=True)
class CollectReport:
    """What was removed, or would be, and what stayed though the conditions hold, with the reason."""

    folder: Path
    deleted: bool
    chosen: tuple[CacheEntry, ...]
    stayed: tuple[tuple[Path, str], ...]
    bytes_before: int

    @property
    def freed(self) -> int:
        """Bytes of what was chosen."""
        return sum(entry.stored.size for entry in self.chosen)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "folder": str(self.folder), "deleted": self.deleted, "bytes_before": self.bytes_before,
            "bytes_freed": self.freed, "stores": [entry.as_dict() for entry in self.chosen],
            "stayed": [{"path": str(path), "reason": reason} for path, reason in self.stayed],
        }  # fmt: skip


def run_cache_list(config: CacheConfig) -> CacheReport:
    """The stores of a folder, from their headers alone.

    Raises
    ------
    StoreError
        If there is no such folder.
    DataError
        If there are no records where some were named.
    """
    return CacheReport(config.root, tuple(_entries(config.root, config.records)))


def run_cache_info(config: CacheConfig, name: str) -> CacheEntry:
    """One store: a path, or the name of a store in the folder, whole or its beginning.

    Raises
    ------
    StoreError
        If nothing, or several stores, are called so.
    """
    there = Path(name)
    stored = stored_file(there) if there.exists() else None
    if stored is None:
        entries = [e for e in list_stores(config.root) if e.path.name.startswith(name)] if config.root.is_dir() else []
        entries = [entry for entry in entries if entry.path.name == name] or entries
        if len(entries) != 1:
            some = ", ".join(e.path.name for e in entries[:5]) or "none"
            raise StoreError(f"{name} is no store; names in {config.root} that begin so: {some}. Expected one.")
        stored = entries[0]
    return next(iter(_with_uses([stored], config.records)))


def run_cache_verify(config: CacheConfig, *, on_progress: Callable[[str, int, int], None] | None = None) -> CacheReport:
    """Read every byte of every finished store; what is damaged says so in its `problem`."""
    entries = []
    for entry in _entries(config.root, config.records):
        problem = ""
        if entry.stored.state == State.FINISHED:
            try:
                with FeatureStore(entry.stored.path) as store:
                    store.verify(_named(on_progress, entry.stored.path.name))
            except StoreError as error:
                problem = str(error)
        entries.append(CacheEntry(entry.stored, entry.uses, problem))
    return CacheReport(config.root, tuple(entries))


def run_cache_collect(config: CollectConfig) -> CollectReport:
    """Choose stores that the conditions allow to go, and remove them where `delete` says so.

    What is being written stays, and so does everything that is not a store, and whatever a link leads to.

    Raises
    ------
    DataError
        If `unused_by` names records that are not there: without them everything would seem unused.
    """
    entries = list(_entries(config.root, (*config.records, *config.unused_by)))
    before = sum(entry.stored.size for entry in entries)
    allowed = sorted(filter(lambda entry: _may_go(config, entry), entries), key=lambda entry: entry.last_needed)
    chosen: list[CacheEntry] = []
    stayed: list[tuple[Path, str]] = []
    left = before
    for entry in allowed:
        if config.max_bytes is not None and left <= config.max_bytes:
            break
        try:
            remove_store(entry.stored, delete=config.delete)
        except StoreError as error:
            stayed.append((entry.stored.path, str(error)))
            continue
        chosen.append(entry)
        left -= entry.stored.size
    return CollectReport(config.root, config.delete, tuple(chosen), tuple(stayed), before)


def _may_go(config: CollectConfig, entry: CacheEntry) -> bool:
    stored, age = entry.stored, time.time() - entry.last_needed
    if stored.state == State.UNREADABLE:
        return False
    paths = [stored.path]
    if stored.state == State.UNFINISHED:
        # Whoever keeps a store keeps what is there of it.
        paths.append(stored.path.with_name(stored.path.name.removesuffix(PARTS_SUFFIX)))
    if any(fnmatch.fnmatch(path.name, kept) or _same(path, kept) for kept in config.keep for path in paths):
        return False
    if stored.state == State.UNFINISHED and time.time() - stored.modified < UNFINISHED_SECONDS:
        return False
    return (config.older_than is None or age >= config.older_than) and not (config.unused_by and entry.uses)


def _same(path: Path, text: str) -> bool:
    return path.resolve() == Path(text).resolve()


def _entries(root: Path, records: Sequence[Path]) -> Iterable[CacheEntry]:
    return _with_uses(list_stores(root), records)


def _with_uses(stores: Sequence[StoredFile], records: Sequence[Path]) -> Iterator[CacheEntry]:
    """Stores with the records that name what made them, or their path: either makes a use."""
    # All records, repeated runs included: two that say the same may have read stores at different places.
    uses: list[Use] = []
    by_key: dict[str, set[int]] = {}
    for record in _read_all(records):
        for key in _keys(record, [file.parent if file.is_file() else file for file in records]):
            by_key.setdefault(key, set()).add(len(uses))
        uses.append(Use(str(record.get("command")), str(record.get("time")), record.get("seed")))
    for stored in stores:
        found = by_key.get(str(stored.path.resolve()), set())
        if stored.identity:
            found = found | by_key.get(_key(stored.identity), set())
        yield CacheEntry(stored, tuple(uses[i] for i in sorted(found)))


def _read_all(paths: Sequence[Path]) -> list[dict[str, Any]]:
    files = [path / DEFAULT_NAME if path.is_dir() else path for path in paths]
    found = [record for file in dict.fromkeys(files) for record in read_records(file)]
    if paths and not found:
        raise DataError(f"{', '.join(map(str, files))}: no run is recorded there, so every store would seem unused.")
    return found


def _keys(value: Any, folders: Sequence[Path]) -> Iterator[str]:
    """Everything in a record that may name a store: provenances, and paths seen from here or from the records."""
    if isinstance(value, dict):
        with suppress(TypeError, AttributeError):
            yield _key(Provenance(**value).identity())
        for item in value.values():
            yield from _keys(item, folders)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item, folders)
    elif isinstance(value, str) and Path(value).suffix in (".h5", ".hdf5"):
        yield from {str((folder / value).resolve()) for folder in (Path(), *folders)}


def _seconds(use: Use) -> float:
    """When a run finished; one that does not say counts as of now, so that what it used stays."""
    try:
        return datetime.fromisoformat(use.time).timestamp()
    except ValueError:
        return time.time()


def _key(identity: dict[str, str]) -> str:
    return json.dumps(identity, sort_keys=True)


def _named(on_progress: Callable[[str, int, int], None] | None, name: str) -> Callable[[int, int], None] | None:
    return None if on_progress is None else lambda done, total: on_progress(name, done, total)
