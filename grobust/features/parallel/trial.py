"""The batch size of several workers: each tries its own device at the same time, and the smallest serves all.

What comes out is part of the provenance, as a size that was given: bytes do not depend on who has found it.
"""

import queue
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grobust.child_processes import how_it_ended
from grobust.data.dataset import GroupedDataset
from grobust.errors import GrobustError, WorkerError
from grobust.features.batch_size import find_batch_size
from grobust.features.extract import ExtractSettings
from grobust.features.parallel.processes import Said, pickled, start_workers, torch_kind
from grobust.features.parallel.serve import Tell, check_on_host, error_report, told_error
from grobust.models.backbone import Backbone

__all__ = ["Trial", "tried_by_processes"]


@dataclass(frozen=True, eq=False)
class Trial:
    """What a worker tries; it pickles.

    Parameters
    ----------
    backbones : in the host's memory
    device : torch device of the worker
    """

    dataset: GroupedDataset
    backbones: tuple[Backbone, ...]
    settings: ExtractSettings
    device: str

    def __post_init__(self) -> None:
        check_on_host(self.backbones[0])

    def serve(self, inbox: "queue.SimpleQueue[bytes]", tell: Tell) -> None:
        """Tell the size, or the error."""
        tell(self.outcome())

    def outcome(self) -> dict[str, Any]:
        """The size, or the error, as JSON-able content."""
        try:
            self.backbones[0].network.to(self.device)
            return {"batch_size": find_batch_size(self.dataset, self.backbones, self.settings)}
        except GrobustError as error:
            return error_report(error)


def tried_by_processes(
    devices: Sequence[str], dataset: GroupedDataset, backbones: Sequence[Backbone], settings: ExtractSettings
) -> int:
    """The smallest size that a process on one of the devices has found.

    Raises
    ------
    WorkerError
        If a process has ended.
    ConfigError, BackboneError, DataError
        See `pickled`, `Trial` and `find_batch_size`.
    """
    what = f"{dataset.name} and {backbones[0].spec}"
    contents = {
        kind: pickled(Trial(dataset, tuple(backbones), settings, kind), what) for kind in set(map(torch_kind, devices))
    }
    said: Said = queue.SimpleQueue()
    found: dict[int, int] = {}
    with tempfile.TemporaryDirectory(prefix="grobust-batch-size-") as logs:
        workers = start_workers(devices, contents, Path(logs), said)
        try:
            while len(found) < len(workers):
                worker, content = said.get()
                if content is None and worker.number not in found:
                    raise WorkerError(
                        f"Trying batch sizes, {worker.name} {how_it_ended(worker.end())}. Give --batch-size a number.\n"
                        f"Its log:\n{worker.last_lines() or '(empty)'}"
                    )
                if content is not None and "error" in content:
                    raise told_error(content)
                if content is not None:
                    found[worker.number] = int(content["batch_size"])
        finally:
            for worker in workers:
                worker.end()
    return min(found.values())
