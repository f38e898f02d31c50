"""`run_fetch`: a data set by name, from its mirrors into a folder."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from grobust.data.fetch.download import TransferSettings
from grobust.data.fetch.fetch import FetchResult, fetch_dataset
from grobust.data.fetch.sources import DataSource, load_sources
from grobust.errors import ConfigError, DataError
from grobust.experiments.config import plain

__all__ = ["FetchConfig", "FetchReport", "find_source", "run_fetch"]


@dataclass(frozen=True)
class FetchConfig:
    """Download a data set.

    Parameters
    ----------
    name : of the data set in the list of mirrors
    data_dir : folder that will hold it; new, empty, or filled by an earlier fetch
    mirrors : TOML file with a list of mirrors; None for the one that comes with grobust
    attempts, timeout_seconds : see `grobust.data.fetch.download.TransferSettings`
    backoff_seconds : before the second attempt, doubled each time
    """

    name: str
    data_dir: Path
    mirrors: Path | None = None
    attempts: int = TransferSettings.attempts
    timeout_seconds: float = TransferSettings.timeout_seconds
    backoff_seconds: float = TransferSettings.backoff_seconds

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(f"attempts must be at least 1, got {self.attempts}.")
        if not self.timeout_seconds > 0 or not self.backoff_seconds >= 0:
            raise ConfigError(
                f"timeout must be positive and backoff not negative, got {self.timeout_seconds} and "
                f"{self.backoff_seconds} seconds."
            )


@dataclass(frozen=True)
class FetchReport:
    """What was fetched, and under which terms."""

    config: FetchConfig
    source: DataSource
    result: FetchResult

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "config": plain(self.config),
            "title": self.source.title,
            "license": self.source.license,
            "homepage": self.source.homepage,
            "folder": str(self.result.folder),
            "files": [asdict(file) for file in self.result.files],
            "reused": self.result.reused,
            "notes": list(self.result.notes),
        }


def run_fetch(config: FetchConfig, *, on_progress: Callable[[str, int, int | None], None] | None = None) -> FetchReport:
    """Fetch a data set.

    Raises
    ------
    DataError
        If it is unknown, or cannot be had; the message has the steps to do by hand.
    """
    source = find_source(config.name, config.mirrors)
    settings = TransferSettings(
        attempts=config.attempts, backoff_seconds=config.backoff_seconds, timeout_seconds=config.timeout_seconds
    )
    return FetchReport(
        config, source, fetch_dataset(source, config.data_dir, settings=settings, on_progress=on_progress)
    )


def find_source(name: str, mirrors: Path | None = None) -> DataSource:
    """A data set of the list of mirrors.

    Raises
    ------
    DataError
        If it is not there; the message has those that are.
    """
    sources = load_sources(mirrors)
    if name not in sources:
        close = get_close_matches(name, sources, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise DataError(f"There is no list of mirrors for '{name}'.{hint} Known are: {', '.join(sources)}.")
    return sources[name]
