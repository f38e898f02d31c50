"""Records of finetuned networks and of the spectra of their features, by data set, size, method, ratio and seed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grobust.finetune.recipes import BackboneSize, backbone_sizes
from grobust.report.record_shape import reading

__all__ = ["Network", "finetuned", "fitting", "in_words", "with_spectra"]

RATIO_TOLERANCE = 1e-6
# The paper's ablation is another method.
WITHOUT_SAMPLER = "mixture without sampler"


@dataclass(frozen=True)
class Network:
    """A finetuned network.

    Parameters
    ----------
    dataset, backbone, family : name of the data set, of the size (``convnextv2-nano``, or a spec) and of its family
    parameters : as published; None for other networks
    method, ratio, seed : of the run; `ratio` for the mixture alone
    results : of its record
    settings : of its record
    spectrum : results of the spectrum of its features; None without
    """

    dataset: str
    backbone: str
    family: str
    parameters: int | None
    method: str
    ratio: float | None
    seed: int
    results: Mapping[str, Any]
    settings: Mapping[str, Any]
    spectrum: Mapping[str, Any] | None = None


def finetuned(records: Iterable[dict[str, Any]]) -> list[Network]:
    """Networks in records of `grobust finetune`, each once, as it was recorded last.

    Raises
    ------
    DataError
        If a record lacks what such a run must have.
    """
    networks = [reading(record, _network) for record in records if record["command"] == "finetune"]
    return list({network.results["run"]: network for network in networks}.values())


def with_spectra(records: Sequence[dict[str, Any]]) -> list[Network]:
    """Networks whose features have a spectrum, of the rows that they were trained on.

    A spectrum names its run by digest; without a record of that run it says nothing about the network.

    Raises
    ------
    DataError
        If a record lacks what its run must have.
    """
    networks = {network.results["run"]: network for network in finetuned(records)}
    found = {}
    for record in records:
        made = record["provenance"].get("options") or {}
        run = str(made.get("run")) if record["command"] == "spectrum" else None
        network = networks.get(run)
        if network is None:
            continue
        results = reading(record, _spectrum)
        if (results["balance"], results["split"]) == (network.results["method"], "train"):
            found[run] = replace(network, spectrum=results)
    return list(found.values())


def fitting(networks: Iterable[Network], wanted: Mapping[str, Any]) -> list[Network]:
    """Networks of a data set, size, method and ratio, in the order of their seeds; what is not given is any."""

    def fits(network: Network) -> bool:
        ratio = wanted.get("ratio")
        same = all(getattr(network, k) == wanted[k] for k in ("dataset", "backbone", "method") if k in wanted)
        near = ratio is None or (network.ratio is not None and abs(network.ratio - ratio) < RATIO_TOLERANCE)
        return same and near

    return sorted((n for n in networks if fits(n)), key=lambda n: n.seed)


def in_words(wanted: Mapping[str, Any]) -> str:
    """``waterbirds, convnextv2-nano, mixture 2:1``."""
    ratio = f" {wanted['ratio']:g}:1" if wanted.get("ratio") is not None else ""
    parts = [str(wanted[k]) for k in ("dataset", "backbone", "method") if k in wanted]
    return ", ".join(parts) + ratio


def _network(record: Mapping[str, Any]) -> Network:
    results, settings = record["results"], record["config"]["settings"]
    size = _size(record["provenance"]["backbone"])
    method = results["method"]
    ratio = settings["ratio"] if method == "mixture" else None
    if method == "mixture" and settings.get("sampler") is False:
        method = WITHOUT_SAMPLER
    # What comparisons read of it.
    _needed(results, "run", "interpolation_epoch", "group_names", "epochs.epochs", "test.wga.value", "test.groups")
    for group in results["test"]["groups"]:
        _needed(group, "name", "value")
    if "test" in results["epochs"] and len(results["epochs"]["test"]["wga"]) != len(results["epochs"]["epochs"]):
        raise ValueError("epochs.test.wga has another length than epochs.epochs")
    return Network(
        dataset=record["provenance"]["dataset"],
        backbone=record["provenance"]["backbone"] if size is None else size.name,
        family="" if size is None else size.family,
        parameters=None if size is None else size.parameters,
        method=method,
        ratio=ratio,
        seed=results["seed"],
        results=results,
        settings=settings,
    )


def _spectrum(record: Mapping[str, Any]) -> Mapping[str, Any]:
    results: Mapping[str, Any] = record["results"]
    _needed(results, "balance", "split")
    for group in results["groups"]:
        _needed(group, "eigenvalues")
    for ratio in results["norm_ratios"]:
        _needed(ratio, "against", "rho")
    return results


def _needed(value: Any, *paths: str) -> None:
    for path in paths:
        found = value
        for key in path.split("."):
            found = found[key]


def _size(spec: str) -> BackboneSize | None:
    return next((size for size in backbone_sizes() if spec in size.specs), None)
