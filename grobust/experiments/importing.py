"""`run_import`: somebody's feature cache into a feature store."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grobust.errors import ConfigError
from grobust.experiments.config import plain
from grobust.groups import Split
from grobust.importing.importer import ImportResult, ImportSettings, import_features
from grobust.importing.layouts import CacheFormat

__all__ = ["ImportConfig", "ImportReport", "run_import"]


@dataclass(frozen=True)
class ImportConfig:
    """Read a feature cache that other software wrote.

    Parameters
    ----------
    paths : files of one cache, or folders of them
    out : feature store to write
    format : who wrote it, see `grobust.importing.layouts.CacheFormat`
    keys : names of arrays for ``arrays``, ``features=X`` and the like
    csv, columns : table with what the cache does not say, and its columns
    split : train, val or test, of rows whose split nobody says
    rename_split : splits to be called otherwise, ``{"val": "train"}``
    name, backbone, dtype, flatten : see `grobust.importing.importer.ImportSettings`
    on_error : rows that are not finite: stop, or skip and list them
    resume : continue from the parts of an interrupted run
    overwrite : replace a finished store
    """

    paths: tuple[Path, ...]
    out: Path
    format: str = "auto"
    keys: dict[str, str] = field(default_factory=dict)
    csv: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    split: str | None = None
    rename_split: dict[str, str] = field(default_factory=dict)
    name: str | None = None
    backbone: str | None = None
    dtype: str = "auto"
    flatten: bool = False
    on_error: str = "stop"
    resume: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not self.paths:
            raise ConfigError("paths is empty; give at least one file or folder.")
        if self.format not in set(CacheFormat):
            raise ConfigError(f"format must be one of {', '.join(CacheFormat)}; got {self.format!r}.")
        if self.on_error not in ("stop", "skip"):
            raise ConfigError(f"on_error must be one of stop, skip; got {self.on_error!r}.")
        if self.columns and self.csv is None and set(self.columns) - {"class_names", "attribute_names"}:
            raise ConfigError("columns are named, but there is no CSV that has them: --csv FILE.")


@dataclass(frozen=True)
class ImportReport:
    """What an import did; `result` has rows and notes."""

    config: ImportConfig
    result: ImportResult

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        result = asdict(self.result)
        result |= {"path": str(self.result.path), "files": [str(path) for path in self.result.files]}
        return {"config": plain(self.config), "result": result | {"layout": str(self.result.layout)}}


def run_import(config: ImportConfig, *, on_progress: Callable[[int, int], None] | None = None) -> ImportReport:
    """Import a cache.

    Raises
    ------
    ConfigError
        If a setting is unknown.
    DataError
        See `grobust.importing.importer.import_features`.
    """
    settings = ImportSettings(
        layout=CacheFormat(config.format),
        keys=config.keys,
        csv=config.csv,
        columns=config.columns,
        split=None if config.split is None else _split(config.split),
        renamed={_split(old): _split(new) for old, new in config.rename_split.items()},
        name=config.name,
        backbone=config.backbone,
        dtype=config.dtype,
        flatten=config.flatten,
        skip_bad=config.on_error == "skip",
    )
    result = import_features(
        config.paths, config.out, settings=settings, resume=config.resume, overwrite=config.overwrite,
        on_progress=on_progress,
    )  # fmt: skip
    return ImportReport(config, result)


def _split(name: str) -> Split:
    try:
        return Split[name.upper()]
    except KeyError:
        raise ConfigError(f"a split must be train, val or test; got {name!r}.") from None
