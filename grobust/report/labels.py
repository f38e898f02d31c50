"""Which run a store or a record belongs to: data set, method, seed and epoch; and names that tell runs apart."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from grobust.report.fields import NOT_SETTINGS, method_of, text_of
from grobust.settings import BalanceMethod

__all__ = [
    "RunLabel",
    "base_name",
    "differences",
    "networks_of",
    "panel_names",
    "run_label",
    "run_names",
    "settings_of",
    "short_backbones",
    "spectrum_label",
]

# Part of a run's name already, or of its data.
NAMED = {"by", "ratio", "sampler", "method", "methods", "run_dir", "seed", "dataset", "backbone", "data_dir", "split"}


@dataclass(frozen=True)
class RunLabel:
    """Which run a store belongs to.

    Parameters
    ----------
    dataset : of the store
    method : of the training, or of the rows used; ``none`` where nothing says so
    seed, epoch : None where nothing says so
    """

    dataset: str
    method: str
    seed: int | None
    epoch: int | None


def run_label(*, store: Path, dataset: str, backbone: str, balance: BalanceMethod, seed: int) -> RunLabel:
    """Read data set, method, seed and epoch of a store from what made it and from its name.

    The method and seed are those of the rows used where a balancing method chose them; otherwise a method's name,
    ``seed3`` and ``epoch10`` in the file's or its folder's name count, as in ``mixture_seed1/epoch10.h5``, and so does
    the name of a trained network, ``run:runs/birds-mixture-seed1@10``.
    """
    at = re.fullmatch(r"run:(.*)@(\d+)", backbone)
    trained = PurePath(at[1]).name if at else ""
    name = f"{store.parent.name}/{store.stem}/{trained}".lower()
    of_seed, epoch = (re.search(rf"(?<![a-z]){word}[-_=]?(\d+)", name) for word in ("seed", "epoch"))
    method = str(balance)
    if balance is BalanceMethod.NONE:
        named = [
            m for m in BalanceMethod if m is not BalanceMethod.NONE and re.search(rf"(?<![a-z]){m}(?![a-z])", name)
        ]
        method = str(named[0]) if named else method
    chosen = seed if balance is not BalanceMethod.NONE else None
    return RunLabel(
        dataset=dataset,
        method=method,
        seed=int(of_seed[1]) if of_seed else chosen,
        epoch=int(at[2]) if at else int(epoch[1]) if epoch else None,
    )


def spectrum_label(record: dict[str, Any]) -> RunLabel:
    """The label of a record of `grobust spectrum`."""
    results = record["results"]
    return run_label(
        store=Path(results["store"]), dataset=results["dataset"], backbone=results["backbone"],
        balance=BalanceMethod(results["balance"]), seed=int(results["seed"]),
    )  # fmt: skip


def networks_of(records: Sequence[dict[str, Any]], runs: Mapping[str, str]) -> list[str]:
    """What made the features of every record: the backbone; for a trained network that before training.

    Parameters
    ----------
    runs : backbones of finetuned runs, by the digest of the run; for others the name of the run's folder without
        method and seed
    """
    names = []
    for record in records:
        made = record["provenance"]
        backbone, run = str(made.get("backbone")), str((made.get("options") or {}).get("run"))
        if run in runs:
            backbone = f"{runs[run]}, finetuned"
        elif backbone.startswith("run:"):
            folder = PurePath(backbone.removeprefix("run:").rpartition("@")[0]).name
            backbone = re.sub(rf"[-_.](?:{'|'.join(BalanceMethod)}|seed[-_=]?\d).*", "", folder)
        names.append(backbone)
    return names


def short_backbones(backbones: Iterable[str]) -> dict[str, str]:
    """Backbones as they are shown: a run without the folders that it lies in, unless two would have one name."""
    found = {}
    for backbone in backbones:
        run, at, epoch = backbone.rpartition("@")
        found[backbone] = f"run:{PurePath(run).name}{at}{epoch}" if backbone.startswith("run:") and at else backbone
    names = Counter(found.values())
    return {backbone: name if names[name] == 1 else backbone for backbone, name in found.items()}


def run_names(records: Sequence[dict[str, Any]]) -> list[str]:
    """A name for every run, the same for runs that differ in their seed alone.

    The method; the ratio of a mixture where there are several; ``by group``; and the settings in which runs of one
    command, data set, backbone and name still differ.
    """
    ratios = {text_of(_flat(r["config"]).get("ratio")) for r in records if method_of(r) == BalanceMethod.MIXTURE}
    base = [base_name(record, with_ratio=len(ratios) > 1) for record in records]
    panels = [
        (r.get("command"), r["provenance"].get("dataset"), r["provenance"].get("backbone"), name)
        for r, name in zip(records, base, strict=True)
    ]
    values: dict[tuple[Any, ...], dict[str, set[str]]] = {}
    for record, key in zip(records, panels, strict=True):
        of_panel = values.setdefault(key, {})
        for name, value in settings_of(record).items():
            of_panel.setdefault(name, set()).add(value)
    return [
        ", ".join([key[-1], *(f"{k} {v}" for k, v in sorted(settings_of(r).items()) if len(values[key][k]) > 1)])
        for r, key in zip(records, panels, strict=True)
    ]


def panel_names(records: Sequence[dict[str, Any]], *, across_backbones: bool = False) -> list[str]:
    """A name for what may be compared: the data set; and the command, or the backbone, where there are several.

    With `across_backbones` the comparison is one of backbones, and they are not named.
    """
    of_dataset: dict[str, tuple[set[str], set[str]]] = {}
    keys = []
    for record in records:
        made = record["provenance"]
        keys.append((str(made.get("dataset")), str(record.get("command")), str(made.get("backbone"))))
        commands, backbones = of_dataset.setdefault(keys[-1][0], (set(), set()))
        commands.add(keys[-1][1])
        backbones.add(keys[-1][2])
    names = []
    short = short_backbones({backbone for *_, backbone in keys})
    for dataset, command, backbone in keys:
        commands, backbones = of_dataset[dataset]
        parts = [dataset, command if len(commands) > 1 else ""]
        parts.append(short[backbone] if len(backbones) > 1 and not across_backbones else "")
        names.append(", ".join(part for part in parts if part))
    return names


def differences(records: Sequence[dict[str, Any]]) -> list[str]:
    """Names of what differs among runs, seeds apart; a setting that only some of them have differs too."""
    described = []
    for record in records:
        own = {"command": str(record.get("command")), "method": str(method_of(record))}
        own |= {name: str(record["provenance"].get(name)) for name in ("dataset", "backbone", "pooling")}
        if method_of(record) != BalanceMethod.NONE:
            own["by"] = str(_flat(record["config"]).get("by"))
        if method_of(record) == BalanceMethod.MIXTURE:
            config = _flat(record["config"])
            own |= {"ratio": str(config.get("ratio")), "sampler": str(config.get("sampler", True))}
        described.append(own | settings_of(record))
    names = dict.fromkeys(name for own in described for name in own)
    return [name for name in names if len({own.get(name, "") for own in described}) > 1]


def settings_of(record: dict[str, Any]) -> dict[str, str]:
    """Settings that tell runs apart, as texts; nested ones stand beside the others. Not what `base_name` says."""
    left_out = NOT_SETTINGS | NAMED
    return {key: text_of(value) for key, value in _flat(record["config"]).items() if key not in left_out}


def base_name(record: dict[str, Any], *, with_ratio: bool) -> str:
    """Method, ratio of a mixture where it is asked for, and what is balanced."""
    config = _flat(record["config"])
    name = method_of(record) or str(record.get("command"))
    is_mixture = name == BalanceMethod.MIXTURE
    if is_mixture and with_ratio and config.get("ratio") is not None:
        name += f" {text_of(float(config['ratio']))}:1"
    if is_mixture and config.get("sampler") is False:
        name += " without sampler"
    return f"{name} by group" if config.get("by") == "group" and name != BalanceMethod.NONE else name


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= _flat(value) if isinstance(value, dict) else {key: value}
    return found
