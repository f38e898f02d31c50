"""Recipes as data: what the paper trains its networks with, and what we do where it is silent.

`recipe_for` puts the values of ``recipes.toml`` together for a data set and a backbone; each value says whether it is
from the paper, from the official code, or ours. Every one can be replaced. Loads no torch.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from enum import StrEnum
from functools import lru_cache
from importlib.resources import files
from typing import Any

from grobust.errors import ConfigError
from grobust.finetune._recipe_values import INPUTS, plain, setting_types, typed
from grobust.finetune.settings import FinetuneSettings

__all__ = ["OTHER", "BackboneSize", "Recipe", "Source", "Value", "all_recipes", "backbone_sizes", "recipe_for"]

# The family of backbones that the paper does not have.
OTHER = "other"
DEFAULT_RECIPES = {"image": "images", "text": "texts"}


class Source(StrEnum):
    """Where a value comes from: the paper, the official code, us, or whoever calls."""

    PAPER = "paper"
    CODE = "code"
    OURS = "ours"
    GIVEN = "given"


@dataclass(frozen=True)
class Value:
    """A value and its source."""

    value: Any
    source: Source


@dataclass(frozen=True)
class BackboneSize:
    """One network of a family.

    Parameters
    ----------
    family, title, kind, size : ``convnextv2``, its full name, ``image`` or ``text``, and ``nano``
    parameters : with a head of two classes
    specs : names for `grobust.load_backbone`; the first is the default
    """

    family: str
    title: str
    kind: str
    size: str
    parameters: int
    specs: tuple[str, ...]

    @property
    def name(self) -> str:
        """Family and size: ``convnextv2-nano``."""
        return f"{self.family}-{self.size}"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained on a data set.

    Parameters
    ----------
    dataset : base name of the data set, or ``images`` and ``texts`` for those without a recipe of their own
    family : of the backbone, or ``other``
    kind : ``image`` or ``text``
    backbone : spec for `grobust.load_backbone`; None for a recipe of a whole family
    parameters : of the network with a head of two classes; None where the paper does not have it
    settings : fields of `FinetuneSettings`; those that are not here keep their defaults
    inputs : arguments of `grobust.load_backbone`
    facts : what the paper reports: its main network, its best balancing method, the loss it reaches
    """

    dataset: str
    family: str
    kind: str
    backbone: str | None
    parameters: int | None
    settings: Mapping[str, Value]
    inputs: Mapping[str, Value]
    facts: Mapping[str, Value]

    @property
    def name(self) -> str:
        """Data set and family: ``waterbirds/convnextv2``."""
        return f"{self.dataset}/{self.family}"

    def with_values(self, values: Mapping[str, Any]) -> "Recipe":
        """The recipe with other values, of any field of `FinetuneSettings` or of the inputs.

        Raises
        ------
        ConfigError
            If a name is unknown or a value is of the wrong type.
        """
        names = list(setting_types())
        unknown = [name for name in values if name not in names]
        if unknown:
            raise ConfigError(
                f"'{unknown[0]}' is no setting of finetuning.{_hint(unknown[0], names)} There are: {', '.join(names)}."
            )
        given = {name: Value(typed(name, value), Source.GIVEN) for name, value in values.items()}
        return replace(
            self,
            settings={**self.settings, **{name: value for name, value in given.items() if name not in INPUTS}},
            inputs={**self.inputs, **{name: value for name, value in given.items() if name in INPUTS}},
        )

    def finetune_settings(self) -> FinetuneSettings:
        """The settings for `grobust.finetune`.

        Raises
        ------
        ConfigError
            If values are out of range or contradict each other.
        """
        return FinetuneSettings(**{name: value.value for name, value in self.settings.items()})

    def load_arguments(self) -> dict[str, Any]:
        """Further arguments for `grobust.load_backbone`."""
        return {name: value.value for name, value in self.inputs.items()}

    def as_dict(self) -> dict[str, Any]:
        """JSON-able recipe, every value with its source."""
        tables = {"settings": self.settings, "inputs": self.inputs, "facts": self.facts}
        return {
            "name": self.name, "dataset": self.dataset, "family": self.family, "kind": self.kind,
            "backbone": self.backbone, "parameters": self.parameters,
            **{key: {name: {"value": plain(v.value), "source": str(v.source)} for name, v in table.items()}
               for key, table in tables.items()},
        }  # fmt: skip


def recipe_for(dataset: str, backbone: str, *, kind: str | None = None) -> Recipe:
    """The recipe of a data set and a backbone.

    Parameters
    ----------
    dataset : a name that `grobust.load_dataset` takes: ``waterbirds``, ``digits:celeba``
    backbone : a spec, ``transformers:facebook/convnextv2-nano-1k-224``, or family and size, ``convnextv2-nano``
    kind : ``image`` or ``text``, for data sets without a recipe of their own

    Raises
    ------
    ConfigError
        If the data set has no recipe and no kind is given, or the backbone is for another kind of item.
    """
    family, size = _family_of(backbone)
    name, table = _dataset(dataset, kind)
    if family != OTHER and _data()["families"][family]["kind"] != table["kind"]:
        raise ConfigError(
            f"{backbone} takes {_data()['families'][family]['kind']}s, but {dataset} holds {table['kind']}s. "
            f"For it there are: {', '.join(s.name for s in backbone_sizes() if s.kind == table['kind'])}."
        )
    found = _recipe(name, table, family)
    spec = backbone if ":" in backbone or size is None else size.specs[0]
    # The processors of transformers have a size of their own, which is the paper's.
    inputs = {k: v for k, v in found.inputs.items() if k != "image_size" or not spec.startswith("transformers:")}
    return replace(found, backbone=spec, parameters=None if size is None else size.parameters, inputs=inputs)


def all_recipes(dataset: str | None = None) -> tuple[Recipe, ...]:
    """Every data set with every family of its kind of item, and with other backbones; or those of one data set.

    Raises
    ------
    ConfigError
        If there is no such data set.
    """
    data = _data()
    chosen = data["datasets"].items() if dataset is None else [_dataset(dataset, None)]
    return tuple(
        _recipe(name, table, family)
        for name, table in chosen
        for family in (*data["families"], OTHER)
        if family == OTHER or data["families"][family]["kind"] == table["kind"]
    )


@lru_cache(maxsize=1)
def backbone_sizes() -> tuple[BackboneSize, ...]:
    """All networks of the paper's families."""
    return tuple(
        BackboneSize(name, family["title"], family["kind"], each["size"], each["parameters"], tuple(each["specs"]))
        for name, family in _data()["families"].items()
        for each in family["sizes"]
    )


def _recipe(dataset: str, table: Mapping[str, Any], family: str) -> Recipe:
    """Values of common, kind and data set. Where data set or family is ours, so is the choice of each value."""
    data = _data()
    ours = table.get("ours", False) or family == OTHER or data["families"][family].get("ours", False)

    def merged(key: str) -> dict[str, Value]:
        levels = (data["common"], data[table["kind"]], table)
        raw = {name: pair for level in levels for name, pair in level.get(key, {}).items()}
        return {
            name: Value(typed(name, value), Source.OURS if ours else Source(by)) for name, (value, by) in raw.items()
        }

    settings = merged("settings")
    if family == OTHER:
        # Networks that the paper does not have keep the dropout of their own classifiers.
        del settings["head_dropout"]
    facts = {} if ours else {name: Value(value, Source(by)) for name, (value, by) in table.get("facts", {}).items()}
    return Recipe(
        dataset=dataset, family=family, kind=table["kind"], backbone=None, parameters=None,
        settings=settings, inputs=merged("inputs"), facts=facts,
    )  # fmt: skip


@lru_cache(maxsize=1)
def _data() -> dict[str, Any]:
    return tomllib.loads(files("grobust.finetune").joinpath("recipes.toml").read_text(encoding="utf-8"))


def _dataset(dataset: str, kind: str | None) -> tuple[str, Mapping[str, Any]]:
    """Name and table of the data set's recipe, or of those for its kind of item."""
    base, known = dataset.partition(":")[0], _data()["datasets"]
    for name, table in known.items():
        if base == name or base in table.get("same_as", ()):
            return name, table
    if kind is None:
        raise ConfigError(
            f"There is no recipe for the data set '{dataset}'.{_hint(base, list(known))} There are: "
            f"{', '.join(known)}. For another one give its kind of item, image or text."
        )
    if kind not in DEFAULT_RECIPES:
        raise ConfigError(f"kind must be image or text, got {kind!r}.")
    return DEFAULT_RECIPES[kind], {"kind": kind, "ours": True}


def _family_of(backbone: str) -> tuple[str, BackboneSize | None]:
    """Family and size of a spec or a name."""
    for size in backbone_sizes():
        bare = {spec.partition("@")[0] for spec in size.specs}
        if backbone == size.name or backbone.partition("@")[0] in bare:
            return size.family, size
    if ":" not in backbone:
        names = [size.name for size in backbone_sizes()]
        raise ConfigError(
            f"'{backbone}' is no backbone of the recipes.{_hint(backbone, names)} There are {', '.join(names)}; "
            "or give a spec, source:name[@weights]."
        )
    # A run's folder may be named after anything.
    families = {} if backbone.startswith("run:") else _data()["families"]
    for name, family in families.items():
        if match := re.search(family["pattern"], backbone):
            return name, next(s for s in backbone_sizes() if (s.family, s.size) == (name, match["size"]))
    return OTHER, None


def _hint(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
