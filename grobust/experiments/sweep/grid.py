"""Grid files: TOML in, points of every section out.

A section ``[[extract]]``, ``[[finetune]]``, ``[[probe]]``, ``[[trajectory]]`` or ``[[spectrum]]`` holds the settings of
its command. ``product`` gives lists of which every combination is taken, ``combine`` a list of tables that are taken as
they are, ``skip`` and ``only`` leave combinations out. ``[vars]`` are values that stand in braces elsewhere; an
empty one leaves its setting out.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Any, NoReturn

from grobust.errors import ConfigError
from grobust.experiments.config import ExtractConfig, ProbeConfig, SpectrumConfig, TrajectoryConfig
from grobust.experiments.finetune_config import FinetuneConfig
from grobust.experiments.sweep.fields import FieldError, field_types, int_list, nearest
from grobust.experiments.sweep.toml_lines import TomlLines
from grobust.finetune.recipes import backbone_sizes
from grobust.finetune.settings import FinetuneSettings
from grobust.settings import BalanceMethod

__all__ = [
    "KINDS",
    "METHODS_AND_SEEDS",
    "Grid",
    "Point",
    "Section",
    "grid_about",
    "grid_names",
    "matches",
    "parse_grid",
    "read_grid",
]

# In the order in which they can need each other.
KINDS: dict[str, type] = {
    "finetune": FinetuneConfig, "extract": ExtractConfig, "probe": ProbeConfig, "trajectory": TrajectoryConfig,
    "spectrum": SpectrumConfig,
}  # fmt: skip
METHODS_AND_SEEDS = ("finetune", "probe", "trajectory", "spectrum")
# Where things are kept and what computes them is the sweep's to say.
OURS = {"out", "device", "records", "save", "figures", "overwrite", "resume", "values", "heads", "head"}
ARRANGEMENT = ("name", "product", "combine", "skip", "only", "where")
TOP = ("name", "vars", *KINDS)
RUN = "run"
MAX_POINTS = 100_000
_VARIABLE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Point:
    """One combination of settings, with one method and seed where the command has them.

    Parameters
    ----------
    values : settings as the file has them, without methods and seeds
    method, seed : of the point; None where the command has none, ``run`` for those of the finetuning run upstream
    """

    values: Mapping[str, Any]
    method: str | None = None
    seed: int | str | None = None


@dataclass(frozen=True)
class Section:
    """One table of the file.

    Parameters
    ----------
    kind, number, name : ``probe``, its place among its kind from 0, and what other sections call it
    points : in declared order
    where : conditions on the points of the section that this one reads
    """

    kind: str
    number: int
    name: str
    points: tuple[Point, ...]
    where: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """A grid file, checked and expanded."""

    name: str
    source: str
    sections: tuple[Section, ...]
    variables: Mapping[str, Any]
    lines: TomlLines

    def of_kind(self, kind: str) -> tuple[Section, ...]:
        """Sections of one command."""
        return tuple(section for section in self.sections if section.kind == kind)

    def only(self, names: Sequence[str]) -> "Grid":
        """The grid with these sections alone (all of them where no name is given), and those that they read.

        Raises
        ------
        ConfigError
            If there is no section of a name.
        """
        known = [section.name for section in self.sections]
        for name in names:
            if name not in known:
                raise ConfigError(f"{self.source} has no section '{name}'.{nearest(name, known)}")
        wanted = set(names or known)
        for section in reversed(self.sections):
            if section.name in wanted:
                wanted |= _reads(section)
        return replace(self, sections=tuple(s for s in self.sections if s.name in wanted))

    def fail(self, message: str, section: Section, *path: str) -> NoReturn:
        """Raise a `ConfigError` that says where in the file."""
        line = self.lines.line(section.kind, section.number, *path)
        raise ConfigError(f"{self.source}, line {line}, [[{section.kind}]] '{section.name}': {message}")


def grid_names() -> tuple[str, ...]:
    """Grids that come with grobust."""
    return tuple(sorted(path.name.removesuffix(".toml") for path in _packaged().iterdir() if path.name[-5:] == ".toml"))


def grid_about(name: str) -> str:
    """What a grid that comes with grobust is: its first comment."""
    text = _packaged().joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return str(text.splitlines()[0].removeprefix("#").strip())


def read_grid(name: str | Path, variables: Mapping[str, Any] | None = None) -> Grid:
    """Read a grid: a file, or the name of one that comes with grobust (``quick``, ``grids/quick.toml``).

    Raises
    ------
    ConfigError
        If there is none, or it is no TOML, has unknown keys, or values that cannot be; the line is named.
    """
    path = Path(name)
    if path.is_file():
        return parse_grid(path.read_text(encoding="utf-8"), str(path), variables)
    stem = path.name.removesuffix(".toml")
    if stem in grid_names() and path.parent in (Path(), Path("grids")):
        return parse_grid(
            _packaged().joinpath(f"{stem}.toml").read_text(encoding="utf-8"), f"grids/{stem}.toml", variables
        )
    raise ConfigError(
        f"There is no grid file {path}.{nearest(stem, grid_names())}\n"
        f"Give a path, or one of those that come with grobust: {', '.join(grid_names())}."
    )


def parse_grid(text: str, source: str, variables: Mapping[str, Any] | None = None) -> Grid:
    """Check and expand the text of a grid file; `variables` replace those of its ``[vars]``.

    Raises
    ------
    ConfigError
        See `read_grid`.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} is no TOML: {error}.") from None
    lines = TomlLines.of(text)
    for key in content:
        if key not in TOP:
            raise ConfigError(f"{source}, line {lines.line(key)}: '{key}' is no part of a grid.{nearest(key, TOP)}")
    known = dict(content.get("vars", {}))
    for name in variables or {}:
        if name not in known:
            raise ConfigError(f"{source} has no variable '{name}'.{nearest(name, list(known))}")
    known |= variables or {}
    name = str(content.get("name", Path(source).stem))
    grid = Grid(name, source, (), known, lines)
    sections: list[Section] = []
    for kind in KINDS:
        tables = content.get(kind, [])
        if not isinstance(tables, list) or any(not isinstance(table, dict) for table in tables):
            raise ConfigError(f"{source}, line {lines.line(kind)}: write [[{kind}]], with two brackets.")
        for number, table in enumerate(tables):
            sections.append(_section(grid, kind, number, _filled(grid, Section(kind, number, "", (), {}), table)))
    names = [section.name for section in sections]
    for section in sections:
        if names.count(section.name) > 1:
            grid.fail("two sections have this name; give each its own.", section, "name")
    if not sections:
        raise ConfigError(f"{source} has no section. Expected one or more of: " + ", ".join(f"[[{k}]]" for k in KINDS))
    return replace(grid, sections=tuple(sections))


def _packaged() -> Any:
    return files("grobust").joinpath("grids")


def _section(grid: Grid, kind: str, number: int, table: dict[str, Any]) -> Section:
    name = table.get("name", f"{kind}-{number + 1}")
    section = Section(kind, number, str(name), (), table.get("where", {}))
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        grid.fail(f"name must be letters, digits, '.', '_' and '-'; got {name!r}.", section, "name")
    known = _known(kind)
    plain = {key: value for key, value in table.items() if key not in ARRANGEMENT}
    products, combine = table.get("product", {}), table.get("combine", [{}])
    conditions = {key: _tables(grid, section, key, table.get(key, [])) for key in ("skip", "only")}
    tables = [((), plain), (("product",), products)]
    tables += [(("combine",), chosen) for chosen in _tables(grid, section, "combine", combine)]
    for path, keys in tables:
        for key in keys:
            if key not in known:
                grid.fail(f"unknown key '{key}'.{nearest(key, [*known, *ARRANGEMENT])}", section, *path, key)
    for key, listed in products.items():
        if not isinstance(listed, list) or not listed:
            grid.fail(f"product.{key} must be a list with at least one value, got {listed!r}.", section, "product", key)
    for key, several in conditions.items():
        for condition in several:
            for field in condition:
                if field not in (*known, "method", "seed"):
                    grid.fail(f"unknown key '{field}' in {key}.{nearest(field, known)}", section, key, field)
    points = []
    for chosen in combine:
        for values in product(*(_backbones(key, listed) for key, listed in products.items())):
            merged = plain | chosen | dict(zip(products, values, strict=True))
            points += _points(grid, section, merged)
            if len(points) > MAX_POINTS:
                grid.fail(f"more than {MAX_POINTS} combinations.", section, "product")
    kept = [p for p in points if _kept(p, conditions)]
    if not kept:
        grid.fail(f"skip and only leave none of its {len(points)} combinations.", section)
    return replace(section, points=tuple(_distinct(kept)))


def _points(grid: Grid, section: Section, merged: dict[str, Any]) -> list[Point]:
    """The combination once for every method and seed."""
    values = dict(merged)
    if section.kind not in METHODS_AND_SEEDS:
        return [Point(values)]
    try:
        default = [1] if section.kind in ("finetune", "spectrum") else [1, 2, 3]
        own = values.pop("seeds", None)
        if section.kind == "spectrum":
            own = values.pop("seed", own)
        methods = _methods(values.pop("balance", "none"))
        seeds: Sequence[int | str] = (
            [RUN] if own == RUN or methods == [RUN] else int_list("seeds", default if own is None else own)
        )
    except FieldError as error:
        grid.fail(str(error), section, error.field)
    return [Point(_used(values, method), method, seed) for method in methods for seed in seeds]


def _methods(value: Any) -> list[str]:
    listed = value if isinstance(value, list) else list(BalanceMethod) if value == "all" else [value]
    for method in listed:
        if method not in (*BalanceMethod, RUN):
            raise FieldError("balance", f"unknown method {method!r}.{nearest(str(method), ['all', *BalanceMethod])}")
    if not listed or (RUN in listed and len(listed) > 1):
        raise FieldError("balance", f'balance needs methods, or "{RUN}" alone; got {value!r}.')
    return [str(method) for method in listed]


def _used(values: dict[str, Any], method: str) -> dict[str, Any]:
    """Without settings that the method does not read, so that equal runs are seen to be equal."""
    unread = set()
    if method not in (BalanceMethod.MIXTURE, RUN):
        unread |= {"ratio", "sampler"}
    if method not in (BalanceMethod.UPWEIGHTING, RUN):
        unread.add("normalize")
    if method == BalanceMethod.NONE:
        unread.add("by")
    return {key: value for key, value in values.items() if key not in unread}


def _distinct(points: list[Point]) -> list[Point]:
    first: dict[str, Point] = {}
    for point in points:
        first.setdefault(repr((sorted(point.values.items()), point.method, point.seed)), point)
    return list(first.values())


def _kept(point: Point, conditions: Mapping[str, list[dict[str, Any]]]) -> bool:
    facts = {**point.values, "balance": point.method, "method": point.method, "seed": point.seed, "seeds": point.seed}
    if any(matches(facts, condition) for condition in conditions["skip"]):
        return False
    return not conditions["only"] or any(matches(facts, condition) for condition in conditions["only"])


def matches(facts: Mapping[str, Any], condition: Mapping[str, Any]) -> bool:
    """Whether every value of a condition, or one of a list of them, is that of the facts."""
    return all(facts.get(key) in (value if isinstance(value, list) else [value]) for key, value in condition.items())


def _tables(grid: Grid, section: Section, key: str, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or (not value and key == "combine") or any(not isinstance(v, dict) for v in value):
        grid.fail(f"{key} must be a list of tables, such as {key} = [{{ ratio = 2 }}]; got {value!r}.", section, key)
    return value


def _known(kind: str) -> list[str]:
    names = [name for name in field_types(KINDS[kind]) if name not in OURS]
    if kind == "finetune":
        names += [name for name in field_types(FinetuneSettings) if name not in (*names, "balance", "seed")]
    if kind == "spectrum":
        names.append("seeds")
    return names


def _backbones(key: str, listed: list[Any]) -> list[Any]:
    """Names of the recipes may end in ``*``: all sizes of a family."""
    if key != "backbone":
        return listed
    found: list[Any] = []
    for name in listed:
        family = name[:-2] if isinstance(name, str) and name.endswith("-*") else None
        found += [size.name for size in backbone_sizes() if size.family == family] or [name]
    return found


def _reads(section: Section) -> set[str]:
    key = "backbone" if section.kind == "extract" else "store"
    texts = {str(point.values.get(key, "")) for point in section.points}
    return {text.removeprefix("finetune:").partition("@")[0] for text in texts}


def _filled(grid: Grid, section: Section, value: Any) -> Any:
    """The value with its variables; a setting whose variable is an empty text is left out."""
    if isinstance(value, dict):
        filled = {key: _filled(grid, section, item) for key, item in value.items()}
        return {key: item for key, item in filled.items() if item != "" or value[key] == ""}
    if isinstance(value, list):
        return [_filled(grid, section, item) for item in value]
    if not isinstance(value, str):
        return value
    whole = _VARIABLE.fullmatch(value)

    def one(match: re.Match[str]) -> str:
        return str(_variable(grid, section, match[1]))

    return _variable(grid, section, whole[1]) if whole else _VARIABLE.sub(one, value)


def _variable(grid: Grid, section: Section, name: str) -> Any:
    if name not in grid.variables:
        table = grid.lines.line(section.kind, section.number)
        raise ConfigError(
            f"{grid.source}, [[{section.kind}]] at line {table}: no variable '{{{name}}}'."
            f"{nearest(name, list(grid.variables))}"
        )
    return grid.variables[name]
