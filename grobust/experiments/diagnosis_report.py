"""The page of `grobust diagnose`, as data."""

from dataclasses import asdict, dataclass
from typing import Any

from grobust.comparison import Difference
from grobust.diagnosis import Alignment, ClassGap, Effect, Verdict
from grobust.experiments.evidence_config import DiagnoseConfig
from grobust.experiments.records import jsonable
from grobust.features._schema import Provenance
from grobust.groups import Groups
from grobust.metrics import Estimate, GroupMetrics
from grobust.settings import SelectBy

__all__ = ["BlindChoice", "Check", "Decodability", "DiagnoseReport", "Ratio"]


@dataclass(frozen=True)
class Decodability:
    """How well a linear head tells the attribute, cross-validated.

    `accuracy` is the mean over groups of a head trained with all groups alike, so that knowing the label does not help;
    `chance` is what guessing gives.
    """

    accuracy: Estimate
    chance: float

    @property
    def is_decodable(self) -> bool:
        """Whether the whole interval lies above chance."""
        return self.accuracy.low > self.chance


@dataclass(frozen=True)
class Ratio:
    """ρ(y) with its size-matched null; numbers are NaN where undefined."""

    class_name: str
    rho: float
    null_low: float
    null_high: float
    reading: str


@dataclass(frozen=True)
class BlindChoice:
    """What a criterion without group labels would choose, and how much worst-group accuracy that leaves."""

    criterion: SelectBy
    choice: str
    worst: Estimate
    loss: Difference


@dataclass(frozen=True, eq=False)
class Check:
    """Heads fitted to all training rows, on validation rows that had no part in the conclusion."""

    plain: GroupMetrics
    remedy: GroupMetrics | None
    gain: Difference | None


@dataclass(frozen=True, eq=False)
class DiagnoseReport:
    """The page.

    Parameters
    ----------
    groups : of the training rows used
    l2 : strength of the heads, chosen by the plain head's average accuracy
    plain : cross-validated metrics of the plain head
    gaps, effects : by class and by method
    decodability, alignments, ratios : of the attribute; None or empty where there is none
    blind : choices without group labels
    check : on validation rows; None without any
    """

    config: DiagnoseConfig
    provenance: Provenance
    groups: Groups
    has_attributes: bool
    l2: float
    plain: GroupMetrics
    gaps: tuple[ClassGap, ...]
    decodability: Decodability | None
    alignments: tuple[Alignment, ...]
    ratios: tuple[Ratio, ...]
    effects: tuple[Effect, ...]
    blind: tuple[BlindChoice, ...]
    check: Check | None
    verdict: Verdict
    notes: tuple[str, ...]
    device: str

    @property
    def class_imbalance(self) -> float:
        """γ: rows of the largest over those of the smallest class."""
        counts = self.groups.class_counts
        return float(counts.max() / counts.min())

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report; NaN becomes None."""
        check = self.check
        result: dict[str, Any] = jsonable(
            {
                "store": str(self.config.store),
                "dataset": self.provenance.dataset,
                "backbone": self.provenance.backbone,
                "pooling": self.provenance.pooling,
                "n_train": len(self.groups),
                "class_imbalance": self.class_imbalance,
                "train_counts": dict(zip(self.groups.names, self.groups.counts.tolist(), strict=True)),
                "has_attributes": self.has_attributes,
                "l2": self.l2,
                "plain": self.plain.as_dict(),
                "gaps": self.gaps,
                "decodability": None if self.decodability is None else {
                    **asdict(self.decodability), "is_decodable": self.decodability.is_decodable,
                },
                "alignments": self.alignments,
                "ratios": self.ratios,
                "effects": self.effects,
                "blind": self.blind,
                "validation": None if check is None else {
                    "plain": check.plain.as_dict(),
                    "remedy": None if check.remedy is None else check.remedy.as_dict(),
                    "gain": check.gain,
                },
                "verdict": self.verdict,
                "notes": self.notes,
            }
        )  # fmt: skip
        return result
