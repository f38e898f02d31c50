"""Methods by name, with the published settings, and their settings from text."""

from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from enum import StrEnum
from types import MappingProxyType
from typing import Any, get_args, get_type_hints

from grobust.errors import ConfigError, GroupError
from grobust.groups import Groups
from grobust.methods.afr import AFR
from grobust.methods.balanced import Balanced
from grobust.methods.crt import CRT
from grobust.methods.cvar_dro import CVaRDRO
from grobust.methods.dfr import DFR, DfrData
from grobust.methods.evals import EVaLS
from grobust.methods.group_dro import GroupDRO
from grobust.methods.inferred import Inference, InferredGroups
from grobust.methods.jtt import JTT
from grobust.methods.llr import LLR
from grobust.methods.logit_adjustment import LogitAdjustment
from grobust.methods.method import Method
from grobust.methods.rad_uw import RADUW
from grobust.methods.self_llr import SELF
from grobust.methods.ula import ULA
from grobust.settings import BalanceBy, BalanceMethod, SelectBy

__all__ = ["METHODS", "check_attributes", "known_method", "make_method", "setting_names"]

# A method is frozen settings, so the published ones are values; a new method is a line here.
METHODS: Mapping[str, Method] = MappingProxyType({
    "erm": Balanced(),
    "suby": Balanced(BalanceMethod.SUBSETTING),
    "rwy": Balanced(BalanceMethod.UPSAMPLING),
    "subg": Balanced(BalanceMethod.SUBSETTING, BalanceBy.GROUP),
    "rwg": Balanced(BalanceMethod.UPSAMPLING, BalanceBy.GROUP),
    "llr": LLR(),
    "cb-llr": LLR(class_balanced=True),
    "dfr": DFR(),
    "dfr-train": DFR(data=DfrData.TRAIN),
    "afr": AFR(),
    "self": SELF(),
    "group-dro": GroupDRO(),
    "cvar-dro": CVaRDRO(),
    "jtt": JTT(),
    "rad-uw": RADUW(),
    "evals": EVaLS(),
    "crt": CRT(),
    "reweight-crt": CRT(reweight=True),
    "logit-adjustment": LogitAdjustment(),
    "balanced-softmax": LogitAdjustment(tau=(1.0,)),
    "group-logit-adjustment": LogitAdjustment(by=BalanceBy.GROUP),
    "ula": ULA(),
    "clusters": InferredGroups(Inference.CLUSTERS),
    "environments": InferredGroups(Inference.ENVIRONMENTS),
})  # fmt: skip


def known_method(name: str) -> Method:
    """The method of a name, as published.

    Raises
    ------
    ConfigError
        If there is none; the nearest is named, and all are listed.
    """
    if name not in METHODS:
        close = get_close_matches(name, METHODS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"Unknown method '{name}'.{hint} Known are: {', '.join(METHODS)}.")
    return METHODS[name]


def setting_names(name: str) -> tuple[str, ...]:
    """Names of a method's settings."""
    method: Any = known_method(name)
    return tuple(f.name for f in fields(method))


def make_method(name: str, settings: Mapping[str, str], *, select: SelectBy | None = None) -> Method:
    """A method with settings given as text.

    Parameters
    ----------
    name : in `METHODS`
    settings : by name; numbers with commas where a setting is a choice of several
    select : score that chooses, for methods that have one; None leaves the published one

    Raises
    ------
    ConfigError
        If the method has no such setting, or the text is no value of it.
    """
    method: Any = known_method(name)
    types = get_type_hints(type(method))
    names = setting_names(name)
    values: dict[str, Any] = {}
    for key, text in settings.items():
        if key not in names:
            close = get_close_matches(key, names, n=1)
            hint = f" Did you mean '{close[0]}'?" if close else ""
            raise ConfigError(f"Method '{name}' has no setting '{key}'.{hint} It has: {', '.join(names)}.")
        values[key] = _value(types[key], text, f"{name}.{key}")
    if select is not None and "select" in names and "select" not in values:
        values["select"] = select
    made: Method = replace(method, **values)
    return made


def check_attributes(methods: Mapping[str, Method], groups: Groups) -> None:
    """Refuse methods that train on groups where there is one attribute value only.

    Raises
    ------
    GroupError
        It names the methods that cannot be used, and all those that can.
    """
    lost = [name for name, method in methods.items() if method.needs.needs_attributes]
    if groups.n_attributes > 1 or not lost:
        return
    others = [name for name, method in METHODS.items() if not method.needs.needs_attributes]
    raise GroupError(
        f"Group labels are needed by {', '.join(lost)}, and the data have no attribute (one value only).\n"
        f"Methods that do without: {', '.join(others)}."
    )


def _value(kind: Any, text: str, what: str) -> Any:
    """A value of a field's type from text."""
    inner = [t for t in get_args(kind) if t not in (type(None), Ellipsis)]
    if type(None) in get_args(kind):
        return None if text.strip() == "none" else _value(inner[0], text, what)
    if inner:
        return tuple(_value(inner[0], part, what) for part in text.split(","))
    word = text.strip()
    if kind is bool:
        if word not in ("true", "false"):
            raise ConfigError(f"{what}: expected true or false, got {text!r}.")
        return word == "true"
    if issubclass(kind, StrEnum):
        if word not in set(kind):
            raise ConfigError(f"{what}: expected one of {', '.join(kind)}, got {text!r}.")
        return kind(word)
    try:
        return kind(word)
    except ValueError:
        number = "an integer" if kind is int else "a number"
        raise ConfigError(f"{what}: expected {number}, got {word!r}.") from None
