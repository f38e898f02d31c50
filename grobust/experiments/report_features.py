"""What a report says of a feature store: its rows in two dimensions, and the worst group's mistakes under a head."""

import base64
import io
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax

from grobust.data.dataset import GroupedDataset
from grobust.experiments.report_config import ReportConfig
from grobust.features.store import FeatureStore
from grobust.features.widen import to_float32
from grobust.groups import Split
from grobust.heads import HeadInfo
from grobust.metrics import group_metrics
from grobust.probe import Probe, logits_by_block
from grobust.report.choices import Projection
from grobust.report.labels import short_backbones
from grobust.report.page.content import Example, Examples
from grobust.report.projection import principal_plane, umap_plane

__all__ = ["HeadOnStore", "examples_of", "predict_test", "scatter_of"]

# Rows that the plane of principal components is fitted to; the others are placed in it.
FITTED_ROWS = 5_000
# Ids of the rows drawn are shown up to this many rows; beyond, they would be most of the page.
NAMED_ROWS = 5_000
MOST_CHARACTERS = 600
THUMBNAIL_PIXELS = 128
LARGEST = 65_535


@dataclass(frozen=True, eq=False)
class HeadOnStore:
    """A head's predictions of a store's test rows.

    Parameters
    ----------
    info : of the head
    rows : (m) rows of the store
    predicted : (m) classes
    confidence : (m) float64 probability of the predicted class
    """

    info: HeadInfo
    rows: NDArray[Any]
    predicted: NDArray[Any]
    confidence: NDArray[Any]


def predict_test(store: FeatureStore, probe: Probe, info: HeadInfo) -> HeadOnStore | None:
    """Predict all test rows, block by block; None where there are none."""
    rows = store.rows(Split.TEST)
    if rows.size == 0:
        return None
    predicted, confidence = np.empty(rows.size, dtype=np.int64), np.empty(rows.size)
    for start, logits in logits_by_block([probe], store.view(Split.TEST)):
        probabilities = softmax(logits[:, 0], axis=1)
        stop = start + len(probabilities)
        predicted[start:stop], confidence[start:stop] = probabilities.argmax(axis=1), probabilities.max(axis=1)
    return HeadOnStore(info, rows, predicted, confidence)


def scatter_of(store: FeatureStore, config: ReportConfig, head: HeadOnStore | None) -> dict[str, Any]:
    """Rows of a store in two dimensions, packed for the page's script.

    More rows than `config.points` are drawn without replacement. Coordinates become 16-bit steps of their range.
    """
    rng = np.random.default_rng(config.seed)
    rows = np.sort(rng.choice(store.n, size=min(store.n, config.points), replace=False))
    xy, caption = _placed(store, rows, config, rng)
    low, high = xy.min(axis=0), xy.max(axis=0)
    # One scale for both axes of the page's 4 : 3 canvas, so that distances keep their proportions.
    box = np.array([4 / 3, 1.0]) * (float(((high - low) / (4 / 3, 1.0)).max()) or 1.0)
    steps = np.rint(LARGEST * (0.02 + 0.96 * ((xy - (low + high) / 2) / box + 0.5))).astype("<u2")
    groups = store.groups.take(rows)
    split = np.asarray(store.split)[rows]
    wrong = None
    if head is not None:
        is_wrong = np.zeros(store.n, dtype=np.uint8)
        is_wrong[head.rows[head.predicted != store.groups.labels[head.rows]]] = 1
        wrong = _packed(is_wrong[rows])
        caption += f" Squares mark test rows that head '{head.info.name}' gets wrong."
    ids = [store.sample_ids[i] for i in rows.tolist()] if rows.size <= NAMED_ROWS else None
    made = store.provenance
    if rows.size < store.n:
        caption += f" {rows.size:,} of {store.n:,} rows, drawn with seed {config.seed}."
    return {
        "title": f"{made.dataset}, {short_backbones([made.backbone])[made.backbone]}",
        "label": f"Features of {made.dataset} in two dimensions, coloured by group",
        "caption": caption,
        "n": int(rows.size),
        "xy": _packed(steps),
        "group": _packed(groups.ids.astype("<u2")),
        "split": _packed(split.astype(np.uint8)),
        "splits": sorted({int(s) for s in split.tolist()}),
        "wrong": wrong,
        "ids": ids,
        "groups": list(groups.names),
        "counts": groups.counts.tolist(),
    }


def examples_of(
    store: FeatureStore, config: ReportConfig, head: HeadOnStore, dataset: GroupedDataset | None
) -> Examples | None:
    """The worst test group's most confident mistakes and right ones; None where no group has test rows."""
    groups = store.groups.take(head.rows)
    metrics = group_metrics(head.predicted, groups)
    worst = metrics.worst_group
    if worst is None:
        return None
    in_group = groups.ids == worst
    hit = head.predicted == groups.labels
    index = None if dataset is None else {name: i for i, name in enumerate(dataset.sample_ids)}

    def shown(mask: NDArray[Any]) -> tuple[Example, ...]:
        # Ties in confidence in the order of rows.
        order = np.flatnonzero(mask)[np.argsort(-head.confidence[mask], kind="stable")][: config.examples]
        return tuple(_example(store, head, int(i), dataset, index) for i in order)

    n, right = int(in_group.sum()), int((in_group & hit).sum())
    caption = (
        f"Head '{head.info.name}' on test rows: {right} of {n} of this group right ({100 * right / n:.1f}%, "
        f"95% interval {100 * metrics.wga.low:.1f} to {100 * metrics.wga.high:.1f}). "
        "Confidence is the head's own probability."
    )
    if dataset is None:
        caption += " Give --dataset to see texts or images."
    return Examples(
        title=f"{store.provenance.dataset}: {groups.names[worst]}", caption=caption,
        kind="text" if dataset is None else dataset.kind, wrong=shown(in_group & ~hit), right=shown(in_group & hit),
    )  # fmt: skip


def _placed(
    store: FeatureStore, rows: NDArray[Any], config: ReportConfig, rng: np.random.Generator
) -> tuple[NDArray[Any], str]:
    if config.projection is Projection.UMAP:
        xy = umap_plane(to_float32(store.read(rows)), seed=config.seed)
        return xy, "UMAP with the library's settings: distances between clusters mean little."
    fitted = np.sort(rng.choice(rows, size=min(rows.size, FITTED_ROWS), replace=False))
    plane = principal_plane(to_float32(store.read(fitted)))
    xy = np.empty((rows.size, 2))
    position = np.full(store.n, -1)
    position[rows] = np.arange(rows.size)
    for numbers, block in store.blocks():
        used = position[numbers] >= 0
        if used.any():
            xy[position[numbers[used]]] = plane.place(to_float32(block[used]))
    first, second = (100 * share for share in plane.shares)
    of = "" if fitted.size == rows.size else f" (fitted to {fitted.size:,} rows)"
    return xy, f"Two principal components{of}: {first:.1f}% and {second:.1f}% of the variance."


def _example(
    store: FeatureStore, head: HeadOnStore, i: int, dataset: GroupedDataset | None, index: dict[str, int] | None
) -> Example:
    row = int(head.rows[i])
    names = store.groups.class_names
    plain = Example(
        id=store.sample_ids[row],
        label=names[int(store.groups.labels[row])],
        predicted=names[int(head.predicted[i])],
        confidence=float(head.confidence[i]),
    )
    if dataset is None or index is None:
        return plain
    item = dataset[index[store.sample_ids[row]]]
    if isinstance(item, Image.Image):
        uri, (width, height) = _thumbnail(item)
        return replace(plain, image=uri, width=width, height=height)
    text = str(item)
    return replace(plain, text=text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…")


def _thumbnail(image: Image.Image) -> tuple[str, tuple[int, int]]:
    """A JPEG as data URI, encoded anew: nothing of the file but its pixels gets into the page."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}", small.size


def _packed(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
