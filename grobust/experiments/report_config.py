"""Configs of what reads records: `grobust table`, `grobust plot`, `grobust report`."""

from dataclasses import dataclass, field
from pathlib import Path

from grobust.errors import ConfigError
from grobust.report.choices import BestIn, PlotKind, Projection, TableFormat

__all__ = ["OF_CURVES", "PlotConfig", "ReportConfig", "TableConfig"]


# Metrics that runs keep of every epoch, as fields name them, and the curves' own names.
OF_CURVES = {"test.wga": "wga", "test.average": "average"}
SUFFIXES = {".md": TableFormat.MARKDOWN, ".tex": TableFormat.LATEX, ".csv": TableFormat.CSV}


@dataclass(frozen=True)
class TableConfig:
    """Print a field of records by two others.

    Parameters
    ----------
    records : files of records, or folders with a ``records.jsonl``
    rows, columns, value : fields, see `grobust.report.fields`
    where : conditions, ``field=value``
    ddof : 0 for the population sd, 1 for the sample sd
    best_in, lower_is_better : see `grobust.report.tables.pivot`
    out : file for the table, its suffix one of ``.md``, ``.tex``, ``.csv``; None for none
    """

    records: tuple[Path, ...]
    rows: str = "method"
    columns: str = "dataset"
    value: str = "test.wga"
    where: tuple[str, ...] = ()
    ddof: int = 0
    best_in: BestIn = BestIn.COLUMN
    lower_is_better: bool = False
    out: Path | None = None

    def __post_init__(self) -> None:
        if self.ddof not in (0, 1):
            raise ConfigError(f"ddof must be 0 (divide by n) or 1 (divide by n - 1), got {self.ddof}.")
        if self.out is not None and self.out.suffix not in SUFFIXES:
            raise ConfigError(f"out must end in {', '.join(SUFFIXES)}, got {str(self.out)!r}.")

    @property
    def out_format(self) -> TableFormat | None:
        """The format that the suffix of `out` names."""
        return None if self.out is None else SUFFIXES[self.out.suffix]


@dataclass(frozen=True)
class PlotConfig:
    """Draw one figure from records.

    Parameters
    ----------
    kind : the figure
    records : files of records, or folders with a ``records.jsonl``
    out : file, its suffix one of ``.png``, ``.svg``, ``.pdf``; the numbers go beside it as CSV
    where : conditions, ``field=value``
    x : field on the horizontal axis of ``scaling`` and ``mixture-ablation``; None for the kind's own
    value : metric on the vertical axis where the kind leaves a choice
    """

    kind: PlotKind
    records: tuple[Path, ...]
    out: Path
    where: tuple[str, ...] = ()
    x: str | None = None
    value: str = "test.wga"

    def __post_init__(self) -> None:
        if self.out.suffix not in (".png", ".svg", ".pdf"):
            raise ConfigError(f"out must end in .png, .svg or .pdf, got {str(self.out)!r}.")
        if self.x is not None and self.kind not in (PlotKind.SCALING, PlotKind.MIXTURE_ABLATION):
            raise ConfigError(f"x is for scaling and mixture-ablation; {self.kind} has an axis of its own.")
        if self.kind in (PlotKind.COLLAPSE, PlotKind.MIXTURE) and self.value not in OF_CURVES:
            raise ConfigError(f"value of {self.kind} must be {' or '.join(OF_CURVES)}, got {self.value!r}.")


@dataclass(frozen=True)
class ReportConfig:
    """Write one self-contained HTML page.

    Parameters
    ----------
    records : files of records, or folders with a ``records.jsonl``
    out : file, ``.html``
    stores : feature stores whose rows are drawn, or folders with some; of none, those of the sweeps among `records`
    heads : files of heads on these features, for mistakes; of none, those of the sweeps among `records`
    head : name or number of the one to use; None for the recommended method's, or the first
    datasets, data_dir, columns : where texts and thumbnails of the stores' rows come from
    diagnosis : JSON that ``grobust diagnose --json`` printed; None for none
    where : conditions, ``field=value``
    title : of the page
    projection, points : how features are drawn, and of how many rows per store at most
    examples : mistakes shown, and as many right ones beside them
    seed : of the rows drawn and of UMAP
    """

    records: tuple[Path, ...]
    out: Path
    stores: tuple[Path, ...] = ()
    heads: tuple[Path, ...] = ()
    head: str | None = None
    datasets: tuple[str, ...] = ()
    data_dir: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    diagnosis: Path | None = None
    where: tuple[str, ...] = ()
    title: str | None = None
    projection: Projection = Projection.PCA
    points: int = 50_000
    examples: int = 12
    seed: int = 1

    def __post_init__(self) -> None:
        if self.out.suffix not in (".html", ".htm"):
            raise ConfigError(f"out must end in .html, got {str(self.out)!r}.")
        if self.points < 3 or self.examples < 1:
            raise ConfigError(f"points must be at least 3 and examples 1, got {self.points} and {self.examples}.")
