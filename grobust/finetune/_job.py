"""One run as the loop sees it: what is trained on what, how it is named, and what is said of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from grobust.data.dataset import GroupedDataset
from grobust.errors import DivergedError
from grobust.finetune._checkpoint import TrainState
from grobust.finetune._evaluate import Part
from grobust.finetune._model import Classifier
from grobust.finetune._plan import Plan
from grobust.finetune.choices import Decay
from grobust.finetune.curve import Curve, Evaluation
from grobust.finetune.settings import FinetuneSettings
from grobust.models.backbone import Backbone
from grobust.models.run_files import RunFiles
from grobust.models.weights import weights_digest

__all__ = ["FinetuneProgress", "Job", "backbone_at", "diverged", "shown_metrics"]


@dataclass(frozen=True, eq=False)
class Job:
    """One run.

    Parameters
    ----------
    dataset, backbone, settings : what is trained, on what, and how
    plan : minibatches, of rows of the training split
    train_rows : (n) rows of the data set that are the training split
    parts : what is evaluated: ``train`` (the kept rows), ``val``, ``test``
    files, run : where it is kept, and the digest of its identity
    """

    dataset: GroupedDataset
    backbone: Backbone
    settings: FinetuneSettings
    plan: Plan
    train_rows: NDArray[np.int64]
    parts: Mapping[str, Part]
    files: RunFiles
    run: str

    @property
    def decay(self) -> Decay:
        """What weight decay is on."""
        return self.settings.decay or (Decay.ALL if self.backbone.kind == "image" else Decay.MATRICES)

    def curve(self, evaluations: list[Evaluation]) -> Curve:
        """Evaluations with the groups that they count."""
        groups = {name: part.groups for name, part in self.parts.items()}
        return Curve(tuple(evaluations), groups, self._train_counts)

    @cached_property
    def _train_counts(self) -> NDArray[np.int64]:
        return self.dataset.groups.take(self.train_rows).counts


@dataclass(frozen=True)
class FinetuneProgress:
    """Where training stands, after every update: steps per second of this process, and the evaluations so far."""

    step: int
    steps: int
    epoch: int
    epochs: int
    rate: float
    curve: Curve


def backbone_at(job: Job, classifier: Classifier, epoch: int) -> Backbone:
    """The network as it is, named as `load_backbone` would name it from the run's folder."""
    return replace(
        job.backbone,
        spec=f"run:{job.files.root}@{epoch}",
        network=classifier.body,
        digest=weights_digest(classifier.body),
        options=job.backbone.options | {"run": job.run, "epoch": str(epoch)},
    )


def shown_metrics(curve: Curve, index: int) -> dict[str, dict[str, float | str | None]]:
    """What a reader of the growing curve wants to see."""
    shown: dict[str, dict[str, float | str | None]] = {}
    for split in curve.splits:
        metrics = curve.metrics(split, index)
        shown[split] = {
            "wga": metrics.as_dict()["wga"]["value"],
            "average": metrics.as_dict()["average"]["value"],
            "worst_group": metrics.worst_group_name,
        }
    return shown


def diverged(job: Job, step: int, what: str, state: TrainState) -> DivergedError:
    rows = job.train_rows[job.plan.batch(step)]
    ids = ", ".join(job.dataset.sample_ids[row] for row in rows)
    good = (
        "There is no checkpoint yet."
        if state.saved_step is None
        else f"The last good checkpoint is {job.files.state} (step {state.saved_step})."
    )
    return DivergedError(
        f"The loss is {what} step {step + 1} of {job.plan.steps} (epoch {step // job.plan.per_epoch + 1}).\n"
        f"Rows of its minibatch, of {job.dataset.name}: {ids}\n{good}\n"
        "Try a smaller --lr, --clip-norm 1, or --precision float32; if it is always the same rows, look at them."
    )
