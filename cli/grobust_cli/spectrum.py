"""``grobust spectrum``."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grobust.settings import BalanceBy, BalanceMethod
from grobust_cli._options import Device, DeviceOption, Json, Ratio, Records, byte_size
from grobust_cli._output import note, progress_bar, show_json
from grobust_cli._spectrum_tables import show_comparison, show_spectrum

if TYPE_CHECKING:
    from grobust.experiments.config import SpectrumConfig

__all__ = ["By", "show_spectrum", "spectrum"]

ROWS = "Rows used"


class By(StrEnum):
    """Whose spectra are printed."""

    GROUP = "group"
    CLASS = "class"
    BOTH = "both"


def spectrum(
    stores: Annotated[
        list[Path],
        typer.Argument(help="Feature stores: one, or several seeds, epochs and methods.", show_default=False),
    ],
    k: Annotated[int, typer.Option("--k", "--top", help="Eigenvalues per group.")] = 10,
    by: Annotated[By, typer.Option(help="Whose spectra are printed.")] = By.BOTH,
    split: Annotated[str, typer.Option(help="Rows used: train, val or test.", rich_help_panel=ROWS)] = "train",
    null: Annotated[int, typer.Option(help="Replicates of the size-matched null of ρ(y); 0 for none.")] = 1000,
    interval: Annotated[int, typer.Option(help="Replicates of the interval of ρ at equal sizes; 0 for none.")] = 1000,
    permutations: Annotated[int, typer.Option(help="Replicates of the permutation null; 0 for none.")] = 200,
    diagnostics: Annotated[
        bool, typer.Option(help="Ranks, alignments, margins, overlaps and distances, each with its null range.")
    ] = True,
    heads: Annotated[
        list[Path] | None,
        typer.Option(
            help="Heads that `grobust probe --save` wrote: margins, and ρ(y) against accuracy gaps. Given once for all "
            "stores, or once per store in their order.",
            show_default=False,
        ),
    ] = None,
    head: Annotated[str, typer.Option(help="Name or number of the head to use.")] = "0",
    ddof: Annotated[int, typer.Option(help="0 divides a covariance by n (the paper), 1 by n - 1.")] = 0,
    balance: Annotated[
        BalanceMethod,
        typer.Option(
            help="Use the training rows that this method keeps (the paper's spectra do).", rich_help_panel=ROWS
        ),
    ] = BalanceMethod.NONE,
    balance_by: Annotated[BalanceBy, typer.Option(help="What is balanced.", rich_help_panel=ROWS)] = BalanceBy.CLASS,
    ratio: Ratio = 2.0,
    seed: Annotated[int, typer.Option(help="Seed of the rows kept and of all replicates.")] = 1,
    max_bytes: Annotated[str, typer.Option(help="Memory for matrices and for the rows of a class.")] = "8GiB",
    device: DeviceOption = Device.AUTO,
    figures: Annotated[
        Path | None, typer.Option(help="Folder for figures and their numbers.", show_default=False)
    ] = None,
    records: Records = None,
    json: Json = False,
) -> None:
    """Covariance spectra per group and class, and the intra-class spectral norm ratio ρ(y) with its null.

    ρ(y) is the largest eigenvalue of the class's minority group over that of its majority group. That of a small group
    is too large by sampling alone, so ρ(y) stands beside what groups of these sizes from one population give. Several
    stores are told apart by their names: `seed1`, `epoch10`, `mixture`.

    Examples:

    - `grobust spectrum f.h5 --k 10 --figures figures`

    - `grobust spectrum f.h5 --balance mixture --ratio 2 --seed 1 --json`

    - `grobust spectrum f.h5 --heads heads.safetensors`

    - `grobust spectrum mixture_seed1.h5 mixture_seed2.h5 mixture_seed3.h5 --null 1000`

    - `grobust spectrum seed1.h5 seed2.h5 --heads heads1.safetensors --heads heads2.safetensors`
    """
    from grobust.arrays import resolve_device
    from grobust.experiments.config import SpectrumConfig
    from grobust.experiments.spectra_compared import compare_spectra, draw_spectra
    from grobust.experiments.spectrum import run_spectrum

    configs = [
        SpectrumConfig(
            store=store, split=split, top=k, ddof=ddof, balance=balance, by=balance_by, ratio=ratio, seed=seed,
            null=null, interval=interval, permutations=permutations, diagnostics=50 if diagnostics else None,
            heads=own_heads, head=head, memory_bytes=byte_size(max_bytes, "--max-bytes"), device=resolve_device(device),
            records=records or store.parent / "records.jsonl",
        )
        for store, own_heads in zip(stores, _heads_of(stores, heads or []), strict=True)
    ]  # fmt: skip
    reports = []
    with progress_bar("spectrum") as advance:
        for config in configs:
            reports.append(run_spectrum(config))
            advance(len(reports), len(configs), "stores")
    comparison = compare_spectra(reports)
    files = () if figures is None else draw_spectra(comparison, figures)
    if json:
        content = reports[0].as_dict() if len(reports) == 1 else comparison.as_dict()
        show_json({**content, "figures": [str(file) for file in files]})
        return
    for report in reports:
        show_spectrum(report, groups=by is not By.CLASS, classes=by is not By.GROUP)
    show_comparison(comparison)
    notes = [line for report in reports for line in report.notes]
    note(*dict.fromkeys(notes), *_files(configs, reports[0].device, [str(file) for file in files]))


def _heads_of(stores: list[Path], heads: list[Path]) -> list[Path | None]:
    if len(heads) > 1 and len(heads) != len(stores):
        raise typer.BadParameter(
            f"{len(heads)} files of heads for {len(stores)} stores; give one for all, or one per store in their order.",
            param_hint="--heads",
        )
    return [*heads] if len(heads) > 1 else [heads[0] if heads else None] * len(stores)


def _files(configs: "list[SpectrumConfig]", device: str, figures: list[str]) -> list[str]:
    written = ", ".join(dict.fromkeys(str(config.records) for config in configs))
    lines = [f"device {device}; records appended to {written}"]
    if figures:
        lines.append(f"figures, and their numbers as CSV: {', '.join(figures)}")
    return lines
