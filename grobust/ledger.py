"""`LabelLedger`: which labels of which split were touched, and for what."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["LabelLedger", "LabelUse"]


class LabelUse(StrEnum):
    """Kinds of labels that a run can touch."""

    CLASS = "class"
    ATTRIBUTE = "attribute"


@dataclass(frozen=True)
class LabelLedger:
    """Which labels of which split a run used, and for what: training, choosing settings, or evaluation only."""

    train: tuple[str, ...]
    selection: tuple[str, ...]
    evaluation: tuple[str, ...] = (LabelUse.CLASS, LabelUse.ATTRIBUTE)

    @classmethod
    def of(cls, *, group_training: bool, group_selection: bool, selects: bool) -> "LabelLedger":
        """The ledger of a run: class labels always; attributes where balancing or selection reads groups."""
        both = (str(LabelUse.CLASS), str(LabelUse.ATTRIBUTE))
        chosen = (both if group_selection else both[:1]) if selects else ()
        return cls(train=both if group_training else both[:1], selection=chosen, evaluation=both)

    def with_selection(self, labels: tuple[str, ...]) -> "LabelLedger":
        """The same with labels that a further choice used, in the order of `LabelUse`."""
        used = {*self.selection, *labels}
        return LabelLedger(self.train, tuple(str(use) for use in LabelUse if use in used), self.evaluation)
