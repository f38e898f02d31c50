"""`MethodsConfig`: what `grobust probe --method` runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grobust.errors import ConfigError
from grobust.methods import known_method, setting_names
from grobust.settings import SelectBy

__all__ = ["EVERY_METHOD", "MethodsConfig"]

EVERY_METHOD = "all"


@dataclass(frozen=True)
class MethodsConfig:
    """Run methods of `grobust.methods` on a feature store.

    Parameters
    ----------
    store : feature store
    methods : names, each with every seed; ``("all",)`` for all that the data allow
    settings : settings of methods as text, by method and name; the published ones elsewhere
    select : score on validation rows that chooses, for methods that have one; None for the published
    early : store of the same rows' features at an early checkpoint, or before finetuning; None for none
    seeds : of every method; one that nothing random is in runs once
    records : file that each run is appended to as it finishes; None for none
    save : file for the heads; None for none
    figures : folder for figures; None for none
    """

    store: Path
    methods: tuple[str, ...] = (EVERY_METHOD,)
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    select: SelectBy | None = None
    early: Path | None = None
    seeds: tuple[int, ...] = (1, 2, 3)
    records: Path | None = None
    save: Path | None = None
    figures: Path | None = None

    def __post_init__(self) -> None:
        for name, values in (("methods", self.methods), ("seeds", self.seeds)):
            if not values or len(set(values)) != len(values):
                raise ConfigError(f"{name} must be given, each once; got {values!r}.")
        if min(self.seeds) < 0:
            raise ConfigError(f"seeds must not be negative, got {min(self.seeds)}.")
        if self.every and len(self.methods) > 1:
            raise ConfigError(f"'{EVERY_METHOD}' stands for every method; give it alone, or names.")
        for name in self.methods if not self.every else ():
            known_method(name)
        if self.select is not None and not self.every and not any("select" in setting_names(n) for n in self.methods):
            raise ConfigError(
                f"select has no meaning for {', '.join(self.methods)}: they choose nothing, or by inferred groups."
            )
        unused = sorted(set(self.settings) - set(self.methods)) if not self.every else []
        for name in unused:
            raise ConfigError(f"There are settings of method '{name}', which is not run ({', '.join(self.methods)}).")

    @property
    def every(self) -> bool:
        """Whether all methods are asked for."""
        return EVERY_METHOD in self.methods
