"""`run_table`: one field of records by two others."""

from dataclasses import dataclass
from typing import Any

from grobust.experiments.gathered import gather_runs
from grobust.experiments.report_config import TableConfig
from grobust.report.choices import TableFormat
from grobust.report.tables import PivotTable, pivot, to_csv, to_latex, to_markdown
from grobust.report.whole_file import write_whole

__all__ = ["TableReport", "run_table"]


@dataclass(frozen=True, eq=False)
class TableReport:
    """A table, and what a reader must know beside its own notes."""

    config: TableConfig
    table: PivotTable
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "records": [str(path) for path in self.config.records],
            **self.table.as_dict(),
            "notes": [*self.table.notes, *self.notes],
            "out": None if self.config.out is None else str(self.config.out),
        }

    def text(self, form: TableFormat) -> str:
        """The table in a format."""
        return {TableFormat.MARKDOWN: to_markdown, TableFormat.LATEX: to_latex, TableFormat.CSV: to_csv}[form](
            self.table
        )


def run_table(config: TableConfig) -> TableReport:
    """Read records, gather one field by two others, write the table where asked for.

    Raises
    ------
    DataError
        If records are missing or damaged.
    ConfigError
        If a field or condition is unknown or unusable.
    """
    records, notes = gather_runs(config.records, where=config.where)
    table = pivot(
        records, rows=config.rows, columns=config.columns, value=config.value, ddof=config.ddof,
        best_in=config.best_in, lower_is_better=config.lower_is_better,
    )  # fmt: skip
    report = TableReport(config, table, notes)
    if config.out is not None and config.out_format is not None:
        write_whole(config.out, report.text(config.out_format))
    return report
