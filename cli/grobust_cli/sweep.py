"""``grobust sweep``."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from grobust.errors import ConfigError
from grobust_cli._options import Device, DeviceOption, Json
from grobust_cli._output import note, progress_bar, show_json
from grobust_cli._sweep_tables import show_grids, show_plan, show_sweep

if TYPE_CHECKING:
    from grobust.experiments.sweep.schedule import SweepProgress

__all__ = ["sweep"]

FAILED = 1


def sweep(
    grid: Annotated[
        str | None,
        typer.Argument(
            help="A grid file, or the name of one that comes with grobust; those without it.", show_default=False
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the sweep. Default: sweeps/NAME.", show_default=False)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A variable of the grid; repeatable.", metavar="NAME=VALUE", show_default=False),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="A section of the grid, and what it reads; repeatable.", metavar="SECTION", show_default=False
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print steps and cells and what exists; do nothing.")
    ] = False,
    engine: Annotated[str, typer.Option(help="`local` (processes of this machine) or `ray` (extra `ray`).")] = "local",
    jobs: Annotated[
        int | None, typer.Option(help="Steps at the same time. Default: one per GPU, or 1.", show_default=False)
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster to use, such as `auto`. Default: one of its own.", show_default=False),
    ] = None,
    step_cpus: Annotated[int, typer.Option(help="Cores that a step asks Ray for.")] = 1,
    device: DeviceOption = Device.AUTO,
    json: Json = False,
) -> None:
    """Do everything that a grid file declares, each step once: extract, finetune, probe, trajectory and spectrum.

    Features are shared by all that read them, and heads of one store are solved together. What is finished is known by
    content (settings, data, weights), never by name, and not done again; what failed is tried again. The same command
    continues a sweep that was stopped or killed, and several machines may run it in one shared folder. Exit code 1 says
    that steps failed.

    Examples:

    - `grobust sweep quick`

    - `grobust sweep paper-waterbirds --set data_dir=D --dry-run`

    - `grobust sweep my-grid.toml --jobs 4 --out sweeps/mine`

    - `grobust sweep paper-celeba --set data_dir=D --only networks --engine ray --address auto`
    """
    if grid is None:
        show_grids(json=json)
        return
    from grobust.experiments.sweep.config import EngineName, SweepConfig
    from grobust.experiments.sweep.run import plan_sweep, run_sweep

    if engine not in tuple(EngineName):
        raise ConfigError(f"--engine must be one of {', '.join(EngineName)}; got {engine!r}.")
    config = SweepConfig(
        grid=grid, out=out, variables=_variables(set_ or []), only=tuple(only or ()), engine=EngineName(engine),
        jobs=jobs, device=str(device), address=address, step_cpus=step_cpus,
    )  # fmt: skip
    if dry_run:
        plan = plan_sweep(config)
        if json:
            show_json(plan.as_dict())
        else:
            show_plan(plan)
        return
    with progress_bar("sweep") as advance:
        report = run_sweep(config, on_progress=_shown(advance))
    if json:
        show_json(report.as_dict())
    else:
        show_sweep(report)
    if report.failures:
        raise typer.Exit(FAILED)


def _shown(advance: Callable[[int, int, str], None]) -> Callable[["SweepProgress"], None]:
    def shown(at: "SweepProgress") -> None:
        if at.message is not None:
            note(at.message)
        left = "" if at.seconds_left is None else f" about {_duration(at.seconds_left)} left"
        running = "; ".join(label + ("" if share is None else f" {share:.0%}") for label, share in at.running)
        advance(at.cells_done, at.cells, f"cells, {at.steps_left} steps{left} {running}")

    return shown


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _variables(options: list[str]) -> dict[str, Any]:
    """``NAME=VALUE``; the value as TOML has it, or else as text."""
    found: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (equals and name.strip()):
            raise ConfigError(f"--set expects NAME=VALUE, such as data_dir=waterbirds; got {option!r}.")
        try:
            found[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name.strip()] = value
    return found
