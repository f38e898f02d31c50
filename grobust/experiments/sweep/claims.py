"""Claims: who works on which step, among processes of several machines that share a folder.

A claim is a file that its owner touches again and again. It is free again when it has not been touched for a while, by
the clock of the file system, or when its owner ran on this machine and is no more. Work that is done twice all the same
(a machine that slept) joins the records once.
"""

import contextlib
import json
import os
import socket
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

__all__ = ["Claims"]

HEARTBEAT_SECONDS = 5.0
# Longer than a heartbeat by what a busy network file system may hold one back.
STALE_SECONDS = 60.0
NAME = "claim.json"


@dataclass
class Claims:
    """Claims of this process below a folder; a thread keeps them alive until `close`.

    Parameters
    ----------
    root : folder of the sweep
    stale_seconds : age from which a claim is nobody's
    heartbeat_seconds : between two touches
    """

    root: Path
    stale_seconds: float = STALE_SECONDS
    heartbeat_seconds: float = HEARTBEAT_SECONDS
    _token: str = field(default_factory=lambda: uuid.uuid4().hex)
    _held: set[Path] = field(default_factory=set)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def take(self, folder: Path) -> bool:
        """Claim a step's folder; False if somebody else works on it."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / NAME
        with FileLock(self.root / ".claims.lock"):
            if path not in self._held and self._alive(path):
                return False
            about = {"token": self._token, "host": _host(), "pid": os.getpid(), "machine": socket.gethostname()}
            path.write_text(json.dumps(about) + "\n", encoding="utf-8")
        self._held.add(path)
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()
        return True

    def owner(self, folder: Path) -> str | None:
        """Who else works on a step, in words; None for nobody."""
        path = folder / NAME
        if path in self._held or not self._alive(path):
            return None
        about = _read(path)
        return f"{about.get('machine', '?')}, process {about.get('pid', '?')}"

    def release(self, folder: Path) -> None:
        """Give a step back."""
        path = folder / NAME
        self._held.discard(path)
        with FileLock(self.root / ".claims.lock"):
            if _read(path).get("token") == self._token:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Give everything back."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        for path in list(self._held):
            self.release(path.parent)

    def _alive(self, path: Path) -> bool:
        try:
            touched = path.stat().st_mtime
        except FileNotFoundError:
            return False
        about = _read(path)
        if about.get("host") == _host() and not _runs(about.get("pid")):
            return False
        return self._now() - touched < self.stale_seconds

    def _now(self) -> float:
        """The time of the file system, which may be another machine's."""
        clock = self.root / f".clock-{self._token}"
        try:
            clock.touch()
            return clock.stat().st_mtime
        finally:
            clock.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._stop.wait(self.heartbeat_seconds):
            for path in list(self._held):
                with contextlib.suppress(OSError):
                    os.utime(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _host() -> str:
    """This machine since it was started, and the process numbers that are told apart on it (containers have theirs)."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return "/".join(parts)


def _runs(pid: Any) -> bool:
    if not isinstance(pid, int):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
