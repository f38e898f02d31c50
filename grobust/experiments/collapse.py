"""Collapse over training: the peak of validation's worst-group accuracy, when it was, and what is left at the end.

The paper's claim is that upsampling and upweighting gain early and fall back to no balancing, which early stopping
hides. The peak is chosen on validation rows; the test split is only read at the epochs that validation names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, pstdev
from typing import Any

from grobust.errors import DataError

__all__ = ["Collapse", "MeanSd", "MethodCollapse", "collapse", "collapse_by_method", "collapses_of_records"]


@dataclass(frozen=True)
class Collapse:
    """One run. Accuracies are proportions; what needs a split that the run has not is None.

    Parameters
    ----------
    method, seed : of the run
    peak, peak_epoch, peak_step : largest worst-group accuracy on validation rows, and the first epoch that has it
    end, end_epoch, end_step : the same accuracy at the last epoch
    drop : peak less end, at least 0
    test_at_peak, test_end : test worst-group accuracy at both epochs
    test_drop : their difference; may be negative
    interpolation_epoch : first evaluated epoch at which every kept training row was predicted correctly
    """

    method: str
    seed: int
    peak: float | None
    peak_epoch: int | None
    peak_step: int | None
    end: float | None
    end_epoch: int
    end_step: int
    drop: float | None
    test_at_peak: float | None
    test_end: float | None
    test_drop: float | None
    interpolation_epoch: int | None


@dataclass(frozen=True)
class MeanSd:
    """Mean and population standard deviation of n values, one per seed."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class MethodCollapse:
    """All seeds of one method; None where not every seed has the value.

    Parameters
    ----------
    method : balancing method
    runs : one per seed
    peak, peak_epoch, end, drop, test_at_peak, test_end, test_drop : over seeds, see `Collapse`
    interpolating : how many seeds reach 100% training accuracy
    """

    method: str
    runs: tuple[Collapse, ...]
    peak: MeanSd | None
    peak_epoch: MeanSd | None
    end: MeanSd | None
    drop: MeanSd | None
    test_at_peak: MeanSd | None
    test_end: MeanSd | None
    test_drop: MeanSd | None
    interpolating: int

    def as_dict(self) -> dict[str, Any]:
        """JSON-able summary and runs."""
        content = asdict(self)
        content["runs"] = list(content["runs"])
        return content


def collapse(curve: Mapping[str, Any], *, method: str, seed: int) -> Collapse:
    """The collapse of one run.

    Parameters
    ----------
    curve : columns over E evaluations, as records hold them under ``epochs``: ``steps`` (E), ``epochs`` (E; 1 … E if
        it is not there), and for each of ``train``, ``val``, ``test`` that was evaluated ``wga`` and ``average`` (E)

    Raises
    ------
    DataError
        If the curve has no evaluations, or its columns differ in length.
    """
    steps = list(curve.get("steps", ()))
    epochs = list(curve.get("epochs", range(1, len(steps) + 1)))
    val, test = _column(curve, "val", "wga", len(steps)), _column(curve, "test", "wga", len(steps))
    train = _column(curve, "train", "average", len(steps))
    if not steps or len(epochs) != len(steps):
        raise DataError(f"The curve of {method}, seed {seed}, has {len(steps)} steps and {len(epochs)} epochs.")
    best = None if val is None else max(range(len(val)), key=lambda i: val[i])
    return Collapse(
        method=method,
        seed=seed,
        peak=_at(val, best),
        peak_epoch=None if best is None else int(epochs[best]),
        peak_step=None if best is None else int(steps[best]),
        end=_at(val, -1),
        end_epoch=int(epochs[-1]),
        end_step=int(steps[-1]),
        drop=_less(_at(val, best), _at(val, -1)),
        test_at_peak=_at(test, best),
        test_end=_at(test, -1),
        test_drop=_less(_at(test, best), _at(test, -1)),
        interpolation_epoch=next((int(e) for e, a in zip(epochs, train or (), strict=False) if a == 1), None),
    )


def collapse_by_method(runs: Sequence[Collapse]) -> tuple[MethodCollapse, ...]:
    """Mean and standard deviation over the seeds of each method, in the order of their first run."""
    return tuple(
        _summary([run for run in runs if run.method == method]) for method in dict.fromkeys(run.method for run in runs)
    )


def collapses_of_records(records: Sequence[Mapping[str, Any]]) -> tuple[Collapse, ...]:
    """The collapse of every record of ``finetune`` and of ``probe --trajectory``; other records have no curve."""
    return tuple(
        collapse(results["epochs"], method=results["method"], seed=results["seed"])
        for results in (record["results"] for record in records if record["command"] in ("finetune", "trajectory"))
    )


def _summary(runs: list[Collapse]) -> MethodCollapse:
    def over_seeds(name: str) -> MeanSd | None:
        values = [getattr(run, name) for run in runs]
        if any(value is None for value in values):
            return None
        return MeanSd(fmean(values), pstdev(values), len(values))

    return MethodCollapse(
        method=runs[0].method, runs=tuple(runs), peak=over_seeds("peak"), peak_epoch=over_seeds("peak_epoch"),
        end=over_seeds("end"), drop=over_seeds("drop"), test_at_peak=over_seeds("test_at_peak"),
        test_end=over_seeds("test_end"), test_drop=over_seeds("test_drop"),
        interpolating=sum(run.interpolation_epoch is not None for run in runs),
    )  # fmt: skip


def _column(curve: Mapping[str, Any], split: str, name: str, length: int) -> list[float] | None:
    """A column of a split that was evaluated; None if it was not, or is undefined anywhere."""
    if split not in curve:
        return None
    column = list(curve[split][name])
    if len(column) != length:
        raise DataError(f"The curve has {length} evaluations, but {len(column)} values of {name} on {split}.")
    return None if any(value is None for value in column) else column


def _at(column: list[float] | None, index: int | None) -> float | None:
    return None if column is None or index is None else column[index]


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
