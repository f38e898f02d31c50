"""Where a finetuning run keeps its files, and how its networks are read.

```
RUN/run.json                        what is trained on what with which settings; written first
RUN/curve.jsonl                     one line per evaluation, as they happen
RUN/networks/epoch-0010.safetensors the whole network after epoch 10: `body.` and `head.` tensors
RUN/state.safetensors               where training stands, to continue from; state.previous.safetensors before it
RUN/features/epoch-0010.h5          features of every split at that epoch
RUN/result.json                     what came out; there if and only if the run has finished
```
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from grobust.errors import RunCorruptError, RunError
from grobust.models.tensor_file import read_tensors

__all__ = ["BODY", "HEAD", "RUN_FORMAT", "RunFiles"]

RUN_FORMAT = 1
# Prefixes of tensor names in a network's file.
BODY, HEAD = "body.", "head."


@dataclass(frozen=True)
class RunFiles:
    """Paths in a run's folder."""

    root: Path

    @property
    def description(self) -> Path:
        """What the run is."""
        return self.root / "run.json"

    @property
    def curve(self) -> Path:
        """Evaluations, one a line."""
        return self.root / "curve.jsonl"

    @property
    def result(self) -> Path:
        """The finished run."""
        return self.root / "result.json"

    @property
    def state(self) -> Path:
        """Where training stands."""
        return self.root / "state.safetensors"

    @property
    def previous_state(self) -> Path:
        """Where training stood one checkpoint earlier."""
        return self.root / "state.previous.safetensors"

    @property
    def lock(self) -> Path:
        """Held while a process trains here."""
        return self.root / ".lock"

    def network(self, epoch: int) -> Path:
        """The network after an epoch."""
        return self.root / "networks" / f"epoch-{epoch:04d}.safetensors"

    def features(self, epoch: int) -> Path:
        """The feature store of an epoch."""
        return self.root / "features" / f"epoch-{epoch:04d}.h5"

    def epochs(self) -> tuple[int, ...]:
        """Epochs whose network is there, ascending."""
        found = (re.fullmatch(r"epoch-(\d+)\.safetensors", p.name) for p in (self.root / "networks").glob("epoch-*"))
        return tuple(sorted(int(match[1]) for match in found if match))

    def read_description(self) -> dict[str, Any]:
        """`run.json`.

        Raises
        ------
        RunError
            If the folder holds no run, or one of another format; RunCorruptError if the file is damaged.
        """
        if not self.description.is_file():
            raise RunError(
                f"{self.root} is no folder of a finetuning run: it has no {self.description.name}.\n"
                "Expected a folder that `grobust finetune` wrote."
            )
        try:
            about = json.loads(self.description.read_text(encoding="utf-8"))
            version = about["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise RunCorruptError(f"{self.description} is damaged ({error}).") from error
        if version != RUN_FORMAT:
            raise RunError(f"{self.description} has format {version!r}; this grobust reads {RUN_FORMAT}.")
        return dict(about)

    def read_network(self, epoch: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Description and tensors of the network after an epoch.

        Raises
        ------
        RunError
            If it was not kept; the epochs that were are listed. RunCorruptError if it is damaged.
        """
        path = self.network(epoch)
        if not path.is_file():
            kept = ", ".join(map(str, self.epochs())) or "none"
            raise RunError(
                f"{self.root} has no network of epoch {epoch}. Kept are those of epochs: {kept}.\n"
                "Train with --keep to keep more."
            )
        return read_tensors(path)
