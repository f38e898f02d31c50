"""The plan of a sweep: steps that are done once each, in an order in which they can be done."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import xxhash

from grobust.data.catalog import load_dataset
from grobust.errors import BackboneError, ConfigError, DataError, GrobustError
from grobust.experiments.config import ExtractConfig
from grobust.experiments.sweep.fields import FieldError, converted, nearest
from grobust.experiments.sweep.grid import RUN, Grid, Point, Section, matches
from grobust.experiments.sweep.step import RUN_PREFIX, Config, Step, config_of, digest_of, identity_of, without_finished
from grobust.features.store import FeatureStore

__all__ = ["DataFacts", "Plan", "make_plan"]

_DATA_FIELDS = ("dataset", "data_dir", "columns", "split")
_OF_RUN = ("ratio", "by")
# Settings that only some methods read.
SOME_METHODS = ("ratio", "normalize", "by")


@dataclass(frozen=True)
class DataFacts:
    """A data set as the plan knows it; `missing` says why it cannot be read, and then nothing else is known."""

    kind: str | None
    digest: str | None
    rows: int
    missing: str | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """Steps in an order in which they can be done.

    Parameters
    ----------
    grid : that was planned
    steps : every one once
    wanted : steps that the grid asks for, before equal ones were put together
    missing : data sets that are not there
    """

    grid: Grid
    steps: tuple[Step, ...]
    wanted: int
    missing: tuple[str, ...]

    @property
    def cells(self) -> int:
        """Records that a finished sweep has."""
        return sum(len(step.cells) for step in self.steps)

    def readers(self, key: str) -> int:
        """Steps that read a step's output."""
        return sum(key in step.inputs for step in self.steps)


def make_plan(grid: Grid, *, allow_missing: bool = False) -> Plan:
    """Every step of a grid, with keys that say by content what it is.

    Data sets are loaded (no item is decoded), so that what cannot be is found before anything runs.

    Parameters
    ----------
    allow_missing : plan although data sets are not there; such a plan can be shown, but not run

    Raises
    ------
    ConfigError
        If a value is out of range, or a section reads one that is not there; section and line are named.
    DataError
        If a data set is not there.
    """
    return _Planner(grid, allow_missing).plan()


class _Planner:
    def __init__(self, grid: Grid, allow_missing: bool) -> None:
        self.grid = grid
        self.allow_missing = allow_missing
        self.data: dict[str, DataFacts] = {}
        self.weights: dict[str, str] = {}
        self.made: dict[str, list[Step]] = {}

    def plan(self) -> Plan:
        for section in self.grid.sections:
            self.made[section.name] = list(self._steps(section))
            if not self.made[section.name]:
                self.grid.fail("no step of the section that it reads fits its `where`.", section, "where")
        everything = [step for steps in self.made.values() for step in steps]
        steps = tuple(_each_once(everything))
        missing = tuple(facts.missing for facts in self.data.values() if facts.missing is not None)
        return Plan(self.grid, steps, len(everything), missing)

    def _steps(self, section: Section) -> Iterator[Step]:
        if section.kind == "finetune":
            yield from (self._finetune(section, point) for point in section.points)
        elif section.kind == "extract":
            for point in section.points:
                yield from self._extractions(section, point)
        else:
            batches: list[_Batch] = []
            for point in section.points:
                for source in self._sources(section, point):
                    own = _of_run(self, section, point, source)
                    if not any(batch.takes(source, own) for batch in batches):
                        # A spectrum is of one method and seed; heads of one store are solved in one batch.
                        batches.append(_Batch(source, section.kind != "spectrum", [own], dict(own.values)))
            for batch in batches:
                yield from self._on_store(section, batch)

    def _finetune(self, section: Section, point: Point) -> Step:
        methods, seeds = (str(point.method),), (_seed(self, section, point),)
        data = self._data(section, point.values)
        config = self._config(section, "finetune", point.values, methods=methods, seeds=seeds)
        try:
            identity = identity_of(config, kind=data.kind)
        except GrobustError as error:
            if data.missing is None or "kind" not in str(error):
                self._refuse(section, error)
            identity = dict(point.values)
        content = {"identity": identity, "data": self._data_identity(point.values, data),
                   "weights": self._local_weights(str(point.values.get("backbone", "")))}  # fmt: skip
        facts = {**point.values, "balance": methods[0], "method": methods[0], "seed": seeds[0]}
        label = f"finetune {_short(facts)} {methods[0]}{_ratio(point.values)} seed {seeds[0]}"
        base = digest_of(["finetune", content])
        step = Step("finetune", "", {methods[0]: base}, section.name, label, point.values, methods, seeds, facts=facts)
        return replace(step.part(methods, seeds), label=label)

    def _extractions(self, section: Section, point: Point) -> Iterator[Step]:
        backbone = point.values.get("backbone")
        if backbone is None:
            self.grid.fail("needs a backbone.", section)
        if not str(backbone).startswith(RUN_PREFIX):
            yield self._extract(section, point.values, None, None)
            return
        name, _, epoch = str(backbone).removeprefix(RUN_PREFIX).partition("@")
        if name not in self.made or not self.made[name] or self.made[name][0].kind != "finetune":
            known = [s.name for s in self.grid.of_kind("finetune")]
            self.grid.fail(f"there is no [[finetune]] section '{name}'.{nearest(name, known)}", section, "backbone")
        for upstream in self._fitting(section, self.made[name]):
            taken = ("dataset", *_DATA_FIELDS[1:], "limit")
            own = {k: v for k, v in upstream.values.items() if k in taken and v is not None}
            yield self._extract(section, {**own, **point.values}, upstream, epoch or "last")

    def _extract(self, section: Section, values: Mapping[str, Any], run: Step | None, epoch: str | None) -> Step:
        data = self._data(section, values)
        source = None if run is None else f"run:{run.key}@{epoch}"
        config = self._config(section, "extract", values, source=source)
        identity = identity_of(config)
        identity.pop("seed" if config.__dict__.get("limit") is None else "", None)
        content = {"identity": identity, "data": self._data_identity(values, data),
                   "weights": None if run else self._local_weights(str(values["backbone"]))}  # fmt: skip
        # What the network was trained with, but not its backbone's name: the features are of the run.
        facts = {**(run.facts if run else {}), **values}
        if run:
            facts["backbone"] = run.facts["backbone"]
        after = f" after {facts['method']}{_ratio(run.values)} seed {facts['seed']}" if run else ""
        label = f"extract {_short(facts)}{after}"
        key = digest_of(["extract", content])
        return Step(
            "extract", key, {}, section.name, label, values,
            inputs=() if run is None else (run.key,), epoch=epoch, facts=facts,
        )  # fmt: skip

    def _on_store(self, section: Section, batch: "_Batch") -> Iterator[Step]:
        source, values = batch.source, _no_store(batch.values)
        store = self._store(section, source) if isinstance(source, str) else source.key
        of = Path(source).name if isinstance(source, str) else source.label.removeprefix("extract ")
        bases: dict[str, str] = {}
        seeds_of: dict[str, list[int]] = {}
        for point in batch.points:
            method, seed = str(point.method), _seed(self, section, point)
            if method not in bases:
                # As it would be alone: what stands beside it changes nothing.
                config = self._config(section, section.kind, _no_store(point.values), methods=[method], seeds=[seed])
                bases[method] = digest_of([section.kind, identity_of(config), store])
            seeds_of.setdefault(method, []).append(seed)
        by_seeds: dict[tuple[int, ...], list[str]] = {}
        for method, seeds in seeds_of.items():
            by_seeds.setdefault(tuple(dict.fromkeys(seeds)), []).append(method)
        step = Step(
            section.kind, "", bases, section.name, f"{section.kind} {of}{_ratio(values)}", values,
            inputs=() if isinstance(source, str) else (source.key,), store=source if isinstance(source, str) else None,
        )  # fmt: skip
        for some, methods in by_seeds.items():
            self._config(section, section.kind, values, methods=methods, seeds=some)
            yield step.part(methods, some)

    def _sources(self, section: Section, point: Point) -> Sequence[Step | str]:
        """Steps whose store is read, or the path of a store."""
        store = point.values.get("store")
        if store is None:
            self.grid.fail("needs a store: the name of an [[extract]] section, or a file.", section)
        if store in self.made and self.made[store][0].kind == "extract":
            return self._fitting(section, self.made[store])
        if not Path(str(store)).is_file():
            known = [s.name for s in self.grid.of_kind("extract")]
            self.grid.fail(
                f"'{store}' is no [[extract]] section and no file.{nearest(str(store), known)}", section, "store"
            )
        return [str(store)]

    def _fitting(self, section: Section, steps: list[Step]) -> list[Step]:
        for key in section.where:
            if not any(key in step.facts for step in steps):
                known = list(dict.fromkeys(name for step in steps for name in step.facts))
                self.grid.fail(f"where: no step has '{key}'.{nearest(key, known)}", section, "where", key)
        return [step for step in steps if matches(step.facts, section.where)]

    def _config(self, section: Section, kind: str, values: Mapping[str, Any], **more: Any) -> Config:
        try:
            return config_of(kind, values, **more)
        except TypeError as error:
            # A dataclass says which of its fields have no value.
            self.grid.fail(f"a setting is missing: {str(error).partition('argument')[2] or error}.", section)
        except GrobustError as error:
            self._refuse(section, error)

    def _refuse(self, section: Section, error: GrobustError) -> NoReturn:
        backbones = {str(point.values.get("backbone")) for point in section.points}
        words = str(error).split(" ", 1)[0].strip("'")
        field = error.field if isinstance(error, FieldError) else words
        if isinstance(error, BackboneError) or words in backbones:
            field = "backbone"
        elif not any(field in point.values for point in section.points):
            given = [key for point in section.points for key in point.values]
            field = next((key for key in given if re.search(rf"\b{key}\b", str(error))), field)
        for path in ((field,), ("product", field), ("combine", field)):
            if self.grid.lines.line(section.kind, section.number, *path) != self.grid.lines.line(
                section.kind, section.number
            ):
                self.grid.fail(str(error), section, *path)
        self.grid.fail(str(error), section)

    def _data(self, section: Section, values: Mapping[str, Any]) -> DataFacts:
        wanted = {name: values.get(name) for name in _DATA_FIELDS}
        key = repr(wanted)
        if key not in self.data:
            self.data[key] = self._loaded(section, wanted)
        return self.data[key]

    def _loaded(self, section: Section, wanted: Mapping[str, Any]) -> DataFacts:
        if wanted["dataset"] is None:
            self.grid.fail("needs a dataset.", section)
        try:
            given = converted(ExtractConfig, {k: v for k, v in wanted.items() if v is not None})
            found = load_dataset(
                given["dataset"], data_dir=given.get("data_dir"), columns=given.get("columns"), split=given.get("split")
            )  # fmt: skip
        except (DataError, OSError) as error:
            if not self.allow_missing or str(error).startswith("Unknown data set"):
                self.grid.fail(str(error), section, "data_dir" if wanted["data_dir"] else "dataset")
            return DataFacts(None, None, 0, f"{wanted['dataset']}: {str(error).splitlines()[0]}")
        except ConfigError as error:
            self._refuse(section, error)
        return DataFacts(found.kind, found.digest, len(found.split))

    def _data_identity(self, values: Mapping[str, Any], data: DataFacts) -> Any:
        return data.digest if data.digest is not None else str(values.get("data_dir"))

    def _local_weights(self, backbone: str) -> str | None:
        """Digest of the files of a network in a local folder: such a name says nothing about its content."""
        folder = Path(backbone.partition(":")[2])
        if backbone not in self.weights:
            hasher = xxhash.xxh3_128()
            paths = sorted(p for p in folder.rglob("*") if p.is_file()) if ":" in backbone and folder.is_dir() else []
            for path in paths:
                hasher.update(str(path.relative_to(folder)).encode())
                with path.open("rb") as file:
                    while block := file.read(1 << 22):
                        hasher.update(block)
            self.weights[backbone] = hasher.hexdigest() if paths else ""
        return self.weights[backbone] or None

    def _store(self, section: Section, path: str) -> Any:
        try:
            with FeatureStore(path) as store:
                return store.provenance.identity()
        except GrobustError as error:
            self.grid.fail(str(error), section, "store")


@dataclass
class _Batch:
    """Points on one store that one call can compute: their settings agree, but for what some methods do not read."""

    source: Step | str
    several: bool
    points: list[Point]
    values: dict[str, Any]

    def takes(self, source: Step | str, point: Point) -> bool:
        """Whether the point can join, which it then has."""
        same = all(self.values[k] == point.values[k] for k in self.values.keys() & point.values.keys())
        others = (self.values.keys() ^ point.values.keys()) - set(SOME_METHODS)
        if not self.several or source != self.source or not same or others:
            return False
        self.points.append(point)
        self.values |= point.values
        return True


def _no_store(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "store"}


def _of_run(planner: _Planner, section: Section, point: Point, source: Step | str) -> Point:
    """The point with method, seed and balancing of the finetuning run upstream, where it asks for them."""
    if RUN not in (point.method, point.seed):
        return point
    facts = {} if isinstance(source, str) else source.facts
    if "method" not in facts:
        planner.grid.fail(f'balance or seeds are "{RUN}", but no finetuning run made its features.', section, "balance")
    if point.method != RUN:
        return replace(point, seed=facts["seed"])
    inherited = {k: facts[k] for k in _OF_RUN if k in facts}
    seed = facts["seed"] if point.seed == RUN else point.seed
    return replace(point, values={**inherited, **point.values}, method=facts["method"], seed=seed)


def _seed(planner: _Planner, section: Section, point: Point) -> int:
    if not isinstance(point.seed, int):
        planner.grid.fail(f'seeds are "{RUN}" only with the store of a finetuning run.', section, "seeds")
    return point.seed


def _short(facts: Mapping[str, Any]) -> str:
    backbone = str(facts.get("backbone", "?")).split("/")[-1].split(":")[-1]
    return f"{facts.get('dataset', '?')} {backbone}"


def _ratio(values: Mapping[str, Any]) -> str:
    return f" {values['ratio']:g}:1" if isinstance(values.get("ratio"), int | float) else ""


def _each_once(steps: Sequence[Step]) -> Iterator[Step]:
    """Steps without those that are there already, and without cells that an earlier one has."""
    keys: set[str] = set()
    cells: set[str] = set()
    for step in steps:
        there = {cell: name in cells for cell, name in step.cells.items()}
        cells |= set(step.cells.values())
        for part in without_finished(step, there) if there else (step,):
            if part.key not in keys:
                keys.add(part.key)
                yield part
