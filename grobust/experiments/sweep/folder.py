"""The folder of a sweep: stores, runs, what failed, and one file of records.

```
SWEEP/records.jsonl            one line per finished cell; what stands here is done
SWEEP/stores/NAME-KEY.h5       feature stores, each made once
SWEEP/heads/NAME-KEY.safetensors   heads that a probe chose
SWEEP/steps/KIND-KEY/          what a step keeps: its finetuning runs, its own records before they join the others,
                               done.json or failed.json, and claim.json while a process works on it
SWEEP/logs/                    what the workers printed
```

Steps are named by content. A record joins the file under the lock of the file, once, whoever computed it.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from grobust.errors import DataError, GrobustError
from grobust.experiments.records import RECORD_SCHEMA
from grobust.experiments.sweep.step import Step, digest_of
from grobust.features.store import FeatureStore
from grobust.models.tensor_file import write_durably

__all__ = ["Failure", "SweepFolder", "provenance_digest"]

KEY_LENGTH, STORE_KEY_LENGTH = 16, 8


@dataclass(frozen=True)
class Failure:
    """Why a step failed the last time."""

    label: str
    error: str
    message: str
    traceback: str
    attempts: int
    time: str


@dataclass
class SweepFolder:
    """Paths and files of a sweep's folder. Nothing is written before a step starts."""

    root: Path
    _read_to: int = 0
    _cells: dict[str, set[str]] = field(default_factory=dict)

    @property
    def records(self) -> Path:
        """Records of all finished cells."""
        return self.root / "records.jsonl"

    @property
    def logs(self) -> Path:
        """What workers printed."""
        return self.root / "logs"

    @property
    def stores(self) -> Path:
        """Feature stores of all extractions."""
        return self.root / "stores"

    @property
    def heads(self) -> Path:
        """Heads of all probes."""
        return self.root / "heads"

    def of(self, step: Step) -> Path:
        """The folder of a step."""
        return self.root / "steps" / f"{step.kind}-{step.key[:KEY_LENGTH]}"

    def store(self, step: Step) -> Path:
        """The store that an extraction writes."""
        return self.stores / f"{_file_name(step)}.h5"

    def heads_of(self, step: Step) -> Path:
        """The heads that a probe chose."""
        return self.heads / f"{_file_name(step)}.safetensors"

    def runs(self, step: Step) -> Path:
        """The folder of a finetuning's runs."""
        return self.of(step) / "runs"

    def own_records(self, step: Step) -> Path:
        """Records of a step, complete or absent."""
        return self.of(step) / "records.jsonl"

    def done(self, step: Step) -> dict[str, Any] | None:
        """What a finished step left: its output, if that is still there, and its seconds."""
        found = _read_json(self.of(step) / "done.json")
        if found is None:
            return None
        output = found.get("output")
        if output is not None and not (self.root / str(output)).exists():
            return None
        if step.kind == "extract" and found.get("provenance") != self._provenance(self.store(step)):
            return None
        return found

    def write_done(self, step: Step, *, output: Path | None, seconds: float) -> None:
        """Mark a step as finished."""
        relative = None if output is None else os.path.relpath(output, self.root)
        provenance = self._provenance(self.store(step)) if step.kind == "extract" else None
        content = {"label": step.label, "output": relative, "seconds": seconds, "provenance": provenance}
        write_durably(self.of(step) / "done.json", json.dumps(content, sort_keys=True) + "\n")
        (self.of(step) / "failed.json").unlink(missing_ok=True)

    def failure(self, step: Step) -> Failure | None:
        """Why the step failed, if it did when it was last tried."""
        found = _read_json(self.of(step) / "failed.json")
        try:
            return None if found is None else Failure(**found)
        except TypeError:
            return None

    def write_failure(self, step: Step, failure: Failure) -> None:
        """Keep why a step failed."""
        content = json.dumps(asdict(failure), sort_keys=True, indent=1)
        write_durably(self.of(step) / "failed.json", content + "\n")

    def cells(self) -> Mapping[str, set[str]]:
        """Cells that are recorded, each with the digests of what it was computed from; reads what is new."""
        if not self.records.is_file():
            return self._cells
        with self.records.open("rb") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() < self._read_to:
                self._read_to, self._cells = 0, {}
            file.seek(self._read_to)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        for line in complete.splitlines():
            record = _record(line)
            if record is not None and "cell" in record:
                self._cells.setdefault(record["cell"], set()).add(provenance_digest(record["provenance"]))
        self._read_to += len(complete)
        return self._cells

    def provenance(self, store: Path) -> str | None:
        """Digest of what made a store; None where there is none."""
        return self._provenance(store)

    def commit(self, step: Step) -> int:
        """Let the records of a finished step join the others, those that are not there yet; how many that were."""
        own = self.own_records(step)
        if not own.is_file():
            return 0
        with FileLock(f"{self.records}.lock"):
            self._drop_half_line()
            there = self.cells()
            lines = [line for line in own.read_bytes().splitlines() if not _is_there(line, there, own)]
            if lines:
                with self.records.open("ab") as file:
                    file.write(b"".join(line + b"\n" for line in lines))
                    file.flush()
                    os.fsync(file.fileno())
        own.unlink(missing_ok=True)
        return len(lines)

    def write_own(self, step: Step, records: Iterable[dict[str, Any]]) -> None:
        """Write the records of a finished step, each with its cell and section."""
        lines = {}
        for record in records:
            cell = step.cells[_method(record), _seed(record, step)]
            marked = record | {"cell": cell, "section": step.section}
            lines[cell] = json.dumps(marked, allow_nan=False, sort_keys=True) + "\n"
        write_durably(self.own_records(step), "".join(lines.values()))

    def _drop_half_line(self) -> None:
        """Cut off a line without an end: its writer was killed, and holds the lock no more."""
        if not self.records.is_file():
            self.records.parent.mkdir(parents=True, exist_ok=True)
            return
        with self.records.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            at = end
            while at > 0:
                start = max(at - (1 << 16), 0)
                file.seek(start)
                found = file.read(at - start).rfind(b"\n")
                if found >= 0:
                    at = start + found + 1
                    break
                at = start
            if at < end:
                file.truncate(at)

    def _provenance(self, store: Path) -> str | None:
        try:
            with FeatureStore(store) as opened:
                return digest_of(opened.provenance.identity())
        except (GrobustError, OSError):
            return None


def provenance_digest(provenance: Mapping[str, Any]) -> str:
    """Digest of the provenance of a record, equal to that of its store."""
    flat = {k: str(v) for k, v in provenance.items() if k not in ("options", "versions")}
    options = provenance.get("options")
    return digest_of(flat | {f"options.{k}": v for k, v in sorted((options or {}).items())})


def _file_name(step: Step) -> str:
    label = step.label.removeprefix(f"{step.kind} ").partition(": ")[0]
    return f"{re.sub(r'[^A-Za-z0-9._]+', '-', label).strip('-')}-{step.key[:STORE_KEY_LENGTH]}"


def _method(record: Mapping[str, Any]) -> str:
    results = record["results"]
    return str(results["method"] if "method" in results else results["balance"])


def _seed(record: Mapping[str, Any], step: Step) -> int:
    return step.seeds[0] if len(step.seeds) == 1 else int(record["seed"])


def _is_there(line: bytes, there: Mapping[str, set[str]], path: Path) -> bool:
    record = _record(line)
    if record is None or "cell" not in record:
        raise DataError(f"{path} holds a line that is no record. Delete this file; its step is done again.")
    return provenance_digest(record["provenance"]) in there.get(record["cell"], ())


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(record, dict) and record.get("schema") == RECORD_SCHEMA
    # What is damaged counts for nothing, and its cell is computed again.
    return record if whole and isinstance(record.get("provenance"), dict) else None


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
