"""One step of a sweep: what it does, on what, and the config that does it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import xxhash

from grobust.balancing import make_balancer
from grobust.errors import ConfigError
from grobust.experiments.config import ExtractConfig, ProbeConfig, SpectrumConfig, TrajectoryConfig, plain
from grobust.experiments.finetune_config import FinetuneConfig
from grobust.experiments.sweep.fields import converted, field_types
from grobust.finetune.recipes import backbone_sizes
from grobust.models.spec import parse_spec
from grobust.settings import BalanceBy, BalanceMethod

__all__ = ["RUN_PREFIX", "Config", "Step", "config_of", "digest_of", "identity_of", "without_finished"]

Config = ExtractConfig | FinetuneConfig | ProbeConfig | TrajectoryConfig | SpectrumConfig

# Of a config, what changes nothing in the result: places, budgets, and what computes it.
_NOT_CONTENT = {"out", "store", "records", "save", "figures", "device", "workers", "batch_size", "resume", "overwrite",
                "max_bytes", "memory_bytes", "data_dir", "on_error", "head", "heads", "crew",
                "profile"}  # fmt: skip
# What came later than the first sweeps counts where it is not as usual, so that these keep their keys.
_SINCE = ("pools", "layers", "views", "fast_decode", "compile", "channels_last", "sampler")
RUN_PREFIX = "finetune:"
CELL_LENGTH = 24
NOWHERE = Path("not-yet-known")


@dataclass(frozen=True)
class Step:
    """A piece of work that is done once, whatever number of cells or later steps use it.

    Parameters
    ----------
    kind : ``extract``, ``finetune``, ``probe``, ``trajectory`` or ``spectrum``
    key : digest of the settings, the data and the keys of the inputs; equal keys are the same step
    bases : of every method, the same without seeds and without settings that the method does not read
    section, label : where it comes from, and what to call it
    values : settings as the grid has them
    methods, seeds : of its cells; every method with every seed
    inputs : keys of the steps whose output it reads
    store : of a probe or spectrum on a store that no step makes
    epoch : of an extraction with a finetuned network
    facts : what conditions of later sections can ask for
    """

    kind: str
    key: str
    bases: Mapping[str, str]
    section: str
    label: str
    values: Mapping[str, Any]
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    inputs: tuple[str, ...] = ()
    store: str | None = None
    epoch: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def cells(self) -> dict[tuple[str, int], str]:
        """Identity of the record of every method and seed; none of a step whose output others share."""
        return {(m, s): digest_of([self.bases[m], m, s])[:CELL_LENGTH] for m in self.methods for s in self.seeds}

    def part(self, methods: Sequence[str], seeds: Sequence[int]) -> "Step":
        """The step for some of its methods and seeds alone."""
        bases = {method: self.bases[method] for method in methods}
        which = f"{', '.join(methods)}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
        return replace(
            self, key=digest_of([bases, list(seeds)]), bases=bases, label=f"{self.label.partition(': ')[0]}: {which}",
            methods=tuple(methods), seeds=tuple(seeds),
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """JSON-able step, which `from_dict` reads."""
        return {
            "kind": self.kind, "key": self.key, "bases": dict(self.bases), "section": self.section, "label": self.label,
            "values": dict(self.values), "methods": list(self.methods), "seeds": list(self.seeds),
            "inputs": list(self.inputs), "store": self.store, "epoch": self.epoch, "facts": dict(self.facts),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Step":
        """Inverse of `as_dict`."""
        lists = {name: tuple(content[name]) for name in ("methods", "seeds", "inputs")}
        return cls(**{**content, **lists})


def config_of(
    kind: str,
    values: Mapping[str, Any],
    *,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
    source: str | Path | None = None,
    out: Path = NOWHERE,
    records: Path | None = None,
    device: str = "cpu",
) -> Config:
    """The config of a step.

    Parameters
    ----------
    source : the store that is read, or the backbone in place of one that a step finetunes
    out : store or folder of runs to write

    Raises
    ------
    ConfigError
        If a value is of another type or out of range, or values contradict each other.
    BackboneError
        If the backbone is none.
    """
    if kind == "extract":
        chosen = dict(values) if source is None else {**values, "backbone": str(source)}
        chosen["backbone"] = _spec(chosen["backbone"])
        parse_spec(chosen["backbone"])
        extraction = ExtractConfig(**converted(ExtractConfig, chosen), out=out, device=device)
        if extraction.several:
            raise ConfigError("an extraction of a sweep has one output: give one pool, layer and view.")
        return extraction
    if kind == "finetune":
        own = field_types(FinetuneConfig)
        common = converted(FinetuneConfig, {k: v for k, v in values.items() if k in own} | _several(methods, seeds))
        settings = {k: v for k, v in values.items() if k not in own}
        return FinetuneConfig(**common, out=out, values=settings, records=records, device=device)
    store = NOWHERE if source is None else Path(source)
    by = values.get("by", BalanceBy.CLASS)
    for method in methods:
        make_balancer(BalanceMethod(method), by=BalanceBy(by), **{k: v for k, v in values.items() if k == "ratio"})
    if kind == "spectrum":
        chosen = {**values, "balance": methods[0], "seed": seeds[0]}
        return SpectrumConfig(**converted(SpectrumConfig, chosen), store=store, records=records, device=device)
    config = ProbeConfig if kind == "probe" else TrajectoryConfig
    chosen = converted(config, {**values, **_several(methods, seeds)})
    return config(**chosen, store=store, records=records, device=device)


def identity_of(config: Config, *, kind: str | None = None) -> dict[str, Any]:
    """What of a config decides the result, with every default; JSON-able.

    Parameters
    ----------
    kind : of the items, for the recipe of a finetuning
    """
    usual = {known.name: known.default for known in fields(config)}
    content = {
        name: value
        for name, value in plain(config).items()
        if name not in _NOT_CONTENT and not (name in _SINCE and getattr(config, name) == usual[name])
    }
    if isinstance(config, FinetuneConfig):
        recipe = config.recipe(kind)
        # With its method: a ratio that cannot be is found here.
        settings = config.runs(recipe.finetune_settings())[0].identity()
        for name in ("values", "balance", "seeds"):
            del content[name]
        del settings["balance"], settings["seed"]
        if config.balance != ("mixture",):
            del settings["ratio"]
        content |= {"settings": settings, "inputs": recipe.load_arguments(), "backbone": recipe.backbone}
    elif config.__class__ is not ExtractConfig:
        # Nothing of a run depends on the methods and seeds that it is solved with.
        for name in ("balance", "seeds", "seed"):
            content.pop(name, None)
    return content


def digest_of(content: Any) -> str:
    """xxh3-128 of the canonical JSON."""
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def without_finished(step: Step, finished: Mapping[tuple[str, int], bool]) -> tuple[Step, ...]:
    """The step for the cells that are left, in as few batches as can be."""
    left = [cell for cell, done in finished.items() if not done]
    if len(left) == len(finished):
        return (step,)
    batches: dict[tuple[int, ...], list[str]] = {}
    for method in dict.fromkeys(method for method, _ in left):
        batches.setdefault(tuple(s for m, s in left if m == method), []).append(method)
    return tuple(step.part(methods, seeds) for seeds, methods in batches.items())


def _several(methods: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    return {"balance": list(methods), "seeds": list(seeds)}


def _spec(backbone: Any) -> Any:
    """The spec of a name of the recipes."""
    return next((size.specs[0] for size in backbone_sizes() if size.name == backbone), backbone)
