"""``grobust spectrum``."""

from typing import TYPE_CHECKING, Annotated

import typer

from grobust.settings import BalanceBy, BalanceMethod
from grobust_cli._options import By, Device, DeviceOption, Json, Ratio, Records, Store
from grobust_cli._output import note, number, show_json, show_table

if TYPE_CHECKING:
    from grobust.experiments.spectrum import SpectrumReport

__all__ = ["show_spectrum", "spectrum"]


def spectrum(
    store: Store,
    split: Annotated[str, typer.Option(help="Rows used: train, val or test.")] = "train",
    top: Annotated[int, typer.Option(help="Eigenvalues per group.")] = 10,
    ddof: Annotated[int, typer.Option(help="0 divides a covariance by n (the paper), 1 by n - 1.")] = 0,
    balance: Annotated[
        BalanceMethod, typer.Option(help="Use the training rows that this method keeps (the paper's spectra do).")
    ] = BalanceMethod.NONE,
    by: By = BalanceBy.CLASS,
    ratio: Ratio = 2.0,
    seed: Annotated[int, typer.Option(help="Seed of the rows kept.")] = 1,
    device: DeviceOption = Device.AUTO,
    records: Records = None,
    json: Json = False,
) -> None:
    """Covariance spectra per group and class, and the intra-class spectral norm ratio ρ(y).

    ρ(y) is the largest eigenvalue of the class's minority group over that of its majority group.

    Examples:

    - `grobust spectrum f.h5 --top 10`

    - `grobust spectrum f.h5 --balance mixture --ratio 2 --seed 1 --json`
    """
    from grobust.arrays import resolve_device
    from grobust.experiments.config import SpectrumConfig
    from grobust.experiments.spectrum import run_spectrum

    config = SpectrumConfig(
        store=store,
        split=split,
        top=top,
        ddof=ddof,
        balance=balance,
        by=by,
        ratio=ratio,
        seed=seed,
        device=resolve_device(device),
        records=records or store.parent / "records.jsonl",
    )
    report = run_spectrum(config)
    if json:
        show_json(report.as_dict())
    else:
        show_spectrum(report)
        note(*report.notes, f"device {report.device}; record appended to {config.records}")


def show_spectrum(report: "SpectrumReport") -> None:
    """Print the spectra of groups and classes and the table of ratios."""
    result = report.as_dict()
    top = min(5, report.config.top)
    columns = ["", "n", "minority", *(f"λ{i + 1}" for i in range(top)), "trace", "effective rank"]
    rows = [
        [
            row["name"], str(row["n"]), "*" if row.get("minority") else "",
            *(number(v) for v in row["eigenvalues"][:top]), number(row["trace"]), number(row["effective_rank"]),
        ]
        for row in [*result["groups"], *({**r, "name": f"class {r['name']}"} for r in result["classes"])]
    ]  # fmt: skip
    divisor = "n" if report.config.ddof == 0 else "n − 1"
    title = f"{result['dataset']}, {result['backbone']}: covariance spectra on {result['split']}, divided by {divisor}"
    show_table(title, columns, rows)
    ratio_rows = [
        [
            r["class_name"],
            number(r["rho"]),
            number(r["trace_ratio"]),
            _group(r, "minority"),
            _group(r, "majority"),
            r["note"],
        ]
        for r in result["norm_ratios"]
    ]
    columns = ["class", "ρ(y)", "trace ratio", "minority group (n)", "majority group (n)", "note"]
    show_table("intra-class spectral norm ratio", columns, ratio_rows)


def _group(ratio: dict[str, object], which: str) -> str:
    name = ratio[which]
    return "–" if name is None else f"{name} ({ratio[f'n_{which}']})"
