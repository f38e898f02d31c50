"""`run_demo`: the whole path on real data and real weights that the package registry carries."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grobust.errors import ConfigError
from grobust.experiments.config import ExtractConfig, ProbeConfig, SpectrumConfig
from grobust.experiments.extract import run_extract
from grobust.experiments.probe import ProbeReport, run_probe
from grobust.experiments.records import read_records
from grobust.experiments.report import run_report
from grobust.experiments.report_config import ReportConfig
from grobust.experiments.spectrum import SpectrumReport, run_spectrum
from grobust.features.extract import Progress
from grobust.report.figures import GroupSpectrum, plot_eigenvalues, plot_wga_by_method
from grobust.report.views import method_result
from grobust.settings import BalanceMethod

__all__ = ["DemoConfig", "DemoReport", "run_demo"]


@dataclass(frozen=True)
class DemoConfig:
    """The demo's sizes: small enough for a few minutes on two cores.

    Parameters
    ----------
    out : folder for stores, records and figures
    tweets : rows of the tweets used
    digit_pixels : side of the digit images
    device : ``cpu`` or ``cuda``
    """

    out: Path = Path("grobust-demo")
    tweets: int = 6000
    digit_pixels: int = 96
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError(f"{self.out} is a file; give a folder.")


@dataclass(frozen=True, eq=False)
class DemoReport:
    """What the demo made: probes and spectra per data set, records, figures and the page."""

    config: DemoConfig
    probes: tuple[ProbeReport, ...]
    spectra: tuple[SpectrumReport, ...]
    records: Path
    figures: tuple[Path, ...]
    page: Path

    def as_dict(self) -> dict[str, Any]:
        """JSON-able report."""
        return {
            "out": str(self.config.out),
            "records": str(self.records),
            "figures": [str(path) for path in self.figures],
            "page": str(self.page),
            "probes": [report.as_dict() for report in self.probes],
            "spectra": [report.as_dict() for report in self.spectra],
        }


def run_demo(config: DemoConfig, *, on_progress: Callable[[str, Progress], None] | None = None) -> DemoReport:
    """Extract `tweets` and `digits`, probe with every balancing method, compute spectra, draw, write the page.

    Finished stores in the folder are reused; records are written anew.
    """
    extractions = (
        ExtractConfig(
            dataset="tweets", backbone="packaged:all-MiniLM-L6-v2", out=config.out / "tweets.h5", limit=config.tweets,
            device=config.device,
        ),
        ExtractConfig(
            dataset="digits", backbone="packaged:efficientnet_lite0", out=config.out / "digits.h5",
            image_size=config.digit_pixels, device=config.device,
        ),
    )  # fmt: skip
    config.out.mkdir(parents=True, exist_ok=True)
    records = config.out / "records.jsonl"
    records.unlink(missing_ok=True)
    probes, spectra, stores = [], [], []
    for extraction in extractions:
        store = _extract(extraction, on_progress)
        stores.append(store)
        probes.append(
            run_probe(
                ProbeConfig(
                    store=store,
                    balance=tuple(BalanceMethod),
                    device=config.device,
                    records=records,
                    save=store.with_suffix(".safetensors"),
                )
            )
        )
        spectra.append(
            run_spectrum(
                # What the tables and figures show; permutations and diagnostics take longer than all the rest.
                SpectrumConfig(store=store, device=config.device, records=records, permutations=0, diagnostics=None)
            )
        )
    figures = draw(records, config.out)
    page = run_report(
        ReportConfig(
            records=(records,), out=config.out / "report.html", title="grobust demo",
            stores=tuple(stores), datasets=tuple(e.dataset for e in extractions),
            heads=tuple(store.with_suffix(".safetensors") for store in stores),
        )
    )  # fmt: skip
    return DemoReport(config, tuple(probes), tuple(spectra), records, figures, page.out)


def draw(records: Path, out: Path) -> tuple[Path, ...]:
    """Figures of the probes and spectra in a records file: from what was recorded, and nothing else."""
    methods = [method_result(record) for record in read_records(records, command="probe")]
    groups = [
        _group_spectrum(record, group)
        for record in read_records(records, command="spectrum")
        for group in record["results"]["groups"]
    ]
    return (
        *plot_wga_by_method(methods, out / "wga_by_method"),
        *plot_eigenvalues([g for g in groups if g.eigenvalues], out / "eigenvalues"),
    )


def _extract(config: ExtractConfig, on_progress: Callable[[str, Progress], None] | None) -> Path:
    report = run_extract(config, on_progress=None if on_progress is None else lambda p: on_progress(config.dataset, p))
    return report.result.path


def _group_spectrum(record: dict[str, Any], group: dict[str, Any]) -> GroupSpectrum:
    return GroupSpectrum(
        dataset=record["provenance"]["dataset"],
        group=group["name"],
        n=group["n"],
        is_minority=group["minority"],
        eigenvalues=tuple(v for v in group["eigenvalues"] if v is not None),
    )
