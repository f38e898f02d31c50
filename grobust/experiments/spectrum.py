"""`run_spectrum`: spectra per group and class of a store, the norm ratio of every class with its null, diagnostics."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from grobust.arrays import DeviceName, array_namespace, is_array, resolve_device, to_device, to_numpy
from grobust.balancing import make_balancer
from grobust.errors import DataError
from grobust.experiments.config import SpectrumConfig, plain
from grobust.experiments.environment import library_versions
from grobust.experiments.placement import place
from grobust.experiments.records import LabelLedger, Record, append_records, jsonable
from grobust.experiments.saved_heads import fitting_heads
from grobust.features._schema import Provenance
from grobust.features.store import FeatureStore
from grobust.features.widen import to_float32
from grobust.groups import Groups, Split
from grobust.metrics import group_metrics
from grobust.probe import Probe
from grobust.settings import BalanceBy, BalanceMethod
from grobust.spectrum import (
    SMALL_GROUP_NOTE,
    Against,
    Diagnostic,
    NormRatio,
    RatioAndGap,
    RatioInference,
    Spectra,
    diagnose,
    inference_bytes,
    norm_ratios,
    ratio_inference,
    stream_spectra,
)
from grobust.typing import Array

__all__ = ["SpectrumReport", "run_spectrum"]

# All eigenvalues, which the effective rank needs, are computed up to this many; that takes less than a second each.
COMPLETE_BELOW = 2048
NULL_QUANTILES = (0.0, 0.005, 0.025, 0.05, 0.25, 0.5, 0.75, 0.95, 0.975, 0.995, 1.0)


@dataclass(frozen=True, eq=False)
class SpectrumReport:
    """Spectra of the groups and classes of the rows used, and ρ(y) per class.

    Parameters
    ----------
    groups : of the rows used
    by_group, by_class : spectra
    ratios : one per class and compared group, undefined ones with their reason
    inferences : one per ratio: nulls and interval; None where the ratio is undefined or none was asked for
    diagnostics : of groups, pairs and all; empty if not asked for
    gaps : ρ(y) and the head's accuracy gap on test rows, per class; empty without heads
    notes : what must stand beside ρ
    """

    config: SpectrumConfig
    provenance: Provenance
    groups: Groups
    by_group: Spectra
    by_class: Spectra
    ratios: tuple[NormRatio, ...]
    inferences: tuple[RatioInference | None, ...]
    diagnostics: tuple[Diagnostic, ...]
    gaps: tuple[RatioAndGap, ...]
    notes: tuple[str, ...]
    device: str

    @property
    def minority_groups(self) -> tuple[int, ...]:
        """Ids of the minority groups of the classes that have one."""
        found = (self.groups.minority_group(y) for y in range(self.groups.n_classes))
        return tuple(g for g in found if g is not None)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report; NaN becomes None."""
        minority = [self.groups.names[g] for g in self.minority_groups]
        ratios = [
            {**asdict(ratio), **_inference(found)}
            for ratio, found in zip(self.ratios, self.inferences, strict=True)
        ]  # fmt: skip
        result: dict[str, Any] = jsonable(
            {
                "store": str(self.config.store),
                "dataset": self.provenance.dataset,
                "backbone": self.provenance.backbone,
                "split": self.config.split,
                "balance": str(self.config.balance),
                "seed": self.config.seed,
                "ddof": self.config.ddof,
                "dim": self.by_group.dim,
                "groups": [row | {"minority": row["name"] in minority} for row in _rows(self.by_group)],
                "classes": _rows(self.by_class),
                "norm_ratios": ratios,
                "diagnostics": [asdict(found) for found in self.diagnostics],
                "gaps": [asdict(pair) for pair in self.gaps],
                "notes": list(self.notes),
            }
        )
        return result


def run_spectrum(config: SpectrumConfig) -> SpectrumReport:
    """Compute spectra in one streaming pass over the rows of a split, or over those that a balancing method keeps.

    Nulls, intervals and diagnostics read the rows of one class at a time.

    Raises
    ------
    DataError
        If the split has no rows, or balancing is asked for on a split that is not trained on.
    StoreMismatchError
        If the heads were trained on other features or classes.
    """
    device = resolve_device(config.device)
    with FeatureStore(config.store) as store:
        rows = _rows_used(config, store)
        head = None if config.heads is None else _head(config, store)
        view = {config.split: store.view(rows)}
        placed = place(view, device, work_bytes=config.memory_bytes)
        there = None if device == "cpu" else placed.features[config.split]
        used = _Rows(store, rows, store.groups.take(rows), there)
        by_group, by_class = stream_spectra(
            used, keep=is_array(there), groups=used.groups, dim=store.dim, rank=config.top, ddof=config.ddof,
            complete=min(store.dim, int(used.groups.class_counts.max())) <= COMPLETE_BELOW,
            memory_bytes=config.memory_bytes,
        )  # fmt: skip
        ratios = norm_ratios(by_group, used.groups)
        inferences, more = _infer(config, used, ratios)
        diagnostics, missed = _diagnostics(config, used, head)
        gaps = () if head is None else _gaps(config, store, head, ratios)
        provenance = store.provenance
    notes = [*by_group.notes, *more, *missed, SMALL_GROUP_NOTE, *filter(None, [placed.note])]
    report = SpectrumReport(
        config=config, provenance=provenance, groups=used.groups, by_group=by_group, by_class=by_class, ratios=ratios,
        inferences=inferences, diagnostics=diagnostics, gaps=gaps, notes=tuple(dict.fromkeys(notes)), device=device,
    )  # fmt: skip
    if config.records is not None:
        append_records(config.records, [_record(report)])
    return report


@dataclass(frozen=True, eq=False)
class _Rows:
    """The rows used, as blocks that can be gone over again, and group by group.

    Parameters
    ----------
    store, rows : the store and the numbers (m) of the rows in it, ascending
    groups : of the rows
    there : (m, d) features on the device, or streaming to it; None on the host
    """

    store: FeatureStore
    rows: NDArray[Any]
    groups: Groups
    there: Any

    def __iter__(self) -> Iterator[tuple[Array, NDArray[Any]]]:
        if is_array(self.there):
            yield self.there, np.arange(self.rows.size)
        elif self.there is not None:
            for start, stop in self.there.stretches():
                yield self.there[start:stop], np.arange(start, stop)
        else:
            yield from self._on_host()

    def _on_host(self) -> Iterator[tuple[Array, NDArray[Any]]]:
        position = np.full(self.store.n, -1)
        position[self.rows] = np.arange(self.rows.size)
        for numbers, features in self.store.blocks():
            used = position[numbers] >= 0
            if used.any():
                block = features if used.all() else features[used]
                yield block, position[numbers[used]]

    def of_group(self, group: int) -> Array:
        """(n_g, d) float32."""
        chosen = np.flatnonzero(self.groups.ids == group)
        if self.there is None:
            return to_float32(self.store.read(self.rows[chosen]))
        if not is_array(self.there):
            rows = self.there[chosen]
        else:
            xp = array_namespace(self.there)
            rows = xp.take(self.there, xp.asarray(chosen), axis=0)
        return array_namespace(rows).astype(rows, array_namespace(rows).float32)


def _rows_used(config: SpectrumConfig, store: FeatureStore) -> NDArray[Any]:
    rows = store.rows(Split[config.split.upper()])
    if rows.size == 0:
        raise DataError(f"{config.store} has no rows in split '{config.split}'.")
    if config.balance is BalanceMethod.NONE:
        return rows
    if config.split != "train":
        raise DataError(f"Balancing keeps rows of the training split; it cannot be applied to '{config.split}'.")
    balancer = make_balancer(config.balance, by=config.by, ratio=config.ratio)
    return np.sort(rows[balancer.sample(store.groups.take(rows), seed=config.seed).indices])


def _infer(
    config: SpectrumConfig, used: _Rows, ratios: tuple[NormRatio, ...]
) -> tuple[tuple[RatioInference | None, ...], list[str]]:
    """Nulls and intervals; a class too large for the memory allowed is left out with a note."""
    found: list[RatioInference | None] = []
    notes = []
    for ratio in ratios:
        if ratio.minority_id is None or ratio.majority_id is None or config.null == 0:
            found.append(None)
            continue
        rows = sum(int(used.groups.counts[g]) for g in (ratio.minority_id, ratio.majority_id))
        if inference_bytes(rows, used.store.dim, permutations=config.permutations) > config.memory_bytes:
            notes.append(f"no null for class '{ratio.class_name}': its rows do not fit into memory_bytes")
            found.append(None)
            continue
        found.append(
            ratio_inference(
                used.of_group(ratio.minority_id),
                used.of_group(ratio.majority_id),
                null=config.null,
                interval=config.interval,
                permutations=config.permutations,
                seed=config.seed,
            )
        )
    return tuple(found), notes


def _diagnostics(
    config: SpectrumConfig, used: _Rows, head: Probe | None
) -> tuple[tuple[Diagnostic, ...], tuple[str, ...]]:
    if config.diagnostics is None:
        return (), ()
    largest = max(range(used.groups.n_groups), key=lambda g: int(used.groups.counts[g]))
    side = min(int(used.groups.counts[largest]), used.store.dim)
    # Rows as read, centred, and in float64.
    needed = 16 * used.store.dim * int(used.groups.counts[largest])
    if needed > config.memory_bytes or side > 2 * COMPLETE_BELOW:
        return (), (f"no diagnostics: they need full decompositions, here of {side} × {side} matrices",)
    weight = bias = None
    if head is not None:
        device: DeviceName = "cpu" if used.there is None else "cuda"
        weight, bias = (to_device(np.asarray(part, dtype=np.float64), device) for part in (head.weight, head.bias))
    found = diagnose(used.of_group, used.groups, weight=weight, bias=bias, null=config.diagnostics, seed=config.seed)
    return found, ()


def _head(config: SpectrumConfig, store: FeatureStore) -> Probe:
    assert config.heads is not None
    heads = fitting_heads(config.heads, store)
    return heads.probe(heads.index(config.head))


def _gaps(
    config: SpectrumConfig, store: FeatureStore, head: Probe, ratios: tuple[NormRatio, ...]
) -> tuple[RatioAndGap, ...]:
    """Accuracy of the majority minus that of the minority on test rows, beside ρ of the rows used."""
    rows = store.rows(Split.TEST)
    if rows.size == 0:
        return ()
    predictions = np.empty(rows.size, dtype=np.int64)
    done = 0
    for _, block in store.blocks(split=Split.TEST):
        scores = block @ to_numpy(head.weight).T.astype(np.float64) + to_numpy(head.bias)
        predictions[done : done + len(block)] = scores.argmax(axis=1)
        done += len(block)
    accuracy = group_metrics(predictions, store.groups.take(rows)).accuracy
    counts = store.groups.take(rows).counts
    return tuple(
        RatioAndGap(
            run=str(config.store),
            class_name=ratio.class_name,
            rho=ratio.rho,
            gap=float(accuracy[ratio.majority_id] - accuracy[ratio.minority_id]),
            n_minority=int(counts[ratio.minority_id]),
        )
        for ratio in ratios
        if ratio.against is Against.MAJORITY and ratio.minority_id is not None and ratio.majority_id is not None
    )


def _record(report: SpectrumReport) -> Record:
    config = report.config
    uses_groups = config.by is BalanceBy.GROUP and config.balance is not BalanceMethod.NONE
    ledger = LabelLedger.of(group_training=uses_groups, group_selection=False, selects=False)
    return Record(
        command="spectrum",
        config=plain(config),
        provenance=asdict(report.provenance),
        versions=library_versions(),
        device=report.device,
        seed=None if config.balance is BalanceMethod.NONE else config.seed,
        label_ledger=asdict(ledger),
        results=report.as_dict(),
    )


def _inference(found: RatioInference | None) -> dict[str, Any]:
    if found is None:
        return {"inference": None}
    content = {k: v for k, v in asdict(found).items() if not isinstance(v, np.ndarray)}
    for name in ("null", "permutation"):
        values = getattr(found, name)
        quantiles = np.quantile(values, NULL_QUANTILES).tolist() if values.size else []
        content[f"{name}_quantiles"] = dict(zip(map(str, NULL_QUANTILES), quantiles, strict=False))
        content[f"{name}_replicates"] = int(values.size)
    return {"inference": {**content, "reading": str(found.reading)}}


def _rows(spectra: Spectra) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "n": int(spectra.counts[i]),
            "eigenvalues": [float(v) for v in spectra.eigenvalues[i]],
            "error_bounds": [float(v) for v in spectra.error_bounds[i]],
            "trace": float(spectra.trace[i]),
            "effective_rank": float(spectra.effective_rank[i]),
            "participation_ratio": float(spectra.participation_ratio[i]),
            "route": str(spectra.routes[i]),
        }
        for i, name in enumerate(spectra.names)
    ]
