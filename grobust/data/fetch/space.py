"""Whether a disk has room, asked before it is needed."""

import shutil
from pathlib import Path

from grobust.errors import DiskSpaceError

__all__ = ["in_words", "require_space"]

# What a disk should have left beside what is written.
RESERVE_BYTES = 64 << 20


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Check the free space of the disk that holds `folder`.

    Raises
    ------
    DiskSpaceError
        With what is needed and what is there.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + RESERVE_BYTES:
        raise DiskSpaceError(
            f"{what} needs about {in_words(needed_bytes)} in {folder}; {in_words(free)} are free.\n"
            "Free some space or choose another folder. What was downloaded is kept."
        )


def in_words(size: float) -> str:
    """A number of bytes with a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
