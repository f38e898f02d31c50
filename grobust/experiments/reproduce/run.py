"""`run_reproduce`: a figure or table of the paper, got beside expected, from records alone."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grobust.errors import ConfigError
from grobust.experiments.records import read_records
from grobust.experiments.reproduce.compare import Agreement, Row, compared
from grobust.experiments.reproduce.composition import composition_rows
from grobust.experiments.reproduce.networks import finetuned, with_spectra
from grobust.experiments.reproduce.published import Target, target_named

__all__ = ["ReproduceConfig", "ReproduceReport", "run_reproduce"]

RECORDS = "records.jsonl"
SWEEPS = Path("sweeps")


@dataclass(frozen=True)
class ReproduceConfig:
    """Compare records with the paper.

    Parameters
    ----------
    target : figure or table, by its name: ``collapse``, ``rho``, …
    records : files of records, or folders that hold a ``records.jsonl``; none for those of all sweeps in ``sweeps/``
    data : folders of data sets, for ``composition``
    """

    target: str
    records: tuple[Path, ...] = ()
    data: dict[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ReproduceReport:
    """Rows of a target, and the files that were read."""

    target: Target
    records: tuple[Path, ...]
    rows: tuple[Row, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Rows of every agreement."""
        return dict(Counter(str(row.agreement) for row in self.rows))

    @property
    def reproduced(self) -> bool:
        """Whether every published number is there and agrees."""
        return all(row.agreement in (Agreement.AGREES, Agreement.SHOWN) for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "target": self.target.name, "paper": self.target.paper, "content": self.target.content,
            "shape": self.target.shape, "records": list(map(str, self.records)), "counts": self.counts,
            "reproduced": self.reproduced, "rows": [row.as_dict() for row in self.rows],
        }  # fmt: skip


def run_reproduce(config: ReproduceConfig) -> ReproduceReport:
    """Put what records say beside what the paper reports; what is missing is a row that says how it is made.

    Raises
    ------
    ConfigError
        If there is no such target, or a folder is given for an unknown data set.
    DataError
        If a file of records or a data set that is given cannot be read.
    """
    target = target_named(config.target)
    files = tuple(map(_file, config.records)) or tuple(sorted(SWEEPS.glob(f"*/{RECORDS}")))
    known = target.table.get("datasets", [])
    for name in config.data:
        if name not in known:
            raise ConfigError(
                f"'{config.target}' reads no data set '{name}'. It reads: {', '.join(known) or 'records'}."
            )
    if known:
        return ReproduceReport(target, (), tuple(composition_rows(target, config.data)))
    records = [record for path in files for record in read_records(path)]
    rows = compared(target, finetuned(records), with_spectra(records))
    return ReproduceReport(target, files, tuple(rows))


def _file(path: Path) -> Path:
    return path / RECORDS if path.is_dir() else path
