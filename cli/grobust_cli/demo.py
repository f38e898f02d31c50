"""``grobust demo``."""

from pathlib import Path
from typing import Annotated

import typer

from grobust_cli._options import Device, DeviceOption, Json
from grobust_cli._output import note, progress_bar, show_json
from grobust_cli._probe_tables import show_probe
from grobust_cli.spectrum import show_spectrum

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for stores, records and figures.")] = Path("grobust-demo"),
    tweets: Annotated[int, typer.Option(help="Tweets used, of 38,158.")] = 6000,
    device: DeviceOption = Device.AUTO,
    json: Json = False,
) -> None:
    """Everything at once on real data: extract, probe with all balancing methods, spectra, figures, a page.

    Tweets with a sentence encoder, where the worst group is positive tweets with a negation word; and tinted digits
    with an ImageNet network, where colour misleads. Needs the demo extra, and no network.

    Example: `grobust demo --out grobust-demo`
    """
    from grobust.experiments.demo import DemoConfig, run_demo
    from grobust.experiments.extract import torch_device

    config = DemoConfig(out=out, tweets=tweets, device=torch_device(device))
    with progress_bar("extract") as advance:
        report = run_demo(config, on_progress=lambda name, p: advance(p.done, p.total, f"{name} {p.rate:.0f} rows/s"))
    if json:
        show_json(report.as_dict())
        return
    for probes, spectra in zip(report.probes, report.spectra, strict=True):
        show_probe(probes)
        show_spectrum(spectra)
        note(*probes.notes, *spectra.notes)
    note(
        f"stores: {out / 'tweets.h5'}, {out / 'digits.h5'}",
        f"records: {report.records}",
        f"figures: {', '.join(str(path) for path in report.figures if path.suffix != '.csv')} (numbers as CSV beside)",
        f"open {report.page.resolve()} in a browser; everything is in {out.resolve()}",
    )
