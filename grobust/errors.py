"""Every exception of grobust.

A message says what went wrong, where, what was seen, what was expected and what to do next. Each type also inherits
the builtin a caller would expect, so ``except ValueError`` keeps working. The command line turns a `GrobustError` into
a one-screen message and exit code 2.
"""

__all__ = [
    "BackboneError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "DiskSpaceError",
    "DivergedError",
    "GrobustError",
    "GroupError",
    "MirrorError",
    "RunCorruptError",
    "RunError",
    "RunLockedError",
    "RunMismatchError",
    "ShapeError",
    "StoreCorruptError",
    "StoreError",
    "StoreIncompleteError",
    "StoreLockedError",
    "StoreMismatchError",
    "WorkerError",
]


class GrobustError(Exception):
    """Root of all errors that a user can cause and mend."""


class ConfigError(GrobustError, ValueError):
    """A setting is out of range, unknown, or contradicts another one."""


class ShapeError(GrobustError, ValueError):
    """Arrays do not fit together."""


class GroupError(GrobustError, ValueError):
    """Labels, attributes or groups are not usable as asked: a class without rows, an id out of range."""


class DataError(GrobustError, ValueError):
    """A data set, a file of it, or a value in it is missing or unreadable."""


class DiskSpaceError(DataError):
    """A disk has too little room for what was asked."""


class MirrorError(DataError):
    """One address does not deliver a file; others are tried.

    Parameters
    ----------
    message : why
    retry : whether the same address may work in a moment
    wait_seconds : what the server asks to wait; None if it says nothing
    status : of the HTTP answer, if there was one
    """

    def __init__(
        self, message: str, *, retry: bool = False, wait_seconds: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.retry, self.wait_seconds, self.status = retry, wait_seconds, status


class BackboneError(GrobustError, ValueError):
    """A backbone cannot be named, found or loaded."""


class DeviceError(GrobustError, RuntimeError):
    """A device was asked for and is not there. grobust never falls back to another one silently."""


class DivergedError(GrobustError, ArithmeticError):
    """Training met a loss that is not finite."""


class RunError(GrobustError, OSError):
    """A finetuning run's folder or a checkpoint in it cannot be read or written."""


class RunCorruptError(RunError):
    """A checkpoint is damaged: it was cut short, or a checksum does not hold."""


class RunMismatchError(RunError):
    """A run's folder holds a run with other settings than those asked for."""


class RunLockedError(RunError):
    """Another process is training in this folder."""


class StoreError(GrobustError, OSError):
    """A feature store cannot be read or written."""


class StoreIncompleteError(StoreError):
    """The file is not a finished feature store: rows are missing or it was cut short."""


class StoreCorruptError(StoreError):
    """The content of a feature store is damaged: a checksum or a shape does not hold."""


class StoreMismatchError(StoreError):
    """A feature store (or its parts) was made with other settings than those asked for."""


class StoreLockedError(StoreError):
    """Another process is writing this feature store."""


class WorkerError(GrobustError, RuntimeError):
    """Processes or machines that work together have ended before their work was done."""
