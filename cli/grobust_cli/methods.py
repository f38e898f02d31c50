"""``grobust methods``, and `grobust probe --method`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from grobust.errors import ConfigError
from grobust_cli._method_tables import show_catalog, show_methods
from grobust_cli._options import Json
from grobust_cli._output import note, progress_bar, show_json

if TYPE_CHECKING:
    from grobust.experiments.methods_config import MethodsConfig
    from grobust.settings import SelectBy

__all__ = ["fit_methods", "make_config", "method_names", "methods", "settings_of"]


def methods(json: Json = False) -> None:
    """Methods that `grobust probe --method` knows: labels they need, cost, source.

    `train` and `choose` columns: class or group labels of training rows; of validation rows to train on; of validation
    rows to choose settings (as published; change it with --select). The settings of each, with their defaults, are in
    `--json`.

    Example: `grobust methods --json`
    """
    from grobust.experiments.config import plain
    from grobust.methods import METHODS

    rows = [
        {
            "name": name,
            "title": method.about.title,
            "source": method.about.source,
            "cost": method.about.cost,
            "random": method.about.random,
            "labels": {
                key: list(getattr(method.needs, key).kinds) for key in ("train", "reweighting", "selection")
            },
            "settings": plain(method),
        }
        for name, method in METHODS.items()
    ]  # fmt: skip
    if json:
        show_json({"methods": rows})
        return
    show_catalog(rows)


def fit_methods(config: "MethodsConfig", json: bool) -> None:
    """Run, and print the report."""
    from grobust.experiments.methods import run_methods

    with progress_bar("methods") as advance:
        report = run_methods(config, on_progress=lambda done, total, name: advance(done, total, name))
    if json:
        show_json(report.as_dict())
        return
    show_methods(report)
    lines = [*report.notes, *(f"{name} left out: {why}" for name, why in report.skipped.items())]
    lines += dict.fromkeys(f"{run.name}: {line}" for run in report.runs for line in run.fit.notes)
    lines.append(f"each run was appended to {config.records} as it finished")
    if config.save is not None:
        lines.append(f"heads saved to {config.save}; use them with `grobust predict STORE {config.save}`")
    if report.figures:
        lines.append(f"figures, and their numbers as CSV: {', '.join(report.figures)}")
    note(*lines)


def make_config(
    *, store: Path, names: tuple[str, ...], items: Sequence[str], select: "SelectBy | None", early: Path | None,
    seeds: tuple[int, ...], records: Path, save: Path | None, figures: Path | None,
) -> "MethodsConfig":  # fmt: skip
    """The config of `grobust probe --method`."""
    from grobust.experiments.methods_config import MethodsConfig

    return MethodsConfig(
        store=store, methods=names, settings=settings_of(items, names), select=select, early=early, seeds=seeds,
        records=records, save=save, figures=figures,
    )  # fmt: skip


def method_names(text: str) -> tuple[str, ...]:
    """Comma-separated names, or ``all``."""
    names = tuple(part.strip() for part in text.split(","))
    if not all(names):
        raise ConfigError(f"--method: empty name in {text!r}.")
    return names


def settings_of(items: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Settings by method from ``NAME=VALUE``, for every method that has it, and ``METHOD.NAME=VALUE``."""
    from grobust.methods import METHODS, known_method, setting_names

    used = list(METHODS) if "all" in names else list(names)
    found: dict[str, dict[str, str]] = {}
    for item in items:
        key, equals, value = item.partition("=")
        method, dot, setting = key.strip().rpartition(".")
        if not equals or not setting or not value.strip():
            raise ConfigError(f"--set: expected NAME=VALUE or METHOD.NAME=VALUE, got {item!r}.")
        if dot:
            known_method(method)
            owners = [method]
        else:
            owners = [name for name in used if setting in setting_names(name)]
        if not owners:
            raise ConfigError(
                f"--set: none of {', '.join(used)} has a setting '{setting}'. See `grobust methods --json`."
            )
        for owner in owners:
            found.setdefault(owner, {})[setting] = value.strip()
    return found
