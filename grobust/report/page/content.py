"""What a page says, as plain data."""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Diagnosis", "Example", "Examples", "GroupRow", "PageContent", "Provenanced", "SummaryCard"]


@dataclass(frozen=True)
class SummaryCard:
    """The conclusion for one data set, backbone and command: a number, sentences, what they leave open, the method."""

    title: str
    figure: str
    figure_of: str
    sentences: tuple[str, ...]
    cautions: tuple[str, ...]
    method: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """What `grobust diagnose` concluded."""

    dataset: str
    backbone: str
    finding: str
    recommendation: str
    evidence: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class GroupRow:
    """Test accuracy of a group by one method: mean, sd and interval over seeds, as proportions; None if undefined."""

    panel: str
    method: str
    group: str
    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    seeds: int
    is_worst: bool


@dataclass(frozen=True)
class Example:
    """One row of a data set under a head.

    Parameters
    ----------
    id, label, predicted : of the row
    confidence : probability of the predicted class
    text : of a text; None otherwise
    image : a thumbnail as data URI of `width` × `height` pixels; empty otherwise
    """

    id: str
    label: str
    predicted: str
    confidence: float
    text: str | None = None
    image: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Examples:
    """The most confident mistakes in the worst group of a store, and right ones beside them."""

    title: str
    caption: str
    kind: str
    wrong: tuple[Example, ...]
    right: tuple[Example, ...]


@dataclass(frozen=True)
class Provenanced:
    """What made the features of some runs: names and values."""

    title: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PageContent:
    """The page. Lists of dicts are what its scripts draw.

    Parameters
    ----------
    title, subtitle, made : of the page
    n_runs : runs in the records
    summaries, diagnosis, notes : the conclusion
    wga, curves, rho, spectra, scatter : panels with a ``title`` each
    groups, examples, provenance, facts : tables
    runs, run_headers, run_numeric, run_settings, settings : the table of runs; the settings of each by number
    """

    title: str
    subtitle: tuple[str, ...]
    made: str
    n_runs: int
    summaries: tuple[SummaryCard, ...] = ()
    diagnosis: Diagnosis | None = None
    notes: tuple[str, ...] = ()
    wga: tuple[dict[str, Any], ...] = ()
    curves: tuple[dict[str, Any], ...] = ()
    groups: tuple[GroupRow, ...] = ()
    rho: tuple[dict[str, Any], ...] = ()
    spectra: tuple[dict[str, Any], ...] = ()
    scatter: tuple[dict[str, Any], ...] = ()
    examples: tuple[Examples, ...] = ()
    provenance: tuple[Provenanced, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    runs: tuple[tuple[Any, ...], ...] = ()
    run_headers: tuple[str, ...] = ()
    run_numeric: tuple[str, ...] = ()
    run_settings: tuple[int, ...] = ()
    settings: tuple[dict[str, Any], ...] = field(default=())

    @property
    def sections(self) -> tuple[tuple[str, str], ...]:
        """Id and name of the sections that the page has."""
        found = (
            ("summary", "Summary", True),
            ("methods", "Methods", bool(self.wga)),
            ("curves", "Over training", bool(self.curves)),
            ("groups", "Groups", bool(self.groups)),
            ("spectra", "Spectra", bool(self.rho or self.spectra)),
            ("features", "Features", bool(self.scatter)),
            ("examples", "Mistakes", bool(self.examples)),
            ("runs", "Runs", True),
            ("reading", "How to read", True),
        )
        return tuple((key, name) for key, name, there in found if there)

    def data(self) -> dict[str, Any]:
        """What the scripts read."""
        names = ("wga", "curves", "rho", "spectra", "scatter", "runs", "run_headers", "run_numeric", "run_settings",
                 "settings")  # fmt: skip
        return {name: getattr(self, name) for name in names}
