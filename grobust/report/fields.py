"""Fields of records by name: what tables, figures and filters ask for.

A field is a path with dots. It may start at the record (``results.test.wga.value``, ``config.l2``) or leave out
``results``, ``config`` or ``provenance`` (``test.wga``, ``l2``, ``dataset``), looked through in this order. An estimate
stands for its value, a list of named entries is entered by name (``test.groups.landbird / water``), and ``test`` of a
run over epochs is that of the last one.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from grobust.errors import ConfigError

__all__ = [
    "Condition",
    "Found",
    "distinct_runs",
    "field_names",
    "filtered",
    "having",
    "lookup",
    "method_of",
    "require",
    "text_of",
]

ROOTS = ("", "results.", "config.settings.", "config.", "provenance.")
# Of a configuration, what does not make another run: places, budgets, and the lists that the run is one of.
NOT_SETTINGS = {"balance", "seeds", "records", "save", "figures", "device", "out", "max_bytes", "memory_bytes",
                "workers", "resume", "overwrite", "store"}  # fmt: skip
NEAREST = 3


@dataclass(frozen=True)
class Found:
    """A field's value in one record; `low` and `high` where it is an estimate with an interval."""

    value: Any
    low: float | None = None
    high: float | None = None
    is_estimate: bool = False


@dataclass(frozen=True)
class Condition:
    """``field=value`` or ``field=value,value``: records in which the field has one of the values."""

    field: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read a condition as it is written on the command line.

        Raises
        ------
        ConfigError
            If there is no equals sign, no field or no value.
        """
        name, equals, values = text.partition("=")
        if not (equals and name.strip() and values.strip()):
            raise ConfigError(f"--where: expected FIELD=VALUE or FIELD=VALUE,VALUE, got {text!r}.")
        return cls(name.strip(), (values.strip(), *(v.strip() for v in values.split(","))))

    def holds(self, value: Any) -> bool:
        """Whether a value is one of the condition's: the same text, or the same number."""
        return any(_equal(text, value) for text in self.values)


def lookup(record: dict[str, Any], field: str) -> Found | None:
    """The value of a field, or None where the record has no such field or nothing in it."""
    if field == "method":
        name = method_of(record)
        return None if name is None else Found(name)
    for root in ROOTS:
        found = _follow(record, f"{root}{field}")
        if found is not None:
            return found
    if field == "test" or field.startswith("test."):
        return lookup(record, "last" + field.removeprefix("test"))
    return None


def method_of(record: dict[str, Any]) -> str | None:
    """The method of a run: its results say so, or for spectra the balancing whose rows were used."""
    results = record.get("results", {})
    method = results.get("method", results.get("balance"))
    return method if isinstance(method, str) else None


def text_of(value: Any) -> str:
    """A field's value as a label: numbers short, lists with commas."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return ", ".join(map(text_of, value))
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def field_names(records: Iterable[dict[str, Any]]) -> list[str]:
    """Every field that can be asked for, by its shortest name, sorted."""
    names: set[str] = {"method"}
    for record in records:
        for path in _leaves(record, ""):
            short = next((path.removeprefix(root) for root in ROOTS[1:] if path.startswith(root)), path)
            names.add(short)
            if short.startswith("last."):
                names.add("test" + short.removeprefix("last"))
    return sorted(names)


def require(records: Sequence[dict[str, Any]], field: str, *, option: str) -> None:
    """Check that a field is in at least one record.

    Raises
    ------
    ConfigError
        If it is in none; the message names the nearest fields.
    """
    if any(lookup(record, field) is not None for record in records):
        return
    names = field_names(records)
    # A missing prefix is the commonest slip, and no matter of spelling.
    endings = [name for name in names if name.endswith(f".{field}")]
    near = list(dict.fromkeys([*endings, *get_close_matches(field, names, n=NEAREST, cutoff=0.5)]))[:NEAREST]
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    short = [name for name in names if name.count(".") <= 1][:40]
    raise ConfigError(
        f"{option}: no record has a field {field!r}.{hint}\n"
        f"Fields with short names are: {', '.join(short)}."
    )  # fmt: skip


def filtered(records: Sequence[dict[str, Any]], conditions: Sequence[Condition]) -> list[dict[str, Any]]:
    """Records in which every condition holds.

    Raises
    ------
    ConfigError
        If a condition's field is unknown, or nothing is left; the message says which values there are.
    """
    kept = list(records)
    for condition in conditions:
        require(records, condition.field, option="--where")
        values = [lookup(record, condition.field) for record in kept]
        left = [r for r, v in zip(kept, values, strict=True) if v is not None and condition.holds(v.value)]
        if not left:
            there = sorted({text_of(v.value) for v in values if v is not None})[:20]
            raise ConfigError(
                f"--where: no record has {condition.field} = {condition.values[0]!r}. There are: {', '.join(there)}."
            )
        kept = left
    return kept


def distinct_runs(records: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
    """Each run once, as it was recorded last, and how many records that leaves out.

    Two records are of one run when command, method, seed, settings and provenance agree; spectra also by their store.
    """
    runs: dict[str, dict[str, Any]] = {}
    for record in records:
        config = {k: v for k, v in record.get("config", {}).items() if k not in NOT_SETTINGS}
        made = {k: v for k, v in record.get("provenance", {}).items() if k != "versions"}
        store = record.get("config", {}).get("store") if record.get("command") == "spectrum" else None
        key = [record.get("command"), method_of(record), record.get("seed"), config, made, store]
        text = json.dumps(key, sort_keys=True)
        runs.pop(text, None)
        runs[text] = record
    return list(runs.values()), len(records) - len(runs)


def _follow(value: Any, path: str) -> Found | None:
    """Walk a path; names may hold dots themselves, so the longest key that fits is tried first."""
    if path == "":
        return _leaf(value)
    if isinstance(value, list):
        value = {str(v["name"]): v for v in value if isinstance(v, dict) and "name" in v}
    if not isinstance(value, dict):
        return None
    for key in sorted((k for k in value if path == k or path.startswith(f"{k}.")), key=len, reverse=True):
        found = _follow(value[key], path[len(key) + 1 :])
        if found is not None:
            return found
    return None


def _leaf(value: Any) -> Found | None:
    if _is_estimate(value):
        if value["value"] is None:
            return None
        return Found(value["value"], value["low"], value["high"], is_estimate=True)
    if value is None or isinstance(value, dict):
        return None
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        return None
    return Found(value)


def _is_estimate(value: Any) -> bool:
    return isinstance(value, dict) and {"value", "low", "high", "n"} <= value.keys()


def _leaves(value: Any, path: str) -> Iterable[str]:
    if _leaf(value) is not None:
        yield path
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict) and "name" in item:
                yield from _leaves({k: v for k, v in item.items() if k != "name"}, f"{path}.{item['name']}")
    elif isinstance(value, dict) and not _is_estimate(value):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else str(key))


def _equal(text: str, value: Any) -> bool:
    if text == text_of(value):
        return True
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return float(text) == value
    except ValueError:
        return False


def having(records: Iterable[dict[str, Any]], fields: Sequence[str]) -> list[dict[str, Any]]:
    """Records that have all of the fields."""
    return [record for record in records if all(lookup(record, field) is not None for field in fields)]
