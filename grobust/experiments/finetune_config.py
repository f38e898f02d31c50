"""`FinetuneConfig`: what one `grobust finetune` trains, and where it is kept."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grobust.errors import ConfigError
from grobust.finetune.recipes import Recipe, recipe_for
from grobust.finetune.settings import FinetuneSettings
from grobust.settings import BalanceMethod

__all__ = ["FinetuneConfig"]


@dataclass(frozen=True)
class FinetuneConfig:
    """Finetune a backbone on a data set with every method and seed, one run each.

    Parameters
    ----------
    dataset : name in the catalog, such as ``tweets`` or ``digits:celeba``
    backbone : spec string, ``source:name[@weights]``, or a name of the recipes such as ``convnextv2-nano``
    out : folder of the runs' folders
    data_dir : folder of data sets that live on disk
    columns : column names of `metadata_csv`, ``label=y`` and the like
    pool : which vector enters the head; None for the backbone's own
    image_size, max_tokens : input size; None for the recipe's, or else the backbone's own
    limit : keep this many rows, with the group shares of each split; None for all
    limit_seed : of that draw
    balance : methods, each trained with every seed
    seeds : one run per method and seed
    values : settings of every run by name, fields of `grobust.FinetuneSettings`; the others are those of the recipe
    overwrite : train finished runs again
    device : ``cpu`` or ``cuda``
    records : file that the runs are appended to; None for none
    figures : folder for figures; None for none
    """

    dataset: str
    backbone: str
    out: Path = Path("runs")
    data_dir: Path | None = None
    columns: dict[str, str] = field(default_factory=dict)
    pool: str | None = None
    image_size: int | None = None
    max_tokens: int | None = None
    limit: int | None = None
    limit_seed: int = 1
    balance: tuple[BalanceMethod, ...] = (BalanceMethod.NONE,)
    seeds: tuple[int, ...] = (1,)
    values: dict[str, Any] = field(default_factory=dict)
    overwrite: bool = False
    device: str = "cpu"
    records: Path | None = None
    figures: Path | None = None

    def __post_init__(self) -> None:
        for name in ("balance", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ConfigError(
                    f"{name} needs at least one value, and none twice; got {', '.join(map(str, values))}."
                )
        for name in ("balance", "seed"):
            if name in self.values:
                raise ConfigError(f"'{name}' is no setting of every run; give methods and seeds.")
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError(f"{self.out} is a file; give a folder.")

    def recipe(self, kind: str | None) -> Recipe:
        """The recipe of the data set, whose items are of `kind`, and the backbone with what the config gives.

        Raises
        ------
        ConfigError
            If there is none, a name is unknown, or a value is of the wrong type.
        """
        given = {"image_size": self.image_size, "max_tokens": self.max_tokens}
        values = self.values | {name: value for name, value in given.items() if value is not None}
        return recipe_for(self.dataset, self.backbone, kind=kind).with_values(values)

    def runs(self, settings: FinetuneSettings) -> tuple[FinetuneSettings, ...]:
        """Settings of every run, in the order of methods and seeds."""
        return tuple(replace(settings, balance=method, seed=seed) for method in self.balance for seed in self.seeds)
