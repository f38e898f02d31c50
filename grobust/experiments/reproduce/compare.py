"""Got beside expected: a row for every published number."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy.stats import t as student

from grobust.experiments.reproduce.networks import Network, fitting, in_words
from grobust.experiments.reproduce.published import Target

__all__ = ["Agreement", "Row", "compared", "interval"]

# 95% of the differences of two means of three seeds with the same sd: t(4 degrees of freedom) · sqrt(2/3).
SDS = 2.3
LEAST_POINTS = 1.0
LEAST_RHO = 0.1
PERCENT = (0.0, 100.0)


class Agreement(StrEnum):
    """How a number of ours stands to the published one."""

    AGREES = "agrees"
    DIFFERS = "differs"
    MISSING = "missing"
    SHOWN = "no published number"


@dataclass(frozen=True)
class Row:
    """A number.

    Parameters
    ----------
    of, what : the networks or the data set, and the quantity
    got, low, high, n : mean over n seeds with its 95% interval, where there are two seeds or more
    expected, expected_sd, tolerance : published mean and sd, and how far ours may be from it
    agreement, source, note : see `Agreement`; where the published number is from; what is missing
    """

    of: str
    what: str
    got: float | str | None
    low: float | None
    high: float | None
    n: int
    expected: float | str | None
    expected_sd: float | None
    tolerance: float | None
    agreement: Agreement
    source: str
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """JSON-able row."""
        return asdict(self) | {"agreement": str(self.agreement)}


def compared(target: Target, networks: Sequence[Network], spectra: Sequence[Network]) -> list[Row]:
    """Rows of a target, from networks and from those with spectra."""
    table, rows = target.table, []
    for wanted in table.get("accuracy", []):
        label = f"test WGA, epoch {wanted['epoch']}" + (f" (by {wanted['score']})" if "score" in wanted else "")
        got = [_wga(n, wanted["epoch"]) for n in fitting(networks, wanted)]
        rows.append(
            _row(
                target, wanted, label, got, float(wanted["value"]), wanted.get("sd"), least=LEAST_POINTS, within=PERCENT
            )
        )
    for wanted in table.get("rho", []):
        published = np.array(wanted["seeds"], dtype=np.float64)
        chosen = fitting(spectra, wanted)
        for y, values in enumerate(published.T):
            got = [_rho(network, y) for network in chosen]
            rows.append(
                _row(target, wanted, f"ρ({y})", got, float(values.mean()), float(values.std()), least=LEAST_RHO)
            )
    for wanted in table.get("eigenvalues", []):
        chosen = fitting(spectra, wanted)
        for g, value in enumerate(wanted["values"]):
            got = [_largest(network, g) for network in chosen]
            allowed = {**wanted, "tolerance": wanted["relative_tolerance"] * value}
            rows.append(_row(target, allowed, f"largest eigenvalue, group {g}", got, value, None, least=0.0))
    for wanted in table.get("pairs", []):
        rows += _pairs(target, wanted, fitting(spectra, wanted))
    rows += _settings(target, networks)
    if table.get("parameters"):
        rows += _parameters(target, networks)
    if "families" in table or "methods" in table:
        rows += _shown(networks, table)
    return rows


def interval(
    values: Sequence[float], level: float = 0.95, *, within: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[float | None, float | None]:
    """Student's interval of the mean, cut to what the mean can be; None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None, None
    half = float(student.ppf((1 + level) / 2, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    mean = float(np.mean(values))
    return max(mean - half, within[0]), min(mean + half, within[1])


def _row(
    target: Target,
    wanted: Mapping[str, Any],
    what: str,
    got: Sequence[float | None],
    expected: float,
    sd: float | None,
    *,
    least: float,
    within: tuple[float, float] = (0.0, math.inf),
) -> Row:
    values = [value for value in got if value is not None]
    tolerance = float(wanted["tolerance"]) if "tolerance" in wanted else max(SDS * (sd or 0.0), least)
    source = target.sources[wanted["source"]]
    if not values:
        return Row(
            in_words(wanted), what, None, None, None, 0, expected, sd, tolerance, Agreement.MISSING, source,
            f"no record; {_remedy(target, wanted['dataset'])}",
        )  # fmt: skip
    mean = float(np.mean(values))
    agreement = Agreement.AGREES if abs(mean - expected) <= tolerance else Agreement.DIFFERS
    note = "" if len(values) >= 3 else f"{len(values)} of 3 seeds"
    return Row(
        in_words(wanted),
        what,
        mean,
        *interval(values, within=within),
        len(values),
        expected,
        sd,
        tolerance,
        agreement,
        source,
        note,
    )


def _remedy(target: Target, dataset: str) -> str:
    grid = next((g for g in target.grids if g == f"paper-{dataset}"), target.grids[0])
    return f"grobust sweep {grid} --set data_dir=DIR makes it"


def _wga(network: Network, epoch: int) -> float | None:
    """In percent, at an epoch that was evaluated."""
    curve = network.results["epochs"]
    if epoch not in curve["epochs"] or "test" not in curve:
        return None
    value = curve["test"]["wga"][curve["epochs"].index(epoch)]
    return None if value is None else 100 * float(value)


def _ratios(network: Network) -> list[float | None]:
    assert network.spectrum is not None
    return [r["rho"] for r in network.spectrum["norm_ratios"] if r["against"] == "majority"]


def _rho(network: Network, y: int) -> float | None:
    found = _ratios(network)
    return found[y] if y < len(found) else None


def _largest(network: Network, group: int) -> float | None:
    assert network.spectrum is not None
    groups = network.spectrum["groups"]
    return groups[group]["eigenvalues"][0] if group < len(groups) and groups[group]["eigenvalues"] else None


def _pairs(target: Target, wanted: Mapping[str, Any], networks: Sequence[Network]) -> Iterator[Row]:
    """Class of the largest ratio and of the largest gap, seed by seed."""
    source = target.sources[wanted["source"]]
    for seed, pair in enumerate(wanted["seeds"], start=1):
        network = next((n for n in networks if n.seed == seed), None)
        got = None if network is None else _pair(network)
        expected = f"({pair[0]}, {pair[1]})"
        agreement = Agreement.MISSING if got is None else Agreement.AGREES if got == expected else Agreement.DIFFERS
        note = f"no record; {_remedy(target, wanted['dataset'])}" if got is None else ""
        what = f"class of the largest ρ, of the largest gap, seed {seed}"
        yield Row(
            in_words(wanted), what, got, None, None, int(got is not None), expected, None, None, agreement, source, note
        )


def _pair(network: Network) -> str | None:
    ratios = _ratios(network)
    gaps = _gaps(network)
    if not ratios or None in ratios or gaps is None:
        return None
    return f"({int(np.argmax(np.array(ratios, dtype=np.float64)))}, {int(np.argmax(gaps))})"


def _gaps(network: Network) -> list[float] | None:
    """Test accuracy of the majority group minus that of the minority group, for every class."""
    assert network.spectrum is not None
    accuracy = {g["name"]: g["value"] for g in network.results["test"]["groups"]}
    found = []
    for ratio in network.spectrum["norm_ratios"]:
        if ratio["against"] == "majority":
            majority, minority = (accuracy.get(ratio.get(key)) for key in ("majority", "minority"))
            if majority is None or minority is None:
                return None
            found.append(majority - minority)
    return found


def _settings(target: Target, networks: Sequence[Network]) -> Iterator[Row]:
    for wanted in target.table.get("settings", []):
        own = [n for n in networks if n.dataset == wanted["dataset"]]
        for name in (key for key in wanted if key not in ("dataset", "source")):
            found = sorted({str(n.settings.get(name)) for n in own})
            got, expected = ", ".join(found) or None, str(wanted[name])
            agreement = (
                Agreement.MISSING if got is None else Agreement.AGREES if found == [expected] else Agreement.DIFFERS
            )
            note = f"no record; {_remedy(target, wanted['dataset'])}" if got is None else ""
            source = target.sources[wanted["source"]]
            yield Row(wanted["dataset"], name, got, None, None, len(own), expected, None, None, agreement, source, note)


def _parameters(target: Target, networks: Sequence[Network]) -> Iterator[Row]:
    """Two-class data alone: a further class adds parameters."""
    sizes = {n.backbone: n for n in networks if n.parameters is not None and _classes(n) == 2}
    if not sizes:
        note = f"no record of a network of the paper; {_remedy(target, '')}"
        yield Row("networks", "parameters", None, None, None, 0, None, None, None, Agreement.MISSING, "", note)
    for name, network in sizes.items():
        got, expected = network.results.get("parameters"), network.parameters
        agreement = Agreement.MISSING if got is None else Agreement.AGREES if got == expected else Agreement.DIFFERS
        yield Row(
            name, "parameters", got, None, None, 1, expected, None, 0.0, agreement, target.sources["architecture"]
        )


def _classes(network: Network) -> int:
    return len({name.split(" / ")[0] for name in network.results["group_names"]})


def _shown(networks: Sequence[Network], table: Mapping[str, Any]) -> Iterator[Row]:
    """Last-epoch WGA by size and method, where no number is published; whether the networks interpolate."""
    families, methods = table.get("families"), table.get("methods")
    kept = [n for n in networks if not methods or n.method in methods]
    # Networks that the paper does not have are a family of the user's.
    kept = [n for n in kept if not families or n.family in (*families, "")]
    for group in sorted({_place(n) for n in kept}):
        own = [n for n in kept if _place(n) == group]
        wga = [n.results["test"]["wga"]["value"] for n in own]
        values = [100 * value for value in wga if value is not None]
        if not values:
            continue
        interpolate = sum(n.results["interpolation_epoch"] is not None for n in own)
        words = in_words({"dataset": group[0], "backbone": group[2], "method": group[3], "ratio": group[4] or None})
        size = own[0].results.get("parameters") or own[0].parameters
        note = f"{size:,} parameters; " if size else ""
        note += f"{interpolate} of {len(own)} interpolate"
        yield Row(
            words, "test WGA, last epoch", float(np.mean(values)), *interval(values, within=PERCENT), len(own), None,
            None, None, Agreement.SHOWN, "", note,
        )  # fmt: skip


def _place(network: Network) -> tuple[str, int, str, str, float]:
    """Where a network stands in a table: its size comes before its name."""
    size = network.parameters or network.results.get("parameters") or 0
    return network.dataset, size, network.backbone, network.method, network.ratio or 0.0
