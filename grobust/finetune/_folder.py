"""A run's folder: what run it is, who is training in it, and its curve as it grows."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import xxhash
from filelock import FileLock, Timeout

from grobust.data.dataset import GroupedDataset
from grobust.errors import RunCorruptError, RunLockedError, RunMismatchError
from grobust.finetune.curve import Evaluation
from grobust.finetune.settings import FinetuneSettings
from grobust.models.backbone import Backbone
from grobust.models.run_files import RUN_FORMAT, RunFiles
from grobust.models.tensor_file import write_durably

__all__ = ["RunIdentity", "append_curve", "claim", "describe", "read_result", "write_curve", "write_result"]


@dataclass(frozen=True)
class RunIdentity:
    """All that decides a run's weights and curve. Equality of `digest` is the identity of the run.

    Parameters
    ----------
    settings : `FinetuneSettings.identity`
    data : name and digest of the data set
    backbone : spec, digest of the weights, preprocessing, pooling and options of the network that it begins with
    """

    settings: dict[str, Any]
    data: dict[str, Any]
    backbone: dict[str, Any]

    @classmethod
    def of(cls, dataset: GroupedDataset, backbone: Backbone, settings: FinetuneSettings) -> "RunIdentity":
        """Known before training."""
        return cls(
            settings=settings.identity(),
            data={"name": dataset.name, "digest": dataset.digest},
            backbone={
                "spec": backbone.spec, "weights_digest": backbone.digest, "preprocessing": backbone.preprocessing,
                "pooling": str(backbone.pooling), "options": dict(backbone.options),
            },
        )  # fmt: skip

    @property
    def digest(self) -> str:
        """xxh3-128 of the canonical JSON."""
        return xxhash.xxh3_128_hexdigest(json.dumps(asdict(self), sort_keys=True).encode())

    def difference(self, other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Settings in which a run on disk differs: name → (the one on disk, this one)."""
        mine, theirs = dict(_flat(asdict(self))), dict(_flat(other))
        absent = "(not set)"
        names = sorted(mine.keys() | theirs.keys())
        pairs = {name: (theirs.get(name, absent), mine.get(name, absent)) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


@contextmanager
def claim(files: RunFiles) -> Iterator[None]:
    """Hold the folder against other processes; a killed one lets go of it.

    Raises
    ------
    RunLockedError
        If another process holds it.
    """
    files.root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(files.lock)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise RunLockedError(
            f"Another process is training in {files.root}. Wait for it, or give another folder."
        ) from None
    try:
        # What a killed process was writing; the lock says that nobody is.
        for folder in (files.root, files.network(0).parent):
            for left in folder.glob(".*.tmp"):
                left.unlink()
        yield
    finally:
        lock.release()


def describe(files: RunFiles, identity: RunIdentity, backbone: Backbone, dataset: GroupedDataset) -> None:
    """Write what the run is; if a run is there already, check that it is this one.

    Raises
    ------
    RunMismatchError
        If it is another one; the difference is shown.
    """
    if files.description.is_file():
        found = files.read_description()
        different = identity.difference(found["identity"])
        if different:
            listed = "\n".join(f"  {name}: run has {old}, requested {new}" for name, (old, new) in different.items())
            raise RunMismatchError(
                f"{files.root} holds a run with other settings.\n{listed}\n"
                "Give another folder (--out), or train again in its place (--overwrite)."
            )
        return
    about = {
        "format": RUN_FORMAT, "run": identity.digest, "identity": asdict(identity),
        "backbone": {"spec": backbone.spec, "arguments": backbone.arguments},
        "class_names": list(dataset.groups.class_names), "attribute_names": list(dataset.groups.attribute_names),
    }  # fmt: skip
    write_durably(files.description, json.dumps(about, indent=1, sort_keys=True) + "\n")


def write_curve(files: RunFiles, evaluations: list[Evaluation], metrics: list[dict[str, Any]]) -> None:
    """The curve so far: lines of a run that went back to an earlier checkpoint go."""
    lines = [_line(e, m) for e, m in zip(evaluations, metrics, strict=True)]
    write_durably(files.curve, "".join(lines))


def append_curve(files: RunFiles, evaluation: Evaluation, metrics: dict[str, Any]) -> None:
    """One more evaluation, for who is watching; what a resumed run believes is its checkpoint."""
    with files.curve.open("a", encoding="utf-8") as file:
        file.write(_line(evaluation, metrics))


def write_result(files: RunFiles, result: dict[str, Any]) -> None:
    """Mark the run as finished; checkpoints to continue from are of no use any more."""
    write_durably(files.result, json.dumps(result, sort_keys=True, allow_nan=False) + "\n")
    for path in (files.state, files.previous_state):
        path.unlink(missing_ok=True)


def read_result(files: RunFiles) -> dict[str, Any] | None:
    """The result of a finished run; None if it has not finished.

    Raises
    ------
    RunCorruptError
        If it is not what `write_result` wrote.
    """
    if not files.result.is_file():
        return None
    try:
        return dict(json.loads(files.result.read_text(encoding="utf-8")))
    except ValueError as error:
        raise RunCorruptError(f"{files.result} is damaged ({error}). Train again with --overwrite.") from error


def _line(evaluation: Evaluation, metrics: dict[str, Any]) -> str:
    return json.dumps(asdict(evaluation) | {"metrics": metrics}, sort_keys=True, allow_nan=False) + "\n"


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
